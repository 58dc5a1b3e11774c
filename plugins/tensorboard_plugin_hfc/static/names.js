// Names of runs, short enough for a list and still different. Pure: no page, no network.

/** Which names a search finds: a regular expression, or while it is none, a part of the name. */
export function matching(names, search) {
  let fits = (name) => name.toLowerCase().includes(search.toLowerCase());
  try {
    const pattern = new RegExp(search, "i");
    fits = (name) => pattern.test(name);
  } catch {
    // Half typed, such as "run(": looked for as it is.
  }
  return names.filter(fits);
}

/** The part up to a separator that all names begin with; "" for fewer than two. */
export function commonPrefix(names) {
  if (names.length < 2) return "";
  let end = 0;
  while (end < names[0].length && names.every((name) => name[end] === names[0][end])) end++;
  return names[0].slice(0, Math.max(...["/", "_", "-", "."].map((one) => names[0].slice(0, end).lastIndexOf(one) + 1)));
}

let [known, start] = [[], 0]; // the runs, and how many letters all of their names begin with
const briefs = new Map();

/** The runs there are: their common beginning is left out on plots, as in the list. */
export function nameRuns(names) {
  if (names.length === known.length && names.every((name) => known.includes(name))) return;
  start = commonPrefix(names).length;
  known = [...names].sort((one, two) => two.length - one.length);
  briefs.clear();
}

/** A text with the names of runs in it as the list has them. */
export function brief(text) {
  if (!start || !text) return text;
  if (!briefs.has(text)) briefs.set(text, known.reduce((said, name) => said.replaceAll(name, name.slice(start) || name), text));
  return briefs.get(text);
}

/** A text shortened to a number of letters; what is left out is in the middle, where names differ least. */
export function shortened(text, most) {
  if (text.length <= most) return text;
  const begin = Math.ceil((most - 1) / 2);
  return `${text.slice(0, begin)}…${text.slice(text.length - (most - 1 - begin))}`;
}

/** Runs whose names end in "seed3" or "s3" and differ in that alone: [[name, runs], …], in order. */
export function seeds(names) {
  const groups = new Map();
  for (const name of names) {
    const stem = name.replace(/[\W_]*(?:seed|(?<![a-z0-9])s)[\W_]*\d+$/i, "") || name;
    groups.set(stem, [...(groups.get(stem) ?? []), name]);
  }
  return [...groups];
}
