// What two runs' curves say, in numbers and in words. Pure: no page, no network.

/**
 * Compare one curve of two runs over the places that both have.
 *
 * @param a, b {keys, y, low, high}: keys are epochs or steps, increasing
 * @returns null without a common place, else {key, k, a, b: [value, low, high], difference, apart:
 *   whether the intervals are apart at the last common place, since: the key from which they
 *   have been apart, the same way round, at every common place}
 */
export function compare(a, b) {
  const placeB = new Map(b.keys.map((key, k) => [key, k]));
  const common = a.keys.map((key, k) => [key, k, placeB.get(key)]).filter(([, , k]) => k !== undefined);
  const sides = common
    .map(([key, k, m]) => ({ key, k, m, side: side(a, k, b, m) }))
    .filter(({ k, m }) => Number.isFinite(a.y[k]) && Number.isFinite(b.y[m]));
  if (!sides.length) return null;
  const last = sides.at(-1);
  let since = null;
  for (let n = sides.length - 1; n >= 0 && last.side !== 0 && sides[n].side === last.side; n--) {
    since = sides[n];
  }
  const three = (curve, k) => [curve.y[k], curve.low?.[k] ?? NaN, curve.high?.[k] ?? NaN];
  return {
    key: last.key,
    a: three(a, last.k),
    b: three(b, last.m),
    difference: a.y[last.k] - b.y[last.m],
    apart: last.side !== 0,
    since: since && since.key,
    always: since === sides[0],
  };
}

/** 1 where a's interval lies above b's, −1 below, 0 where they overlap or are unknown. */
function side(a, k, b, m) {
  if (a.low?.[k] > b.high?.[m]) return 1;
  if (a.high?.[k] < b.low?.[m]) return -1;
  return 0;
}

const share = ([value, low, high]) => {
  const one = (number) => (100 * number).toFixed(0);
  return `${one(value)} %${Number.isFinite(low) ? ` [${one(low)}, ${one(high)}]` : ""}`;
};

/**
 * The answer to "which run uses more HFC, at which radius, and since when?".
 *
 * @param names of run A and run B
 * @param rows [{radius, unit, found: compare(…)}] of the HFC curves
 * @param where(key) a place in words, such as "epoch 3"
 */
export function verdict(names, rows, where) {
  const known = rows.filter(({ found }) => found);
  if (!known.length) return "The two runs have no radius and no place in training in common.";
  const apart = known.filter(({ found }) => found.apart);
  const at = where(known.at(-1).found.key);
  if (!apart.length) {
    return (
      `At ${at} the 95 % intervals of the two runs overlap at every radius: neither run gets ` +
      "measurably more out of the high frequencies."
    );
  }
  const size = ({ found }) => Math.abs(found.difference);
  const most = apart.reduce((best, row) => (size(row) > size(best) ? row : best));
  const higher = most.found.difference > 0;
  const [winner, loser] = higher ? names : [...names].reverse();
  const { a, b, since, always } = most.found;
  const [high, low] = higher ? [a, b] : [b, a];
  const begin = always ? "from the first measurement on" : `since ${where(since)}`;
  const others = apart.filter((row) => row !== most);
  const same = others.filter(({ found }) => found.difference > 0 === higher);
  const against = others.filter(({ found }) => found.difference > 0 !== higher);
  const list = (some) => some.map(({ radius }) => radius).join(", ");
  let text =
    `${winner} uses more of the high frequencies: at ${at} it gets ${share(high)} right from ` +
    `HFC(${most.radius}) alone (beyond ${most.radius} ${most.unit}), ${loser} ${share(low)}. ` +
    `The intervals have been apart ${begin}.`;
  if (same.length) text += ` The same way round at radius ${list(same)}.`;
  if (against.length) text += ` The other way round at radius ${list(against)}.`;
  return text;
}
