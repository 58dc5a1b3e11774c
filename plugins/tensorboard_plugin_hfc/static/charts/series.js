// One series on a canvas: its line, band and marks, smoothed and thinned.

import { ROUND } from "./colors.js";

const APART = 90; // pixels between the marks of a line of many points

/** Save, and draw no farther than `room` outside a box. */
export function within(context, box, room) {
  context.save();
  context.beginPath();
  context.rect(box.left - room, box.top - room, box.wide + 2 * room, box.high + 2 * room);
  context.clip();
}

/**
 * The indices of a line that its picture needs: of those on one column of pixels the first, the last and
 * both extremes. The picture is the same, so no extreme is ever hidden.
 */
export function thinned(xs, ys, x) {
  const kept = [];
  let [column, first, last, low, high] = [NaN, 0, -1, 0, 0];
  const close = () => last >= 0 && kept.push(...[...new Set([first, low, high, last])].sort((a, b) => a - b));
  for (let k = 0; k < xs.length; k++) {
    const here = Math.floor(x(xs[k]));
    if (here !== column || !Number.isFinite(ys[k])) {
      close();
      [column, first, low, high] = [Number.isFinite(ys[k]) ? here : NaN, k, k, k];
    }
    last = k;
    if (ys[k] < ys[low]) low = k;
    if (ys[k] > ys[high]) high = k;
  }
  close();
  return kept;
}

/** TensorBoard's smoothing: the exponential moving average, corrected for its beginning at 0. */
export function smoothed(ys, weight) {
  let [sum, count] = [0, 0];
  return Array.from(ys, (value) => {
    if (!Number.isFinite(value)) return NaN;
    sum = sum * weight + (1 - weight) * value;
    count += 1;
    return sum / (1 - weight ** count);
  });
}

export function path(context, xs, ys, x, y) {
  context.beginPath();
  let open = false;
  for (const k of thinned(xs, ys, x)) {
    const [left, top] = [x(xs[k]), y(ys[k])];
    const here = Number.isFinite(left) && Number.isFinite(top);
    if (here && open) context.lineTo(left, top);
    else if (here) context.moveTo(left, top);
    open = here;
  }
  context.stroke();
}

const outlines = new Map(); // shape → Path2D

/** The mark of a line, round unless it says otherwise; hollow if the line is dashed. */
export function mark(context, x, y, { color, dash, shape = ROUND }, theme) {
  if (!outlines.has(shape)) outlines.set(shape, new Path2D(shape));
  const size = shape === ROUND ? 3 : 3.6;
  context.save();
  context.translate(x, y);
  context.scale(size, size);
  context.strokeStyle = color ?? theme.text;
  context.fillStyle = dash ? theme.background : context.strokeStyle;
  context.lineWidth = 1.5 / size;
  context.fill(outlines.get(shape));
  context.stroke(outlines.get(shape));
  context.restore();
}

/** Marks of a line: at all its points, or if they are dense every so many pixels, each at a point. */
export function marks(context, line, x, y, theme) {
  const sparse = !line.points && line.x.length > 1;
  let free = sparse ? x(line.x[0]) + APART / 2 : -Infinity;
  line.x.forEach((value, k) => {
    const [left, top] = [x(value), y(line.y[k])];
    if (left < free || !Number.isFinite(left + top)) return;
    mark(context, left, top, line, theme);
    free = left + (sparse ? APART : 9);
  });
}

/** The band between low and high, in as many pieces as NaN makes of it; as wide as its widest on each column of pixels. */
export function band(context, line, x, y) {
  let edge = []; // [x, low, high] of the piece under way, a column each
  let column = NaN;
  const fill = () => {
    context.beginPath();
    for (const [left, , high] of edge) context.lineTo(left, y(high));
    for (const [left, low] of edge.reverse()) context.lineTo(left, y(low));
    context.fill();
    edge = [];
  };
  line.x.forEach((value, k) => {
    const [left, low, high] = [x(value), line.low[k], line.high[k]];
    if (!Number.isFinite(left + y(low) + y(high))) return fill();
    const last = edge.at(-1);
    if (last && Math.floor(left) === column) [last[1], last[2]] = [Math.min(last[1], low), Math.max(last[2], high)];
    else edge.push([left, low, high]);
    column = Math.floor(left);
  });
  fill();
}
