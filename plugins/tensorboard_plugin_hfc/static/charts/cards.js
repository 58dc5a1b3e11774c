// A plot on its card: drawn on a canvas, read by hovering, taken away as PNG or CSV.

import { DARK, FONT, LIGHT } from "./colors.js";
import { brief } from "../names.js";
import { csv, download, h, keepFocus, note, table } from "../dom.js";

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
   *   click(x, y, width, height), zoom(from, to), log: which axes are logarithmic, legend(width): what its
   *   entries hide, fill(height): the height to fill, point(context, width, theme): the slider's place}
   */
  constructor(name, plot) {
    this.name = name;
    this.make = plot;
    this.canvas = h("canvas", { role: "img", tabindex: "-1" });
    this.marks = h("div");
    this.legend = h("div");
    this.tip = h("div", { class: "tip", role: "status", hidden: true });
    this.area = h("div", { class: "area" }, this.canvas, this.marks, this.legend, this.tip);
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
    const axis = (key) =>
      h("button", { hidden: true, "aria-pressed": "false", title: `A logarithmic ${key} axis`, onclick: () => this.change(() => (this.plot.log[key] = !this.plot.log[key])) }, `Log ${key}`);
    this.axes = { x: axis("x"), y: axis("y") };
    this.larger = h("button", { title: "As large as the page; Escape goes back", onclick: () => this.enlarge() }, "Enlarge");
    this.figure = h(
      "figure",
      { class: "card", "data-plot": name },
      this.area,
      h(
        "div",
        { class: "tools" },
        this.reset,
        this.axes.x,
        this.axes.y,
        this.larger,
        h("button", { title: "Picture on white, 3 times the size", onclick: () => this.png() }, "PNG"),
        h("button", { title: "The numbers behind it", onclick: () => this.csv() }, "CSV"),
        this.opener,
      ),
      this.numbers,
    );
    this.element = h("div", { class: "place" }, this.figure); // the figure leaves it while it is enlarged
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
    this.dialog?.close();
    this.observer.disconnect();
    cards.delete(this);
  }

  /** Make the plot anew and draw it. */
  update() {
    this.plot = this.make();
    this.element.hidden = this.figure.hidden = !this.plot;
    this.draw();
    this.tabulate();
    if (this.last && !this.tip.hidden) this.show(this.last);
  }

  /** Change how the plot shows things, and draw it so. */
  change(how) {
    how();
    this.update();
  }

  /** The figure on the whole page, until Escape or the same button. */
  enlarge() {
    if (this.dialog) return this.dialog.close();
    const onclose = () => {
      this.dialog.remove();
      this.dialog = null;
      this.larger.textContent = "Enlarge";
      this.element.append(this.figure);
      this.draw();
      this.larger.focus();
    };
    this.dialog = h("dialog", { class: "whole", "aria-label": this.plot.label, onclose }, this.figure);
    this.larger.textContent = "Close";
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.draw();
    this.larger.focus();
  }

  /** The slider's place alone is another one: it is drawn over the picture there is. */
  moveTo(marker) {
    if (!this.plot?.moveTo || !this.picture) return this.update();
    this.plot.moveTo(marker);
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.drawImage(this.picture, 0, 0);
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    this.plot.point(context, this.width, theme());
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
    for (const [key, button] of Object.entries(this.axes)) {
      button.hidden = !this.plot.log;
      button.setAttribute("aria-pressed", String(Boolean(this.plot.log?.[key])));
    }
    this.width = width;
    this.plot.fill?.(this.dialog ? innerHeight - 110 : 0);
    this.height = Math.round(this.plot.height(width));
    this.ratio = Math.max(1, window.devicePixelRatio || 1);
    const [wide, high] = [Math.round(width * this.ratio), Math.round(this.height * this.ratio)];
    if (this.canvas.width !== wide) this.canvas.width = wide;
    if (this.canvas.height !== high) this.canvas.height = high;
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.canvas.setAttribute("aria-label", this.plot.label);
    this.paint(this.canvas, this.ratio, theme());
    if (this.plot.point) {
      this.picture = this.picture ?? document.createElement("canvas");
      [this.picture.width, this.picture.height] = [wide, high];
      this.picture.getContext("2d").drawImage(this.canvas, 0, 0);
      this.plot.point(this.canvas.getContext("2d"), width, theme());
    } else this.picture = null;
    keepFocus(() =>
      this.legend.replaceChildren(
        ...(this.plot.legend?.(width) ?? []).map(({ name, off, place: [left, top, long, tall], toggle }) => {
          const style = { left: `${left}px`, top: `${top}px`, width: `${long}px`, height: `${tall}px` };
          const title = off ? `Show ${name}` : `Hide ${name}`;
          return h("button", { class: "entry", style, title, "aria-label": name, "aria-pressed": String(!off), onclick: () => this.change(toggle) });
        }),
      ),
    );
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
    const marks = found?.marks ?? (found?.mark ? [found.mark] : []);
    this.marks.replaceChildren(
      ...marks.map(([left, top, wide, high]) =>
        h("div", { class: "mark", style: { left: `${left}px`, top: `${top}px`, width: `${wide}px`, height: `${high}px` } }),
      ),
    );
    this.canvas.style.cursor = found?.pointer ? "pointer" : "default";
    if (!found) return;
    this.tip.replaceChildren(
      h("strong", {}, brief(found.title)),
      ...found.lines.map(({ value, text, color, dash }) =>
        h(
          "div",
          {},
          color && h("i", { class: dash ? "swatch dash" : "swatch", style: { borderColor: color } }),
          value && h("b", {}, `${value} `),
          brief(text),
        ),
      ),
    );
    const room = this.tip.offsetWidth + 24;
    const left = x + room > this.width ? Math.max(0, x - room + 8) : x + 16;
    const top = Math.max(0, Math.min(y + 12, this.height - this.tip.offsetHeight - 4));
    Object.assign(this.tip.style, { left: `${left}px`, top: `${top}px` });
  }

  leave() {
    this.last = null;
    this.pressed = null;
    this.tip.hidden = true;
    this.marks.replaceChildren();
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
    const plot = this.make();
    plot.fill?.(this.dialog ? innerHeight - 110 : 0);
    this.paint(canvas, PNG_SCALE, LIGHT, plot);
    plot.point?.(canvas.getContext("2d"), this.width, LIGHT);
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
