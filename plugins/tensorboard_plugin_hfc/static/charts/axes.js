// The numbers along an axis: its bounds and its ticks, linear or logarithmic. Pure: no page, no network.

import { figures } from "./cards.js";

/** Round numbers that cover a range, about `count` of them. */
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= rough * 0.8);
  const out = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    out.push(Number((k * step).toPrecision(12)));
  }
  return out;
}

/** Powers of ten, with 2 and 5 between them if there are few. */
export function logTicks(low, high, count) {
  const powers = Array.from({ length: Math.ceil(Math.log10(high / low)) + 2 }, (_, k) => 10 ** (Math.floor(Math.log10(low)) + k));
  const all = (factors) => powers.flatMap((power) => factors.map((factor) => Number((factor * power).toPrecision(12)))).filter((one) => one >= low && one <= high);
  const fine = all([1, 2, 5]);
  if (fine.length < 2) return ticks(low, high, count).filter((one) => one > 0); // less than a power of ten
  return fine.length <= 2 * count ? fine : all([1]);
}

/** A tick's label, with a minus that is as wide as a plus. */
export function tick(value) {
  return figures(value).replace("-", "−");
}

/** The least and the largest of what panels show; of positive numbers alone on a logarithmic axis. */
export function bounds(panels, key, log = false) {
  let [low, high] = [Infinity, -Infinity];
  for (const { series } of panels) {
    for (const line of series) {
      for (const value of line[key]) {
        if (Number.isFinite(value) && (value > 0 || !log)) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
  }
  if (!(low <= high)) return log ? [0.1, 1] : [0, 1];
  if (low < high) return [low, high];
  const pad = Math.abs(low) * 0.05 || 0.5; // one value: room around it
  return log ? [low / 2, high * 2] : [low - pad, high + pad];
}

/** Round bounds for shares in [0, 1] that hold all that panels show of them. */
export function fitted(panels, bands = true) {
  const shown = panels.flatMap(({ series, lines = [] }) => [
    ...lines.map(({ y }) => y),
    ...series.flatMap(({ y, low, high }) => [y, bands ? [...(low ?? []), ...(high ?? [])] : []].flatMap((list) => Array.from(list))),
  ]).filter(Number.isFinite);
  if (!shown.length) return [0, 1];
  const [least, most] = shown.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [1, 0]);
  const unit = most - least < 0.2 ? 0.05 : 0.1;
  const bounds = [Math.floor(least / unit - 0.1), Math.ceil(most / unit + 0.1)].map((k) => Number((k * unit).toFixed(2)));
  return [Math.max(0, bounds[0]), Math.min(1, bounds[1])];
}

