// What two runs' curves say, in numbers and in words. Pure: no page, no network.

import { discordant, independent, paired } from "./charts/intervals.js";

/**
 * Compare one curve of two runs over the places that both have.
 *
 * @param a, b {keys, y, low, high, bits(k)}: keys are epochs or steps, increasing; bits, where
 *   known, are the packed outcomes of the k-th place by image, and {count} how many
 * @param together whether the two runs saw the same images
 * @param until the last key to look at
 * @returns null without a common place, else {key, a, b: [value, low, high], difference, interval:
 *   of the difference, or null, paired: whether it is image by image, differs: whether it excludes 0
 *   at the last common place, since: the key from which it has done so, the same way round, at
 *   every common place, always: whether that is the first one}
 */
export function compare(a, b, together = false, until = Infinity) {
  // From the latest place back, since most of them are not looked at.
  const known = (curve, k) => Number.isFinite(curve.y[k]);
  function* common() {
    let [k, m] = [a.keys.length - 1, b.keys.length - 1];
    while (k >= 0 && m >= 0) {
      const key = a.keys[k];
      if (key === b.keys[m] && key <= until && known(a, k) && known(b, m)) yield { key, k, m };
      if (key >= b.keys[m]) k--;
      if (key <= b.keys[m]) m--;
    }
  }
  const places = common();
  const last = places.next().value;
  if (!last) return null;
  const three = (curve, k) => [curve.y[k], curve.low?.[k] ?? NaN, curve.high?.[k] ?? NaN];
  const judge = ({ k, m }) => {
    const bits = together && [a.bits?.(k), b.bits?.(m)];
    const pairs = bits && bits[0] && bits[1] && bits[0].count === bits[1].count;
    const interval = pairs
      ? paired(...discordant(bits[0].packed, bits[1].packed), bits[0].count)
      : independent(three(a, k), three(b, m));
    return { interval, paired: Boolean(pairs), side: interval?.[0] > 0 ? 1 : interval?.[1] < 0 ? -1 : 0 };
  };
  const now = judge(last);
  let [since, always] = [now.side ? last.key : null, now.side !== 0];
  for (const place of now.side ? places : []) {
    always = judge(place).side === now.side;
    if (!always) break;
    since = place.key;
  }
  return {
    key: last.key,
    a: three(a, last.k),
    b: three(b, last.m),
    difference: a.y[last.k] - b.y[last.m],
    interval: now.interval,
    paired: now.paired,
    differs: now.side !== 0,
    since,
    always,
  };
}

const share = ([value, low, high]) => {
  const one = (number) => (100 * number).toFixed(0);
  return `${one(value)} %${Number.isFinite(low) ? ` [${one(low)}, ${one(high)}]` : ""}`;
};

const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;

/** "+6.8 [+1.6, +12.0] points". */
export function points(value, interval) {
  return `${signed(value)}${interval ? ` [${interval.map(signed).join(", ")}]` : ""} points`;
}

/** Said instead of a verdict if a run's accuracy on the original images may be a guess's. */
export function guessing(name, original, chance) {
  if (!Number.isFinite(chance) || !(original?.[1] <= chance)) return "";
  return (
    `${name} gets ${share(original)} of the original images right, which is not above chance ` +
    `(${share([chance])}): nothing is said about frequencies. Check weights, labels and normalisation.`
  );
}

/**
 * The answer to "which run uses more HFC, at which radius, and since when?".
 *
 * @param names of run A and run B
 * @param rows [{radius, unit, found: compare(…)}] of the HFC curves
 * @param where(key) a place in words, such as "epoch 3"
 */
export function verdict(names, rows, where) {
  const known = rows.filter(({ found }) => found);
  if (!known.length) return `${names[0]} and ${names[1]} have no radius and no place in training in common up to here.`;
  const clear = known.filter(({ found }) => found.differs);
  const at = where(known.at(-1).found.key);
  if (!clear.length) {
    return (
      `At ${at} the 95 % interval of the difference includes 0 at every radius: neither ${names[0]} nor ` +
      `${names[1]} gets measurably more out of the high frequencies.`
    );
  }
  const size = ({ found }) => Math.abs(found.difference);
  const most = clear.reduce((best, row) => (size(row) > size(best) ? row : best));
  const higher = most.found.difference > 0;
  const [winner, loser] = higher ? names : [...names].reverse();
  const { a, b, since, always, difference, interval } = most.found;
  const [high, low] = higher ? [a, b] : [b, a];
  const gap = higher ? interval : interval.map((bound) => -bound).reverse();
  const begin = always ? "from the first measurement on" : `since ${where(since)}`;
  const others = clear.filter((row) => row !== most);
  const way = others.filter(({ found }) => found.difference > 0 === higher);
  const against = others.filter(({ found }) => found.difference > 0 !== higher);
  const list = (some) => some.map(({ radius }) => radius).join(", ");
  let text =
    `${winner} uses more of the high frequencies: at ${at} it gets ${share(high)} right from ` +
    `HFC(${most.radius}) alone (beyond ${most.radius} ${most.unit}), ${loser} ${share(low)}, a difference of ` +
    `${points(Math.abs(difference), gap)}. The interval of the difference has excluded 0 ${begin}.`;
  if (way.length) text += ` The same way round at radius ${list(way)}.`;
  if (against.length) text += ` The other way round at radius ${list(against)}.`;
  return text;
}

/** How many intervals of that many differences would exclude 0 by chance alone. */
export function byChance(count) {
  const expected = 0.05 * count;
  const number = expected < 0.95 ? "less than one" : `about ${expected.toFixed(0)}`;
  return `${count} differences are judged; between equal runs, ${number} of their intervals would exclude 0 by chance.`;
}

const largest = (rows) => rows.reduce((best, row) => (row.gap > best.gap ? row : best));

/**
 * What one run gets from the low and what from the high frequencies, in a sentence.
 *
 * @param told {original: [value, low, high], lfc, hfc: [{radius, all: [value, low, high]}]}
 */
export function reading({ original, lfc, hfc }, unit) {
  const rows = (hfc ?? []).flatMap(({ radius, all }) => {
    const other = lfc?.find((one) => one.radius === radius)?.all;
    if (!other || !Number.isFinite(all[0] + other[0])) return [];
    const side = all[1] > other[2] ? 1 : other[1] > all[2] ? -1 : 0;
    return [{ radius, side, gap: Math.abs(all[0] - other[0]), high: all, low: other }];
  });
  if (!rows.length) return "No radius at which both LFC and HFC were measured.";
  const radii = (sign) => rows.filter(({ side }) => side === sign).map(({ radius }) => radius);
  const [high, low] = [radii(1), radii(-1)];
  const at = (radius) => {
    const row = rows.find((one) => one.radius === radius);
    return `${share(row.high)} right from HFC(${radius}) alone, ${share(row.low)} from LFC(${radius})`;
  };
  const end = Number.isFinite(original[0]) ? `; ${share([original[0]])} from the original images.` : ".";
  const [last, first] = [Math.max(...high), Math.min(...low)];
  // The radius that leaves the part ahead the least of the spectrum says the most.
  if (high.length && low.length && last < first) {
    return `More from HFC up to r = ${last} ${unit}, more from LFC from r = ${first} on: ${at(last)}; ${at(first)}${end}`;
  }
  if (high.length && low.length) {
    return `More from HFC at r = ${high.join(", ")} ${unit}, more from LFC at r = ${low.join(", ")}: ${at(last)}; ${at(first)}${end}`;
  }
  if (high.length) return `More from the high frequencies: ${at(last)}${end}`;
  if (low.length) return `More from the low frequencies: ${at(first)}${end}`;
  return `No clear difference between LFC and HFC: ${at(largest(rows).radius)}${end}`;
}

/** The largest changes of LFC and HFC accuracy since the start. */
export function change(before, after, start) {
  const of = (part) => {
    const rows = (after[part] ?? []).flatMap(({ radius, all }) => {
      const then = before[part]?.find((one) => one.radius === radius)?.all;
      return then && Number.isFinite(all[0] + then[0]) ? [{ radius, then, all, gap: Math.abs(all[0] - then[0]) }] : [];
    });
    if (!rows.length) return "";
    const { radius, then, all } = largest(rows);
    return `${part.toUpperCase()}(${radius}) ${share([then[0]])} → ${share([all[0]])}`;
  };
  const found = [of("hfc"), of("lfc")].filter(Boolean);
  return found.length ? `Since ${start}, at the radius that has changed most: ${found.join("; ")}.` : "";
}

/**
 * Of the differences between several runs, the largest whose interval excludes 0.
 *
 * @param rows [{part, radius, unit, at, names, found: compare(…)}]
 * @param count of the runs above chance
 * @param compared how many of them the rows are of
 * @param left the runs that are not compared, each with the reason
 */
export function outstanding(rows, count, compared, left) {
  const rest = left.length ? ` Not compared: ${left.join("; ")}.` : "";
  if (count < 2) return `Fewer than two of the chosen runs have LFC and HFC accuracies above chance: nothing to compare.${rest}`;
  if (!rows.length) return "No two of the chosen runs have measured the same quantity at the same place in training.";
  const clear = rows.filter(({ found }) => found.differs);
  if (!clear.length) return `The ${compared} runs do not clearly differ: the 95 % intervals of their largest differences include 0 at every radius.${rest}`;
  const { part, radius, unit, at, names, found } = largest(clear.map((row) => ({ ...row, gap: Math.abs(row.found.difference) })));
  const which = part === "hfc" ? `high frequencies, beyond ${radius} ${unit}` : `low frequencies, up to ${radius} ${unit}`;
  return (
    `The largest difference ${compared > 2 ? `between ${compared} runs ` : ""}is in ${part.toUpperCase()}(${radius}) (${which}): at ${at} ${names[0]} gets ` +
    `${share(found.a)} right, ${names[1]} ${share(found.b)}, a difference of ${points(found.difference, found.interval)}.${rest}`
  );
}
