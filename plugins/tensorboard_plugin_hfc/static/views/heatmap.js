// A value per frequency: error under Fourier noise, or gradient sensitivity; of run A and B, or of all runs, and the differences to B.

import { differences } from "../alike.js";
import { Card, figures, percent } from "../charts/cards.js";
import { runStyle } from "../charts/colors.js";
import { choice, h, note, toggle } from "../dom.js";
import { independent } from "../charts/intervals.js";
import { lines } from "../charts/lines.js";
import { maps, range } from "../charts/maps.js";

const BESIDE = ["lower", "upper", "count"];
const CLEAN = ["clean_error", "clean_score"]; // without noise: the map's own unit, or what is lost of
const CELLS = 6;
const DETAIL_MS = 120;

const signed = (value) => `${value >= 0 ? "+" : "−"}${Math.abs(100 * value).toFixed(1)}`;

/** Mean over rings of one cycle: distances and means. */
export function radial(values, i, j) {
  const sums = new Map();
  values.forEach((value, k) => {
    if (!Number.isFinite(value)) return;
    const ring = Math.round(Math.hypot(i[Math.floor(k / j.length)], j[k % j.length]));
    const [sum, count] = sums.get(ring) ?? [0, 0];
    sums.set(ring, [sum + value, count + 1]);
  });
  const rings = [...sums.keys()].sort((a, b) => a - b);
  return { x: rings, y: rings.map((ring) => sums.get(ring)[0] / sums.get(ring)[1]) };
}

/** What a map shows, in words. */
export function mapTitle({ measurement, unit, noise }) {
  const text = noise === undefined ? measurement.replace(/_/g, " ") : `${unit} under Fourier noise${noise && ` of ${noise}`}`;
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Whether an array has a value per frequency. */
export const isMap = ({ axes, array }) =>
  axes.length === 2 &&
  axes.every((axis) => axis.values?.length) &&
  axes[0].name === "i" &&
  axes[1].name === "j" &&
  !BESIDE.includes(array);

export class HeatmapView {
  constructor(app) {
    this.app = app;
    this.zoom = { radial: {}, history: {} };
    this.ranges = new WeakMap();
    this.cards = {
      map: new Card("heatmap", () => this.mapPlot()),
      radial: new Card("heatmap_radial", () => this.radialPlot()),
      history: new Card("heatmap_history", () => this.historyPlot()),
    };
    this.controls = h("div", { class: "controls" });
    this.body = h("div");
    const { map, radial: ring, history } = this.cards;
    const beside = h("div", { class: "pair" }, ring.element, history.element);
    this.element = h("div", {}, this.controls, map.element, beside, this.body);
  }

  static has(data) {
    return data.some(isMap);
  }

  close() {
    clearTimeout(this.timer);
    for (const card of Object.values(this.cards)) card.close();
  }

  async load() {
    const { app } = this;
    this.pair = app.compared();
    this.options = [...new Set(this.pair.flatMap((run) => app.data.find(run, isMap).map(({ tag }) => tag)))].sort();
    const wanted = app.state.get("map");
    this.tag = this.options.includes(wanted) ? wanted : this.options[0];
    this.group = this.tag?.replace(/\/[^/]*$/, "");
    this.series = new Map();
    if (!this.tag) return app.setSteps([]);
    const clean = CLEAN.map((name) => `${this.group}/${name}`);
    const spread = this.chosen().length ? [`${this.group}/lower`, `${this.group}/upper`, `${this.group}/count`] : [];
    await app.loadProgress(this.pair);
    this.arrays = await app.data.tensors(this.pair, [this.tag, ...clean, ...spread]);
    for (const run of this.pair) {
      const series = this.arrays.get(run)?.[this.tag];
      if (!series) continue;
      this.series.set(run, series);
    }
    if (app.baseline()) this.pair = this.pair.filter((run) => this.series.has(run) || run === app.baseline());
    [this.lead, this.first] = [...this.series][0] ?? [];
    [this.i, this.j] = this.first ? this.first.content.axes.map((axis) => axis.values) : [[], []];
    app.setSteps([...this.series], true);
    this.detail = new Map();
    if (this.comparable()) await this.fetchDetail();
    else this.wait();
  }

  /** Intervals and counts of the step shown, for hovering; they come after the picture. */
  wait() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fetchDetail(), DETAIL_MS);
  }

  async fetchDetail() {
    const tags = BESIDE.map((name) => `${this.group}/${name}`);
    for (const [run, series] of this.series) {
      const k = this.app.at(run, series);
      const there = tags.filter((tag) => this.app.data.content(run, tag));
      if (k < 0 || !there.length) continue;
      try {
        const found = await this.app.data.tensorsAt(run, there, series.steps[k]);
        this.detail.set(`${run}\n${series.steps[k]}`, found);
      } catch {
        return; // hovering goes without; the next look at the server reports it
      }
    }
    if (this.comparable()) this.cards.map.update(); // what does not differ turns grey
  }

  /** Chosen cells as {i, j, row, column, color}. */
  chosen() {
    return this.app.state
      .get("cells")
      .split(";")
      .map((text) => text.split(",").map(Number))
      .filter((pair) => pair.length === 2 && pair.every(Number.isFinite))
      .slice(0, CELLS)
      .map(([i, j], k) => ({ i, j, color: runStyle(k, this.app.theme()).color }));
  }

  cells() {
    return this.chosen()
      .map((cell) => ({ ...cell, row: this.i.indexOf(cell.i), column: this.j.indexOf(cell.j) }))
      .filter(({ row, column }) => row >= 0 && column >= 0);
  }

  show() {
    const { app } = this;
    const { state } = app;
    this.controls.replaceChildren();
    this.body.replaceChildren();
    if (!this.first) {
      this.body.append(
        note(
          this.pair.length
            ? `${this.pair.join(" and ")}: no Fourier heatmap and no gradient sensitivity logged. Choose other runs as A and B, or add FourierHeatmap() to measurements= of hfc_probe.attach.`
            : "Choose the runs to compare with the letters A and B on the left.",
        ),
      );
    } else {
      const options = this.options.map((tag) => [tag, tag.replace(/_/g, " ").replace(/\//g, ", ")]);
      this.controls.append(
        choice("Map", options, this.tag, (value) => state.set({ map: value })),
        app.stepper(),
        toggle("Common scale", state.get("common") === "1", (on) => state.set({ common: on ? "1" : "0" })),
      );
      for (const run of this.base() ? this.others().filter((one) => this.unalike(one)) : []) {
        this.body.append(note(`${run} and ${this.base()} were measured differently (${this.unalike(run)}): not the same quantity, so no difference is drawn.`));
      }
      const made = new Map([...this.series.keys()].map((run) => [run, this.made(run) || "does not say how it was made"]));
      if (new Set(made.values()).size > 1) {
        this.body.append(note([...made].map(([run, how]) => `${run}: ${how}.`).join(" ")));
      }
      const text = "Click a cell to see its history.";
      this.body.append(note(this.pair.length > 1 ? text : `${text} Choose a second run as B to see the difference.`));
      if (this.chosen().length) {
        this.controls.append(h("button", { onclick: () => state.set({ cells: "" }) }, "Clear cells"));
      }
    }
    for (const card of Object.values(this.cards)) card.update();
  }

  step() {
    if (!this.first) return;
    for (const card of Object.values(this.cards)) card.update();
    this.wait();
  }

  /** Values of a run at the step shown, or null. */
  now(run) {
    const series = this.series.get(run);
    const k = series ? this.app.at(run, series) : -1;
    return k < 0 ? null : { values: series.at(k), step: series.steps[k] };
  }

  unit() {
    return this.first.content.unit || "value";
  }

  say(value, ...interval) {
    if (this.unit() === "error rate") return percent(value, ...interval);
    const known = interval.length > 1 && interval.slice(0, 2).every(Number.isFinite);
    return figures(value) + (known ? ` [${interval.slice(0, 2).map(figures).join(", ")}]` : "");
  }

  scaleOf(series) {
    if (!this.ranges.has(series)) this.ranges.set(series, range(series.values));
    return this.ranges.get(series);
  }

  comparable() {
    return this.series.size > 1 && this.series.has(this.base()) && this.others().some((run) => this.fits(run));
  }

  /** Run B, with which the others are compared. */
  base() {
    return this.pair.length > 1 ? this.pair.at(-1) : "";
  }

  others() {
    return this.pair.slice(0, -1);
  }

  sameAxes(run, other = this.base()) {
    const [a, b] = [run, other].map((one) => this.series.get(one));
    const axes = (series) => JSON.stringify(series.content.axes.map((axis) => axis.values));
    return Boolean(a && b && axes(a) === axes(b));
  }

  /** In what a run's map and B's were measured differently; "" if they were not. */
  unalike(run) {
    const [a, b] = [run, this.base()].map((one) => this.series.get(one)?.content);
    return a && b ? differences(a, b).map(({ text }) => text).join("; ") : "";
  }

  fits(run) {
    return this.sameAxes(run) && !this.unalike(run);
  }

  /** The largest difference to B over all steps and runs, so that the scale stays while steps change. */
  largest() {
    const all = this.pair.map((run) => this.series.get(run));
    if (this.kept?.all.length !== all.length || all.some((one, k) => this.kept.all[k] !== one)) {
      let most = 0;
      const places = (run) => (this.app.byEpoch ? this.app.epochs(run, this.series.get(run)) : this.series.get(run).steps);
      const [base, ends] = [this.series.get(this.base()), places(this.base())];
      for (const run of this.others().filter((one) => this.fits(one))) {
        const own = places(run);
        for (const key of this.app.keys) {
          const [m, n] = [own, ends].map((list) => list.findLastIndex((one) => one <= key));
          if (m < 0 || n < 0) continue;
          const [one, two] = [this.series.get(run).at(m), base.at(n)];
          for (let k = 0; k < one.length; k++) most = Math.max(most, Math.abs(one[k] - two[k]) || 0);
        }
      }
      this.kept = { all, most };
    }
    return this.kept.most;
  }

  mapPlot() {
    if (!this.first) return null;
    const { app, i, j } = this;
    const common = app.state.get("common") === "1";
    const both = [...this.series.values()].map((series) => this.scaleOf(series));
    const all = [Math.min(...both.map(([low]) => low)), Math.max(...both.map(([, high]) => high))];
    const where = (row, column) => `i = ${i[row]}, j = ${j[column]} (${this.axisUnit()})`;
    const same = (run) => run === this.lead || this.sameAxes(run, this.lead);
    const panels = this.pair.map((run) => {
      const found = same(run) ? this.now(run) : null;
      const empty = !this.series.has(run) ? "not logged" : same(run) ? "nothing yet at this step" : `other axes than ${this.lead}`;
      if (!found) return { title: app.lettered(run), values: null, empty };
      const [low, high] = common ? all : range(found.values);
      return {
        title: app.lettered(run),
        place: app.placeOf(run, this.series.get(run)) + this.ofWhat(run, found.step),
        values: found.values,
        map: "viridis",
        low,
        high,
        unit: this.unit(),
        tip: (row, column) => this.tip(run, found, row, column, where(row, column)),
      };
    });
    const gaps = this.base() ? this.others().map((run) => this.differencePanel(run, common, where)) : [];
    if (app.baseline() && gaps.length > 1) {
      panels.unshift(panels.pop()); // the baseline first, and differences below what they are of
      gaps[0].fresh = true;
    }
    panels.push(...gaps);
    return maps({
      title: this.name(),
      label: `${this.name()}: ${panels.map(({ title, place }) => (place ? `${title}, ${place}` : title)).join("; ")}`,
      panels,
      i,
      j,
      unit: this.axisUnit(),
      cells: this.cells(),
      size: 420,
      least: app.baseline() ? 250 : 300,
      click: (row, column) => this.toggleCell(i[row], j[column]),
    });
  }

  /** ", of 0.32 without noise" if the map is of what is lost. */
  ofWhat(run, step) {
    const whole = this.arrays.get(run)?.[`${this.group}/clean_score`];
    const k = whole ? whole.before(step) : -1;
    return k < 0 ? "" : `, of ${whole.values[k].toFixed(2)} without noise`;
  }

  /** What a run has more than run B. */
  differencePanel(run, common, where) {
    const { app, j } = this;
    const names = [run, this.base()];
    const title = app.baseline() ? `${run} − baseline` : "A − B";
    const [a, b] = names.map((one) => this.now(one));
    if (!this.fits(run) || !a || !b) {
      const both = names.every((one) => this.series.has(one));
      const why = !both ? "needs both runs" : !this.sameAxes(run) ? "A and B have different axes" : this.unalike(run) ? "measured differently" : "nothing yet at this step";
      return { title, values: null, empty: why };
    }
    const values = a.values.map((value, k) => value - b.values[k]);
    const gaps = this.gaps(names, a, b);
    const differs = (k) => gaps[k] && (gaps[k][0] > 0 || gaps[k][1] < 0);
    const shown = gaps && values.map((value, k) => (differs(k) ? value : NaN));
    const most = (common ? this.largest() : Math.max(...range(values).map(Math.abs))) || 1e-6;
    const rate = this.unit() === "error rate";
    const tip = (row, column) => {
      const k = row * j.length + column;
      const gap = rate ? `${signed(values[k])} points` : figures(values[k]);
      const interval = gaps?.[k] ? ` [${gaps[k].map((bound) => (rate ? signed(bound) : figures(bound))).join(", ")}]` : "";
      const lines = names.map((one, n) => ({ text: `${app.lettered(one)}: ${this.say([a, b][n].values[k])}` }));
      return { title: where(row, column), lines: [{ text: `${title}: ${gap}${interval}` }, ...lines] };
    };
    const place = shown ? "grey: no clear difference" : "without intervals";
    return { title, place, values, shown, map: "difference", low: -most, high: most, unit: `difference of ${this.unit()}`, tip };
  }

  /** Intervals of the difference of every cell of two runs; null while they are not known. */
  gaps(names, a, b) {
    const [one, two] = [a, b].map(({ values, step }, n) => {
      const found = this.detail.get(`${names[n]}\n${step}`);
      const [low, high] = BESIDE.map((name) => found?.[`${this.group}/${name}`]?.values);
      return low && high ? { values, low, high } : null;
    });
    if (!one || !two) return null;
    const of = ({ values, low, high }, k) => [values[k], low[k], high[k]];
    return Array.from(a.values, (_, k) => independent(of(one, k), of(two, k)));
  }

  /** How a run's map was made: estimator, images, passes; "" if the metadata do not say. */
  made(run) {
    const { estimator, samples, passes } = this.series.get(run)?.content ?? {};
    return [
      estimator && `${estimator} estimator`,
      Number.isFinite(samples) && `${samples.toLocaleString("en")} images`,
      Number.isFinite(passes) && `${passes.toLocaleString("en")} passes`,
    ]
      .filter(Boolean)
      .join(", ");
  }

  tip(run, { values, step }, row, column, where) {
    const k = row * this.j.length + column;
    const found = this.detail.get(`${run}\n${step}`);
    const [low, high, count] = BESIDE.map((name) => found?.[`${this.group}/${name}`]?.values[k]);
    return { title: where, lines: [{ text: `${this.unit()}: ${this.say(values[k], low, high, count)}` }] };
  }

  name() {
    const { norm } = this.first.content;
    const words = mapTitle(this.first.content);
    const made = new Set([...this.series.keys()].map((run) => this.made(run)));
    const how = made.size === 1 && [...made][0] ? `, ${[...made][0]}` : "";
    return (Number.isFinite(norm) && !this.first.content.noise ? `${words}, noise of norm ${figures(norm)}` : words) + how;
  }

  axisUnit() {
    return this.first.content.axes[0].unit || "cycles/image";
  }

  toggleCell(i, j) {
    const kept = this.chosen().map((cell) => `${cell.i},${cell.j}`);
    const key = `${i},${j}`;
    const next = kept.includes(key) ? kept.filter((one) => one !== key) : [...kept, key].slice(-CELLS);
    this.app.state.set({ cells: next.join(";") });
  }

  radialPlot() {
    if (!this.first) return null;
    const { app } = this;
    const panel = { series: [], lines: [] };
    const legend = [];
    this.pair.forEach((run) => {
      const found = this.now(run);
      if (!found) return;
      const [i, j] = this.series.get(run).content.axes.map((axis) => axis.values);
      const style = app.style(run);
      legend.push({ name: app.lettered(run), key: run, ...style, dash: run === this.base() ? [6, 4] : undefined });
      panel.series.push({ ...legend.at(-1), keys: [run], ...radial(found.values, i, j) });
      const clean = this.arrays.get(run)?.[`${this.group}/clean_error`];
      const k = clean ? clean.before(found.step) : -1;
      if (k < 0) return;
      panel.lines.push({ y: clean.values[k], color: style.color, key: run });
    });
    if (panel.lines.length) legend.push({ name: "without noise", dash: [1, 3] });
    const [lows, tops] = [0, 1].map((end) => [...this.series.values()].map((series) => this.scaleOf(series)[end]));
    const rate = this.unit() === "error rate";
    return lines(
      {
        title: "Mean over rings",
        panels: [panel],
        legend,
        columns: 1,
        panelHeight: 230,
        xLabel: `distance from DC (${this.axisUnit()})`,
        xText: (x) => `d = ${x} ${this.axisUnit()}`,
        yLabel: this.unit(),
        yRange: [Math.min(0, ...lows), Math.min(rate ? 1 : Infinity, 1.05 * Math.max(...tops)) || 1],
        value: (value) => this.say(value),
      },
      this.zoom.radial,
    );
  }

  historyPlot() {
    const cells = this.first ? this.cells() : [];
    if (!cells.length) return null;
    const { app } = this;
    const runs = [...this.series.keys()];
    const axis = app.xAxis(runs, (run) => this.series.get(run));
    const series = [];
    for (const { i, j, color } of cells) {
      runs.forEach((run) => {
        const main = this.series.get(run);
        const [row, column] = main.content.axes.map((a, n) => a.values.indexOf([i, j][n]));
        if (row < 0 || column < 0) return;
        const k = row * main.shape[1] + column;
        const take = (tag) => {
          const other = this.arrays.get(run)?.[tag];
          if (!other) return undefined;
          return main.steps.map((step) => {
            const place = other.place.get(step);
            return place === undefined ? NaN : other.values[place * other.size + k];
          });
        };
        const [low, high, count] = BESIDE.map((name) => take(`${this.group}/${name}`));
        const letter = this.base() && run !== this.base() && this.others().length > 1 ? run : run === app.pair()[1] ? "B" : "A";
        const look = { color, shape: letter.length > 1 ? app.style(run).shape : undefined, dash: letter === "B" ? [6, 4] : undefined };
        series.push({ name: `${letter} (${i}, ${j})`, x: axis.of(run, main), y: take(this.tag), low, high, count, ...look });
      });
    }
    const now = this.first.steps[Math.max(0, app.at(runs[0], this.first))];
    const marker = axis.of(runs[0], this.first)[this.first.place.get(now)];
    return lines(
      {
        title: "History of the chosen cells",
        panels: [{ series }],
        legend: series.map(({ name, color, dash, shape }) => ({ name, color, dash, shape })),
        columns: 1,
        panelHeight: 230,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: this.unit(),
        yRange: this.unit() === "error rate" ? [0, 1] : undefined,
        value: (...numbers) => this.say(...numbers),
        marker,
      },
      this.zoom.history,
    );
  }
}
