// A plot on its card: drawn on a canvas, read by hovering, taken away as PNG or CSV.

import { DARK, FONT, LIGHT } from "./colors.js";
import { csv, download, h, note, table } from "../dom.js";

let dark = false;
const cards = new Set();

export function setDark(value) {
  dark = value;
  for (const card of cards) card.draw();
}

export function theme() {
  return dark ? DARK : LIGHT;
}

const PNG_SCALE = 3;
const ROWS = 500; // in a table on the page

export class Card {
  /**
   * @param name of exported files
   * @param plot() makes what is drawn: {label, height(width), draw(context, width, height, theme),
   *   rows() for the CSV, probe(x, y, width, height) for hovering, and if it applies
   *   click(x, y, width, height), zoom(from, to)}
   */
  constructor(name, plot) {
    this.name = name;
    this.make = plot;
    this.canvas = h("canvas", { role: "img", tabindex: "-1" });
    this.mark = h("div", { class: "mark", hidden: true });
    this.tip = h("div", { class: "tip", role: "status", hidden: true });
    this.area = h("div", { class: "area" }, this.canvas, this.mark, this.tip);
    this.numbers = h("div", { hidden: true });
    const open = () => {
      this.numbers.hidden = !this.numbers.hidden;
      this.opener.setAttribute("aria-expanded", String(!this.numbers.hidden));
      this.tabulate();
    };
    this.opener = h("button", { title: "The numbers here, for reading without the picture", "aria-expanded": "false", onclick: open }, "Table");
    const whole = () => {
      this.plot.zoom(null);
      this.draw();
      this.opener.focus();
    };
    this.reset = h("button", { title: "Show all again; a double click does it, too", hidden: true, onclick: whole }, "Reset zoom");
    this.element = h(
      "figure",
      { class: "card", "data-plot": name },
      this.area,
      h(
        "div",
        { class: "tools" },
        this.reset,
        h("button", { title: "Picture on white, 3 times the size", onclick: () => this.png() }, "PNG"),
        h("button", { title: "The numbers behind it", onclick: () => this.csv() }, "CSV"),
        this.opener,
      ),
      this.numbers,
    );
    this.canvas.addEventListener("mousemove", (event) => this.hover(event));
    this.canvas.addEventListener("mouseleave", () => this.leave());
    this.canvas.addEventListener("mousedown", (event) => (this.pressed = this.position(event)));
    this.canvas.addEventListener("mouseup", (event) => this.release(event));
    this.canvas.addEventListener("dblclick", () => this.plot?.zoom && (this.plot.zoom(null), this.draw()));
    this.width = 0;
    this.observer = new ResizeObserver(() => {
      if (this.area.clientWidth !== this.width && this.area.clientWidth) this.draw();
    });
    this.observer.observe(this.area);
    cards.add(this);
  }

  close() {
    this.observer.disconnect();
    cards.delete(this);
  }

  /** Make the plot anew and draw it. */
  update() {
    this.plot = this.make();
    this.element.hidden = !this.plot;
    this.draw();
    this.tabulate();
    if (this.last && !this.tip.hidden) this.show(this.last);
  }

  /** The numbers of the picture, if they are asked for. */
  tabulate() {
    if (this.numbers.hidden || !this.plot) return;
    const [heads, ...rows] = this.plot.rows();
    const text = (cell) => (typeof cell === "number" ? figures(cell) : String(cell ?? ""));
    const shown = rows.slice(0, ROWS).map((row) => heads.map((_, k) => text(row[k])));
    const more = rows.length > ROWS ? [note(`The first ${ROWS} of ${rows.length} rows; CSV has all of them.`)] : [];
    this.numbers.replaceChildren(table(heads, shown, this.plot.label), ...more);
  }

  draw() {
    const width = this.area.clientWidth;
    if (!width || !this.plot) return;
    this.reset.hidden = !this.plot.zoomed?.();
    this.width = width;
    this.height = Math.round(this.plot.height(width));
    const ratio = Math.max(1, window.devicePixelRatio || 1);
    const [wide, high] = [Math.round(width * ratio), Math.round(this.height * ratio)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.setAttribute("aria-label", this.plot.label);
    this.paint(this.canvas, ratio, theme());
  }

  paint(canvas, ratio, colors, plot = this.plot) {
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = colors.background;
    context.fillRect(0, 0, this.width, this.height);
    context.font = `12px ${FONT}`;
    context.lineJoin = "round";
    plot.draw(context, this.width, this.height, colors);
  }

  position(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  hover(event) {
    this.last = this.position(event);
    this.show(this.last);
  }

  show([x, y]) {
    const found = this.plot?.probe?.(x, y, this.width, this.height);
    this.tip.hidden = !found;
    this.mark.hidden = !found?.mark;
    this.canvas.style.cursor = found?.pointer ? "pointer" : "default";
    if (!found) return;
    this.tip.replaceChildren(
      h("strong", {}, found.title),
      ...found.lines.map(({ text, color, dash }) =>
        h(
          "div",
          {},
          color && h("i", { class: dash ? "swatch dash" : "swatch", style: { borderColor: color } }),
          text,
        ),
      ),
    );
    if (found.mark) {
      const [left, top, wide, high] = found.mark;
      const size = { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` };
      Object.assign(this.mark.style, size);
    }
    const room = this.tip.offsetWidth + 24;
    const left = x + room > this.width ? Math.max(0, x - room + 8) : x + 16;
    const top = Math.max(0, Math.min(y + 12, this.height - this.tip.offsetHeight - 4));
    Object.assign(this.tip.style, { left: `${left}px`, top: `${top}px` });
  }

  leave() {
    this.last = null;
    this.pressed = null;
    this.tip.hidden = true;
    this.mark.hidden = true;
  }

  release(event) {
    const [x, y] = this.position(event);
    const from = this.pressed;
    this.pressed = null;
    if (!from || !this.plot) return;
    if (Math.abs(from[0] - x) > 8 && this.plot.zoom) {
      this.plot.zoom([from, [x, y]], this.width, this.height);
      this.draw();
    } else {
      this.plot.click?.(x, y, this.width, this.height);
    }
  }

  png() {
    const canvas = h("canvas", { width: this.width * PNG_SCALE, height: this.height * PNG_SCALE });
    const before = dark;
    dark = false; // for a page of paper, whatever the screen shows
    this.paint(canvas, PNG_SCALE, LIGHT, this.make());
    dark = before;
    canvas.toBlob((blob) => download(blob, `hfc_${this.name}.png`), "image/png");
  }

  csv() {
    download(new Blob([csv(this.plot.rows())], { type: "text/csv" }), `hfc_${this.name}.csv`);
  }
}

/** A percentage with its interval and count, as far as they are known. */
export function percent(value, low, high, count) {
  if (!Number.isFinite(value)) return "no number";
  const one = (share) => (100 * share).toFixed(1);
  const interval = Number.isFinite(low) && Number.isFinite(high) ? ` [${one(low)}, ${one(high)}]` : "";
  const images = Number.isFinite(count) ? ` of ${count} images` : "";
  return `${one(value)} %${interval}${images}`;
}

/** Four figures, or fewer. */
export function figures(value) {
  if (!Number.isFinite(value)) return "no number";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}
