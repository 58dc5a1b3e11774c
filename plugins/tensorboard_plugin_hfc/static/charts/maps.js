// Maps (a value per cell) in panels side by side, each with its colour bar.

import { css, FONT, MAPS, shade } from "./colors.js";
import { tick, ticks } from "./axes.js";
import { fit, fitName, title } from "./lines.js";

const [LEFT, BAR, TOP, BOTTOM, GAP] = [54, 80, 54, 42, 8];
const PLACE = 16; // the second line of a panel's title

/** A picture of values, one pixel a cell, on a canvas of that size or a new one; what is no number is grey. */
export function picture(values, rows, columns, map, low, high, canvas = document.createElement("canvas")) {
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  const table = MAPS[map];
  for (let k = 0; k < rows * columns; k++) {
    const good = Number.isFinite(values[k]);
    const place = good ? 3 * shade(values[k], low, high) : 0;
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = good ? table[place + c] : 128;
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

export function range(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

/**
 * A plot for a Card.
 *
 * @param spec {title, label, panels: [{title, place (its second line), values, shown (the same with NaN for what is to be grey), map, low, high, unit, tip(row, column), empty}],
 *   fresh (of the first panel of a new row; under all of a first row it leaves the first column free), least (width of a panel),
 *   i, j (frequency of each row and column), unit, cells: [{row, column, color, symbol}],
 *   click(row, column), size (a panel's side at most), rows()}
 */
export function maps(spec) {
  const rows = spec.i.length;
  const columns = spec.j.length;
  const head = TOP + (spec.panels.some((panel) => panel.place) ? PLACE : 0);
  let filled = 0; // the height to fill

  function place(width) {
    const most = Math.max(1, Math.floor((width + GAP) / (spec.least ?? 300)));
    const fresh = spec.panels.findIndex((panel) => panel.fresh);
    const across = Math.min(most, fresh > 0 ? fresh : spec.panels.length);
    const placeOf = (k) => (fresh < 1 || k < fresh ? k : Math.ceil(fresh / across) * across + (fresh <= across ? 1 : 0) + k - fresh);
    const cells = spec.panels.map((_, k) => placeOf(k));
    const room = (width - (across - 1) * GAP) / across - LEFT - BAR;
    const down = Math.floor(cells.at(-1) / across) + 1;
    const size = filled ? Math.max((filled - 22) / down - BOTTOM - head + 22, 120) : (spec.size ?? 420);
    const side = Math.max(80, Math.min(room, size));
    const cell = side / Math.max(rows, columns);
    const [wide, high] = [cell * columns, cell * rows];
    const step = LEFT + wide + BAR + GAP;
    const boxes = spec.panels.map((panel, k) => ({
      panel,
      left: LEFT + (cells[k] % across) * step,
      top: head + Math.floor(cells[k] / across) * (high + BOTTOM + head - 22),
      wide,
      high,
      cell,
    }));
    const height = down * (high + BOTTOM + head - 22) + 22;
    return { boxes, height };
  }

  function draw(context, width, height, theme) {
    title(context, spec.title, 0, width, theme);
    for (const box of place(width).boxes) {
      const { panel, left, top, wide, high, cell } = box;
      context.font = `600 12px ${FONT}`;
      context.fillStyle = theme.text;
      context.textAlign = "left";
      context.textBaseline = "alphabetic";
      context.fillText(fitName(context, panel.title, wide + BAR - 6), left, top - 9 - (panel.place ? PLACE : 0));
      context.font = `12px ${FONT}`;
      context.fillStyle = theme.muted;
      if (panel.place) context.fillText(fit(context, panel.place, wide + BAR - 6), left, top - 9);
      context.strokeStyle = theme.axis;
      context.lineWidth = 1;
      if (!panel.values) {
        context.strokeRect(left + 0.5, top + 0.5, wide - 1, high - 1);
        context.fillStyle = theme.muted;
        context.textAlign = "center";
        context.fillText(fit(context, panel.empty ?? "nothing here", wide - 8), left + wide / 2, top + high / 2);
        continue;
      }
      context.imageSmoothingEnabled = false;
      const drawn = picture(panel.shown ?? panel.values, rows, columns, panel.map, panel.low, panel.high);
      context.drawImage(drawn, left, top, wide, high);
      for (const { row, column, color } of spec.cells ?? []) {
        const [x, y] = [left + column * cell, top + row * cell];
        context.strokeStyle = "#ffffff";
        context.lineWidth = 4;
        context.strokeRect(x - 2, y - 2, cell + 4, cell + 4);
        context.strokeStyle = color;
        context.lineWidth = 2;
        context.strokeRect(x - 2, y - 2, cell + 4, cell + 4);
      }
      axes(context, box, theme);
      bar(context, box, theme);
    }
  }

  function axes(context, { left, top, wide, high, cell }, theme) {
    context.fillStyle = theme.muted;
    context.strokeStyle = theme.axis;
    context.lineWidth = 1;
    context.textAlign = "center";
    context.textBaseline = "top";
    const wanted = Math.max(2, wide / 60);
    for (const value of ticks(spec.j[0], spec.j.at(-1), wanted)) {
      const k = nearest(spec.j, value);
      context.fillText(tick(value), left + (k + 0.5) * cell, top + high + 5);
    }
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const value of ticks(spec.i[0], spec.i.at(-1), wanted)) {
      const k = nearest(spec.i, value);
      context.fillText(tick(value), left - 5, top + (k + 0.5) * cell);
    }
    context.fillStyle = theme.text;
    context.textAlign = "center";
    context.textBaseline = "top";
    context.fillText(fit(context, `j (${spec.unit})`, wide + 30), left + wide / 2, top + high + 21);
    context.save();
    context.translate(left - 45, top + high / 2);
    context.rotate(-Math.PI / 2);
    context.textBaseline = "middle";
    context.fillText(fit(context, `i (${spec.unit})`, high + 30), 0, 0);
    context.restore();
  }

  function bar(context, { panel, left, top, wide, high }, theme) {
    const x = left + wide + 8;
    const table = MAPS[panel.map];
    for (let k = 0; k < high; k++) {
      context.fillStyle = css(table, Math.round(255 * (1 - k / (high - 1))));
      context.fillRect(x, top + k, 10, 1.5);
    }
    context.fillStyle = theme.muted;
    context.textAlign = "left";
    context.textBaseline = "middle";
    const values = ticks(panel.low, panel.high, high / 45);
    const widest = Math.max(...values.map((value) => context.measureText(tick(value)).width));
    for (const value of values) {
      const share = panel.high > panel.low ? (value - panel.low) / (panel.high - panel.low) : 0.5;
      context.fillText(tick(value), x + 14, top + high * (1 - share));
    }
    context.save();
    context.translate(x + 14 + Math.max(44, widest + 12), top + high / 2);
    context.rotate(-Math.PI / 2);
    context.fillStyle = theme.text;
    context.textAlign = "center";
    context.fillText(fit(context, panel.unit ?? "", high), 0, 0);
    context.restore();
  }

  function cellAt(px, py, width) {
    for (const box of place(width).boxes) {
      const column = Math.floor((px - box.left) / box.cell);
      const row = Math.floor((py - box.top) / box.cell);
      if (box.panel.values && column >= 0 && row >= 0 && column < columns && row < rows) {
        return { box, row, column };
      }
    }
    return null;
  }

  function probe(px, py, width) {
    const found = cellAt(px, py, width);
    if (!found) return null;
    const { box, row, column } = found;
    const mark = [box.left + column * box.cell, box.top + row * box.cell, box.cell, box.cell];
    return { ...box.panel.tip(row, column), mark, pointer: Boolean(spec.click) };
  }

  return {
    label: spec.label ?? spec.title,
    height: (width) => place(width).height,
    fill: (height) => (filled = height),
    draw,
    probe,
    click(px, py, width) {
      const found = cellAt(px, py, width);
      if (found && spec.click) spec.click(found.row, found.column);
    },
    rows:
      spec.rows ??
      (() => {
        const out = [["panel", "i", "j", `value`]];
        for (const panel of spec.panels) {
          panel.values?.forEach((value, k) =>
            out.push([panel.title, spec.i[Math.floor(k / columns)], spec.j[k % columns], value]),
          );
        }
        return out;
      }),
  };
}

export function nearest(sorted, value) {
  let best = 0;
  sorted.forEach((one, k) => {
    if (Math.abs(one - value) < Math.abs(sorted[best] - value)) best = k;
  });
  return best;
}

/**
 * Tiles in a grid, panels side by side: kernels, or their spectra.
 *
 * @param spec {title, label, panels: [{title, tiles: [{image, kernel, text, lines}], empty}],
 *   click(panel, tile), chosen(panel, tile), room (the height of a grid), rows()}
 */
export function tiles(spec) {
  const gap = 6;
  let filled = 0; // the height to fill

  /** Columns and side of the largest tiles that fit; of usual tiles if there is no height to fill. */
  function grid(count, wide, room) {
    const usual = Math.max(8, Math.ceil(Math.sqrt(count * 2)));
    const fits = (columns, high) => Math.floor(Math.min((wide + gap) / columns, (high + gap) / Math.ceil(count / columns))) - gap;
    if (!room) return { columns: usual, side: Math.min(56, fits(usual, Infinity)) };
    const all = Array.from({ length: count }, (_, k) => ({ columns: k + 1, side: fits(k + 1, room) }));
    return all.reduce((best, one) => (one.side > best.side ? one : best), { columns: usual, side: 8 });
  }

  function place(width) {
    const across = width >= 560 ? Math.min(2, spec.panels.length) : 1;
    const wide = (width - (across - 1) * 24) / across;
    const down = Math.ceil(spec.panels.length / across);
    const room = filled ? (filled - 32) / down - 34 : (spec.room ?? 0);
    const boxes = [];
    let top = 54;
    for (let k = 0; k < spec.panels.length; k += across) {
      let rowHeight = 24;
      for (let c = 0; c < across && k + c < spec.panels.length; c++) {
        const panel = spec.panels[k + c];
        const count = panel.tiles.length;
        const { columns, side } = grid(count, wide, room);
        const left = c * (wide + 24);
        boxes.push({ panel, left, top, wide, columns, side });
        rowHeight = Math.max(rowHeight, Math.ceil(count / columns) * (side + gap));
      }
      top += rowHeight + 34;
    }
    return { boxes, height: top - 22 };
  }

  function spot({ left, top, columns, side }, k) {
    return [left + (k % columns) * (side + gap), top + Math.floor(k / columns) * (side + gap)];
  }

  return {
    label: spec.label ?? spec.title,
    height: (width) => place(width).height,
    fill: (height) => (filled = height),
    draw(context, width, height, theme) {
      title(context, spec.title, 0, width, theme);
      for (const box of place(width).boxes) {
        context.font = `600 12px ${FONT}`;
        context.fillStyle = theme.text;
        context.textAlign = "left";
        context.textBaseline = "alphabetic";
        context.fillText(fitName(context, box.panel.title, box.wide), box.left, box.top - 9);
        context.font = `12px ${FONT}`;
        if (!box.panel.tiles.length) {
          context.fillStyle = theme.muted;
          context.fillText(fit(context, box.panel.empty ?? "nothing here", box.wide), box.left, box.top + 14);
        }
        context.imageSmoothingEnabled = false;
        box.panel.tiles.forEach((tile, k) => {
          const [x, y] = spot(box, k);
          context.drawImage(tile.image, x, y, box.side, box.side);
          if (spec.chosen?.(box.panel, tile)) {
            context.strokeStyle = theme.dark ? "#56b4e9" : "#d55e00";
            context.lineWidth = 3;
            context.strokeRect(x - 1, y - 1, box.side + 2, box.side + 2);
          }
        });
      }
    },
    probe(px, py, width) {
      const found = this.tileAt(px, py, width);
      if (!found) return null;
      const [x, y] = found.at;
      const { tile, box } = found;
      const lines = tile.lines.map((text) => ({ text }));
      return { title: tile.text, lines, mark: [x, y, box.side, box.side], pointer: Boolean(spec.click) };
    },
    tileAt(px, py, width) {
      for (const box of place(width).boxes) {
        for (let k = 0; k < box.panel.tiles.length; k++) {
          const [x, y] = spot(box, k);
          if (px >= x && py >= y && px < x + box.side && py < y + box.side) {
            return { box, at: [x, y], tile: box.panel.tiles[k] };
          }
        }
      }
      return null;
    },
    click(px, py, width) {
      const found = this.tileAt(px, py, width);
      if (found && spec.click) spec.click(found.box.panel, found.tile);
    },
    rows: spec.rows,
  };
}
