// Line charts in panels that share their axes: curves with bands, a legend, hover and zoom.

import { bounds, logTicks, tick, ticks } from "./axes.js";
import { FONT } from "./colors.js";
import { brief, shortened } from "../names.js";
import { figures } from "./cards.js";
import { band, mark, marks, path, smoothed, within } from "./series.js";

const [LEFT, RIGHT, TOP, BOTTOM, GAP] = [52, 20, 26, 44, 28];
const NEAREST = 12; // lines named in a tip

/** Text shortened until it fits. */
export function fit(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  let [low, high] = [0, text.length];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}

/** A text with a run's name in it as the list has it, shortened in the middle until it fits. */
export function fitName(context, whole, width) {
  const text = brief(whole);
  let most = text.length;
  while (most > 3 && context.measureText(shortened(text, most)).width > width) most--;
  return shortened(text, most);
}

export function title(context, text, x, width, theme) {
  context.font = `600 14px ${FONT}`;
  context.fillStyle = theme.text;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(fit(context, brief(text), width), x, 18);
  context.font = `12px ${FONT}`;
}

/**
 * A plot for a Card.
 *
 * @param spec {title, label, panels: [{title, series: [{name, x, y, low, high, count, color, dash, shape,
 *   points, keys, bare (its interval is only said)}], lines: [{y, text, color, key}], under(context, x, y) draws below the lines}], legend: [{name, key, color,
 *   dash, shape, points, patch}], xLabel, yLabel, yRange, xTicks, columns (at most), panelHeight, value(v, low, high, count),
 *   xText(x), marker (an x), smoothing (weight of the past)}. A legend's entry hides the series that have its
 *   key, by default its name, among theirs.
 * @param memory keeps the zoom, the axes' kind and what is hidden while the plot is made anew
 */
export function lines(spec, memory = {}) {
  const hidden = (memory.hidden ??= new Set());
  const log = (memory.log ??= { x: false, y: false });
  const keysOf = (line) => line.keys ?? [line.name];
  const smoothing = spec.smoothing || 0;
  const panels = spec.panels.map((panel) => ({
    ...panel,
    series: panel.series
      .filter((line) => !keysOf(line).some((key) => hidden.has(key)))
      .map((line) => (smoothing && line.x.length > 2 ? { ...line, smooth: smoothed(line.y, smoothing) } : line)),
    lines: (panel.lines ?? []).filter(({ key }) => !hidden.has(key)),
  }));
  const known = new Set(spec.panels.flatMap((panel) => [...panel.series.flatMap(keysOf), ...(panel.lines ?? []).map(({ key }) => key)]));
  const legend = (spec.legend ?? []).map((item) => ({ ...item, key: item.key ?? item.name })).map((item) => ({ ...item, off: hidden.has(item.key) }));
  const whole = { x: bounds(panels, "x", log.x), y: spec.yRange && !log.y ? spec.yRange : bounds(panels, "y", log.y) };
  /** What is zoomed to; on a logarithmic axis without what a linear one had at 0 and below. */
  function xs() {
    const [low, high] = memory.zoom ?? whole.x;
    if (!log.x || low > 0) return [low, high];
    return high > whole.x[0] ? [whole.x[0], high] : whole.x;
  }
  const ys = whole.y;
  const say = spec.value ?? ((value) => figures(value));
  const xText = spec.xText ?? ((x) => `${spec.xLabel} ${figures(x)}`);
  let filled = 0; // the height to fill, if not a panel's own

  function columns(width) {
    const least = Math.min(spec.columns ?? 99, panels.length);
    const most = Math.max(1, Math.min(least, Math.floor(width / 300)));
    return Math.ceil(panels.length / Math.ceil(panels.length / most)); // rows about equally full
  }

  let laid = { width: NaN }; // the legend's rows at a width
  function legendRows(width) {
    if (laid.width === width) return laid.rows;
    const rows = [[]];
    let x = 0;
    const context = document.createElement("canvas").getContext("2d");
    context.font = `12px ${FONT}`;
    for (const item of legend) {
      const wide = Math.min(width, 34 + context.measureText(brief(item.name)).width + 16);
      if (x + wide > width && rows.at(-1).length) {
        rows.push([]);
        x = 0;
      }
      rows.at(-1).push({ ...item, at: x, wide });
      x += wide;
    }
    laid = { width, rows: rows[0].length ? rows : [] };
    return laid.rows;
  }

  const headHeight = (width) => 28 + 20 * legendRows(width - LEFT).length;
  const above = panels.some((panel) => panel.title) ? TOP : 8;
  const rowCount = (width) => Math.ceil(panels.length / columns(width));
  const panelHeight = (width) => Math.max(spec.panelHeight ?? 230, (filled - headHeight(width)) / rowCount(width) - BOTTOM - above);

  function boxes(width) {
    const count = columns(width);
    const wide = (width - LEFT - RIGHT - (count - 1) * GAP) / count;
    const [head, high] = [headHeight(width), panelHeight(width)];
    return panels.map((panel, k) => ({
      panel,
      first: k % count === 0,
      left: LEFT + (k % count) * (wide + GAP),
      top: head + Math.floor(k / count) * (high + BOTTOM + above) + above,
      wide,
      high,
    }));
  }

  function scale(box) {
    const along = (isLog) => (isLog ? Math.log : Number);
    const [a, b] = [along(log.x), along(log.y)];
    const [[x0, x1], [y0, y1]] = [xs().map(a), ys.map(b)];
    const back = (place) => x0 + ((place - box.left) / box.wide) * (x1 - x0);
    return {
      x: (value) => box.left + ((a(value) - x0) / (x1 - x0)) * box.wide,
      y: (value) => box.top + box.high - ((b(value) - y0) / (y1 - y0)) * box.high,
      back: (place) => (log.x ? Math.exp(back(place)) : back(place)),
    };
  }

  function frame(context, box, theme) {
    const { x, y } = scale(box);
    const [x0, x1] = xs();
    const across = spec.xTicks?.length && spec.xTicks.length <= box.wide / 34 ? spec.xTicks : null;
    context.strokeStyle = theme.grid;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    for (const value of (log.y ? logTicks : ticks)(...ys, box.high / 48)) {
      context.beginPath();
      context.moveTo(box.left, Math.round(y(value)) + 0.5);
      context.lineTo(box.left + box.wide, Math.round(y(value)) + 0.5);
      context.stroke();
      if (box.first) {
        context.fillStyle = theme.muted;
        context.textAlign = "right";
        context.fillText(tick(value), box.left - 6, y(value));
      }
    }
    context.strokeStyle = theme.axis;
    context.beginPath();
    context.moveTo(box.left + 0.5, box.top);
    context.lineTo(box.left + 0.5, box.top + box.high + 0.5);
    context.lineTo(box.left + box.wide, box.top + box.high + 0.5);
    context.stroke();
    context.textAlign = "center";
    context.textBaseline = "top";
    context.fillStyle = theme.muted;
    for (const value of across ?? (log.x ? logTicks : ticks)(x0, x1, box.wide / 70)) {
      if (value < x0 || value > x1) continue;
      context.beginPath();
      context.moveTo(x(value), box.top + box.high);
      context.lineTo(x(value), box.top + box.high + 4);
      context.stroke();
      context.fillText(tick(value), x(value), box.top + box.high + 7);
    }
    context.fillStyle = theme.text;
    context.fillText(spec.xLabel + (log.x ? ", logarithmic" : ""), box.left + box.wide / 2, box.top + box.high + 24);
    if (box.first) {
      context.save();
      context.translate(13, box.top + box.high / 2);
      context.rotate(-Math.PI / 2);
      context.textBaseline = "middle";
      context.fillText(fit(context, spec.yLabel + (log.y ? ", logarithmic" : ""), box.high + TOP), 0, 0);
      context.restore();
    }
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    if (box.panel.title) {
      context.font = `600 12px ${FONT}`;
      context.fillText(fitName(context, box.panel.title, box.wide), box.left, box.top - 8);
      context.font = `12px ${FONT}`;
    }
    const lost = box.panel.series.reduce((sum, line) => sum + line.x.filter((value, k) => (log.x && value <= 0) || (log.y && line.y[k] <= 0)).length, 0);
    if (!lost) return;
    context.fillStyle = theme.muted;
    context.textAlign = "right";
    context.fillText(`${lost} point${lost > 1 ? "s" : ""} at 0 or below not drawn`, box.left + box.wide - 3, box.top + box.high - 6);
  }

  /** Names of reference lines, inside the plot and legible over what is drawn there. */
  function names(context, box, y, theme) {
    for (const { text, y: level } of box.panel.lines.filter((line) => line.text)) {
      const below = y(level) - box.top < 16; // no room above the line
      const at = [text, box.left + box.wide - 3, y(level) + (below ? 3 : -2)];
      context.textAlign = "right";
      context.textBaseline = below ? "top" : "bottom";
      context.strokeStyle = theme.background;
      context.lineWidth = 3;
      context.globalAlpha = 0.7;
      context.strokeText(...at); // legible over lines, which still show
      context.globalAlpha = 1;
      context.fillStyle = theme.muted;
      context.fillText(...at);
    }
  }

  function draw(context, width, height, theme) {
    title(context, spec.title, 0, width, theme);
    legendRows(width - LEFT).forEach((row, k) => {
      for (const item of row) {
        const [x, y] = [LEFT + item.at, 36 + 20 * k];
        context.globalAlpha = item.off ? 0.35 : 1;
        context.strokeStyle = item.color ?? theme.text;
        context.lineWidth = 2;
        context.setLineDash(item.dash ?? []);
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(x + 26, y);
        if (item.patch) context.lineWidth = 12; // an area's
        context.stroke();
        context.setLineDash([]);
        if (item.points || item.shape) mark(context, x + 13, y, item, theme);
        context.fillStyle = theme.text;
        context.textAlign = "left";
        context.textBaseline = "middle";
        context.fillText(fitName(context, item.name, item.wide - 46), x + 32, y);
        context.globalAlpha = 1;
      }
    });
    for (const box of boxes(width)) {
      frame(context, box, theme);
      const { x, y } = scale(box);
      within(context, box, 0);
      box.panel.under?.(context, x, y, theme);
      context.restore();
      within(context, box, 4); // marks at the edge are whole
      for (const line of box.panel.series) {
        if (!line.low || !line.high || line.bare || spec.bands === false) continue;
        context.fillStyle = line.color ?? theme.text;
        context.globalAlpha = theme.dark ? 0.2 : 0.14;
        band(context, line, x, y);
        context.globalAlpha = 1;
      }
      for (const reference of box.panel.lines) {
        context.strokeStyle = reference.color ?? theme.muted;
        context.lineWidth = 1;
        context.setLineDash([1, 3]);
        context.beginPath();
        context.moveTo(box.left, y(reference.y));
        context.lineTo(box.left + box.wide, y(reference.y));
        context.stroke();
        context.setLineDash([]);
      }
      for (const line of box.panel.series) {
        context.strokeStyle = line.color ?? theme.text;
        if (line.smooth) {
          context.globalAlpha = 0.3; // as it was measured
          context.lineWidth = 1;
          path(context, line.x, line.y, x, y);
          context.globalAlpha = 1;
        }
        context.lineWidth = line.width ?? (line.x.length > box.wide && !line.smooth ? 1 : 2);
        context.setLineDash(line.dash ?? []);
        path(context, line.x, line.smooth ?? line.y, x, y);
        context.setLineDash([]);
        if (line.x.length === 1 && line.low && line.high && spec.bands !== false) {
          context.lineWidth = 1;
          context.beginPath(); // the band of one step
          context.moveTo(x(line.x[0]), y(line.low[0]));
          context.lineTo(x(line.x[0]), y(line.high[0]));
          context.stroke();
        }
        if (line.points || line.shape || line.x.length === 1) marks(context, { ...line, y: line.smooth ?? line.y }, x, y, theme);
      }
      names(context, box, y, theme);
      context.restore();
    }
  }

  /** Where the slider stands, over the picture. */
  function point(context, width, theme) {
    const [low, high] = xs();
    if (spec.marker == null || spec.marker < low || spec.marker > high) return;
    context.strokeStyle = theme.axis;
    context.lineWidth = 1;
    for (const box of boxes(width)) {
      const x = scale(box).x(spec.marker);
      context.beginPath();
      context.moveTo(x, box.top);
      context.lineTo(x, box.top + box.high);
      context.stroke();
    }
  }

  function boxAt(px, py, width) {
    return boxes(width).find(
      (box) =>
        px >= box.left - 6 && px <= box.left + box.wide + 6 && py >= box.top - 4 && py <= box.top + box.high + 4,
    );
  }

  function probe(px, py, width) {
    const box = boxAt(px, py, width);
    if (!box) return null;
    const { x, y, back } = scale(box);
    let nearest = null;
    for (const line of box.panel.series) {
      for (const value of line.x) {
        const gap = Math.abs(x(value) - px);
        if (nearest === null || gap < nearest.gap) nearest = { gap, value };
      }
    }
    if (nearest === null || !Number.isFinite(back(px))) return null;
    const found = [];
    for (const line of box.panel.series) {
      const k = line.x.indexOf(nearest.value);
      if (k < 0 || !Number.isFinite(line.y[k])) continue;
      const counts = [line.y[k], line.low?.[k], line.high?.[k], line.count?.[k]];
      const text = say(...counts) + (line.smooth ? `, smoothed ${say(line.smooth[k])}` : "");
      const level = (line.smooth ?? line.y)[k];
      found.push({ gap: Math.abs(y(level) - py), y: level, line, text });
    }
    found.sort((a, b) => a.gap - b.gap);
    const shown = found.slice(0, NEAREST).sort((a, b) => b.y - a.y);
    const rows = shown.map(({ line, text }) => ({ value: text, text: line.name, color: line.color, dash: line.dash }));
    if (found.length > shown.length) rows.push({ text: `and ${found.length - shown.length} lines farther off` });
    const where = box.panel.title ? `${box.panel.title}, ` : "";
    // The cursor stands at the same place in every panel.
    const marked = boxes(width).map((one) => [scale(one).x(nearest.value), one.top, 0, one.high]);
    return { title: where + xText(nearest.value), lines: rows, marks: marked, at: nearest.value, pointer: Boolean(spec.click) };
  }

  function zoom(drag, width) {
    if (drag === null) {
      memory.zoom = null;
      return;
    }
    const [[from, y], [to]] = drag;
    const box = boxAt(from, y, width);
    if (!box) return;
    const { back } = scale(box);
    const [low, high] = [back(Math.min(from, to)), back(Math.max(from, to))];
    if (high > low) memory.zoom = [low, high];
  }

  function click(px, py, width) {
    const found = probe(px, py, width);
    if (found && spec.click) spec.click(found.at);
  }

  function rows() {
    const heads = ["panel", "line", spec.xLabel, spec.yLabel, "lower", "upper", "count", ...(smoothing ? ["smoothed"] : [])];
    const out = [heads];
    for (const panel of panels) {
      for (const line of panel.series) {
        line.x.forEach((value, k) => out.push([panel.title ?? "", line.name, value, line.y[k], line.low?.[k], line.high?.[k], line.count?.[k], line.smooth?.[k]]));
      }
    }
    return out;
  }

  return {
    label: spec.label ?? spec.title,
    height: (width) => headHeight(width) + rowCount(width) * (panelHeight(width) + BOTTOM + above),
    fill: (height) => (filled = height),
    draw,
    point: spec.marker == null ? undefined : point,
    moveTo: (marker) => (spec.marker = marker),
    probe,
    zoom,
    zoomed: () => Boolean(memory.zoom),
    click: spec.click && click,
    rows,
    log,
    /** The legend's entries that hide something: [{name, off, place, toggle()}]. */
    legend: (width) =>
      legendRows(width - LEFT).flatMap((row, k) =>
        row
          .filter(({ key }) => known.has(key))
          .map(({ name, key, off, at, wide }) => ({
            name,
            off,
            place: [LEFT + at - 4, 27 + 20 * k, wide - 6, 18],
            toggle: () => (off ? hidden.delete(key) : hidden.add(key)),
          })),
      ),
  };
}
