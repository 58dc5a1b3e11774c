// Line charts in panels that share their axes: curves with bands, a legend, hover and zoom.

import { FONT } from "./colors.js";
import { shortened } from "../names.js";
import { figures } from "./cards.js";

const [LEFT, RIGHT, TOP, BOTTOM, GAP] = [52, 20, 26, 44, 20];
const NEAREST = 12; // lines named in a tip

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

/** A tick's label, with a minus that is as wide as a plus. */
export function tick(value) {
  return figures(value).replace("-", "−");
}

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

/** A run's name shortened in the middle until it fits. */
function fitName(context, text, width) {
  let most = text.length;
  while (most > 3 && context.measureText(shortened(text, most)).width > width) most--;
  return shortened(text, most);
}

export function title(context, text, x, width, theme) {
  context.font = `600 14px ${FONT}`;
  context.fillStyle = theme.text;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  context.fillText(fit(context, text, width), x, 18);
  context.font = `12px ${FONT}`;
}

function bounds(panels, key) {
  let [low, high] = [Infinity, -Infinity];
  for (const { series } of panels) {
    for (const line of series) {
      for (const value of line[key]) {
        if (Number.isFinite(value)) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      }
    }
  }
  if (!(low <= high)) return [0, 1];
  if (low < high) return [low, high];
  const pad = Math.abs(low) * 0.05 || 0.5; // one value: room around it
  return [low - pad, high + pad];
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

/**
 * A plot for a Card.
 *
 * @param spec {title, label, panels: [{title, series: [{name, x, y, low, high, count, color, dash,
 *   points}], lines: [{y, text, color}], under(context, x, y) draws below the lines}], legend: [{name, color, dash, points, patch}], xLabel, yLabel, yRange, xTicks,
 *   columns (at most), panelHeight, value(v, low, high, count), xText(x), marker (an x)}
 * @param memory keeps the zoom while the plot is made anew
 */
export function lines(spec, memory = {}) {
  const panels = spec.panels;
  const xs = () => memory.zoom ?? bounds(panels, "x");
  const ys = spec.yRange ?? bounds(panels, "y");
  const say = spec.value ?? ((value) => figures(value));
  const xText = spec.xText ?? ((x) => `${spec.xLabel} ${figures(x)}`);

  function columns(width) {
    const least = Math.min(spec.columns ?? 99, panels.length);
    const most = Math.max(1, Math.min(least, Math.floor(width / 300)));
    return Math.ceil(panels.length / Math.ceil(panels.length / most)); // rows about equally full
  }

  function legendRows(context, width) {
    const rows = [[]];
    let x = 0;
    context.font = `12px ${FONT}`;
    for (const item of spec.legend ?? []) {
      const wide = Math.min(width, 34 + context.measureText(item.name).width + 16);
      if (x + wide > width && rows.at(-1).length) {
        rows.push([]);
        x = 0;
      }
      rows.at(-1).push({ ...item, at: x, wide });
      x += wide;
    }
    return rows[0].length ? rows : [];
  }

  const measuring = document.createElement("canvas").getContext("2d");
  const headHeight = (width) => 28 + 20 * legendRows(measuring, width - LEFT).length;
  const rowHeight = () => (spec.panelHeight ?? 230) + BOTTOM + (panels.some((p) => p.title) ? TOP : 8);

  function boxes(width) {
    const count = columns(width);
    const wide = (width - LEFT - RIGHT - (count - 1) * GAP) / count;
    const head = headHeight(width);
    const above = rowHeight() - (spec.panelHeight ?? 230) - BOTTOM;
    return panels.map((panel, k) => ({
      panel,
      first: k % count === 0,
      left: LEFT + (k % count) * (wide + GAP),
      top: head + Math.floor(k / count) * rowHeight() + above,
      wide,
      high: spec.panelHeight ?? 230,
    }));
  }

  function scale(box) {
    const [x0, x1] = xs();
    const [y0, y1] = ys;
    return {
      x: (value) => box.left + ((value - x0) / (x1 - x0)) * box.wide,
      y: (value) => box.top + box.high - ((value - y0) / (y1 - y0)) * box.high,
      back: (place) => x0 + ((place - box.left) / box.wide) * (x1 - x0),
    };
  }

  function frame(context, box, theme) {
    const { x, y } = scale(box);
    const [x0, x1] = xs();
    const across = spec.xTicks?.length && spec.xTicks.length <= box.wide / 34 ? spec.xTicks : null;
    context.strokeStyle = theme.grid;
    context.lineWidth = 1;
    context.textBaseline = "middle";
    for (const value of ticks(...ys, box.high / 48)) {
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
    for (const value of across ?? ticks(x0, x1, box.wide / 70)) {
      if (value < x0 || value > x1) continue;
      context.beginPath();
      context.moveTo(x(value), box.top + box.high);
      context.lineTo(x(value), box.top + box.high + 4);
      context.stroke();
      context.fillText(tick(value), x(value), box.top + box.high + 7);
    }
    context.fillStyle = theme.text;
    context.fillText(spec.xLabel, box.left + box.wide / 2, box.top + box.high + 24);
    if (box.first) {
      context.save();
      context.translate(13, box.top + box.high / 2);
      context.rotate(-Math.PI / 2);
      context.textBaseline = "middle";
      context.fillText(fit(context, spec.yLabel, box.high + TOP), 0, 0);
      context.restore();
    }
    if (box.panel.title) {
      context.font = `600 12px ${FONT}`;
      context.textAlign = "left";
      context.textBaseline = "alphabetic";
      context.fillText(fitName(context, box.panel.title, box.wide), box.left, box.top - 8);
      context.font = `12px ${FONT}`;
    }
  }

  function draw(context, width, height, theme) {
    title(context, spec.title, 0, width, theme);
    legendRows(context, width - LEFT).forEach((row, k) => {
      for (const item of row) {
        const [x, y] = [LEFT + item.at, 36 + 20 * k];
        context.strokeStyle = item.color ?? theme.text;
        context.lineWidth = 2;
        context.setLineDash(item.dash ?? []);
        context.beginPath();
        context.moveTo(x, y);
        context.lineTo(x + 26, y);
        if (item.patch) context.lineWidth = 12; // an area's
        context.stroke();
        context.setLineDash([]);
        if (item.points) mark(context, x + 13, y, item, theme);
        context.fillStyle = theme.text;
        context.textAlign = "left";
        context.textBaseline = "middle";
        context.fillText(fitName(context, item.name, item.wide - 46), x + 32, y);
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
        if (!line.low || !line.high || spec.bands === false) continue;
        context.fillStyle = line.color ?? theme.text;
        context.globalAlpha = theme.dark ? 0.2 : 0.14;
        band(context, line, x, y);
        context.globalAlpha = 1;
      }
      for (const reference of box.panel.lines ?? []) {
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
        context.fillStyle = line.color ?? theme.text;
        context.lineWidth = line.width ?? 2;
        context.setLineDash(line.dash ?? []);
        path(context, line, x, y);
        context.setLineDash([]);
        if (line.x.length === 1 && line.low && line.high && spec.bands !== false) {
          context.lineWidth = 1;
          context.beginPath(); // the band of one step
          context.moveTo(x(line.x[0]), y(line.low[0]));
          context.lineTo(x(line.x[0]), y(line.high[0]));
          context.stroke();
        }
        if (!line.points && line.x.length > 1) continue;
        line.x.forEach((value, k) => Number.isFinite(line.y[k]) && mark(context, x(value), y(line.y[k]), line, theme));
      }
      for (const reference of (box.panel.lines ?? []).filter(({ text }) => text)) {
        const below = y(reference.y) - box.top < 16; // no room above the line
        const at = [reference.text, box.left + box.wide - 3, y(reference.y) + (below ? 3 : -2)];
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
      if (spec.marker != null && spec.marker >= xs()[0] && spec.marker <= xs()[1]) {
        context.strokeStyle = theme.axis;
        context.lineWidth = 1;
        context.beginPath();
        context.moveTo(x(spec.marker), box.top);
        context.lineTo(x(spec.marker), box.top + box.high);
        context.stroke();
      }
      context.restore();
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
      found.push({ gap: Math.abs(y(line.y[k]) - py), y: line.y[k], line, text: say(...counts) });
    }
    found.sort((a, b) => a.gap - b.gap);
    const shown = found.slice(0, NEAREST).sort((a, b) => b.y - a.y);
    const rows = shown.map(({ line, text }) => ({ text: `${line.name}: ${text}`, color: line.color, dash: line.dash }));
    if (found.length > shown.length) rows.push({ text: `and ${found.length - shown.length} lines farther off` });
    const where = box.panel.title ? `${box.panel.title}, ` : "";
    return {
      title: where + xText(nearest.value),
      lines: rows,
      mark: [x(nearest.value), box.top, 0, box.high],
      pointer: Boolean(spec.click),
    };
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
    const found = boxAt(px, py, width) && probe(px, py, width);
    if (!found || !spec.click) return;
    const { back } = scale(boxAt(px, py, width));
    spec.click(back(found.mark[0]));
  }

  function rows() {
    const heads = ["panel", "line", spec.xLabel, spec.yLabel, "lower", "upper", "count"];
    const out = [heads];
    for (const panel of panels) {
      for (const line of panel.series) {
        line.x.forEach((value, k) =>
          out.push([panel.title ?? "", line.name, value, line.y[k], line.low?.[k], line.high?.[k], line.count?.[k]]),
        );
      }
    }
    return out;
  }

  return {
    label: spec.label ?? spec.title,
    height: (width) => headHeight(width) + Math.ceil(panels.length / columns(width)) * rowHeight(),
    draw,
    probe,
    zoom,
    zoomed: () => Boolean(memory.zoom),
    click: spec.click && click,
    rows,
  };
}

/** Save, and draw no farther than `room` outside a box. */
function within(context, box, room) {
  context.save();
  context.beginPath();
  context.rect(box.left - room, box.top - room, box.wide + 2 * room, box.high + 2 * room);
  context.clip();
}

function path(context, line, x, y) {
  context.beginPath();
  let open = false;
  line.x.forEach((value, k) => {
    const here = Number.isFinite(line.y[k]);
    if (here && open) context.lineTo(x(value), y(line.y[k]));
    else if (here) context.moveTo(x(value), y(line.y[k]));
    open = here;
  });
  context.stroke();
}

/** A dot of a line, hollow if the line is dashed. */
function mark(context, x, y, { color, dash }, theme) {
  context.beginPath();
  context.arc(x, y, 3, 0, 2 * Math.PI);
  context.strokeStyle = color ?? theme.text;
  context.fillStyle = dash ? theme.background : context.strokeStyle;
  context.lineWidth = 1.5;
  context.fill();
  context.stroke();
}

/** The band between low and high, in as many pieces as NaN makes of it. */
function band(context, line, x, y) {
  let start = 0;
  const count = line.x.length;
  const good = (k) => Number.isFinite(line.low[k]) && Number.isFinite(line.high[k]);
  while (start < count) {
    while (start < count && !good(start)) start++;
    let end = start;
    while (end < count && good(end)) end++;
    if (end > start) {
      context.beginPath();
      for (let k = start; k < end; k++) context.lineTo(x(line.x[k]), y(line.high[k]));
      for (let k = end - 1; k >= start; k--) context.lineTo(x(line.x[k]), y(line.low[k]));
      context.closePath();
      context.fill();
    }
    start = end;
  }
}
