// A detector's average precision and its errors by kind against the radius, and the audit's pictures.

import { differences, sameImages, signs } from "../alike.js";
import { Card, figures, percent } from "../charts/cards.js";
import { runStyle } from "../charts/colors.js";
import { choice, h, note, table, toggle } from "../dom.js";
import { lines } from "../charts/lines.js";
import { isMap } from "./heatmap.js";
import { gallery, pictures, placesOf } from "./examples.js";

const OURS = "hfc_detection/";
const HEATMAP = "hfc_detection_heatmap/figure"; // beside the audit's pictures
const ERRORS = "hfc_detection/errors"; // a picture of what the second chart draws
const COUNT = "count"; // of images or objects, no average precision
const SHOWN = 24;
const RUNS = 6; // with panels of errors
const DASH = [6, 4];
const DOTS = [1, 3];
const PARTS = [["lfc", undefined], ["hfc", DASH]];

/** Whether an array holds the numbers of a detection audit, a row for each. */
export const isAudit = ({ measurement, array }) => measurement === "detection_audit" && array === "scalars";

/** The audit's numbers at the k-th step with their labels: [{quantity, part, radius, text, value, all: [value, low, high]}]. */
function labelled(series, k) {
  const { labels } = series.content.axes[0];
  if (k < 0 || !Array.isArray(labels)) return [];
  const width = series.shape[1];
  return labels.map((label, n) => {
    const [value, low, high] = series.at(k).subarray(n * width, (n + 1) * width);
    return { ...label, value, all: [value, low, high] };
  });
}

/** The metric that an audit names first: AP. */
export const firstMetric = (series) => labelled(series, 0).find(({ quantity }) => quantity && quantity !== COUNT)?.quantity;

/** {original: [value, low, high], lfc: [[radius, value, low, high]], hfc: […]} of a metric at the k-th step. */
export function curvesOf(series, k, metric) {
  const found = labelled(series, k).filter(({ quantity }) => quantity === metric);
  const curve = (part) =>
    found
      .filter((one) => one.part === part)
      .map(({ radius, all }) => [radius === "inf" ? Infinity : radius, ...all])
      .sort((a, b) => a[0] - b[0]);
  return { original: found.find(({ part }) => part === "original")?.all ?? [NaN], lfc: curve("lfc"), hfc: curve("hfc") };
}

export class DetectionsView {
  constructor(app) {
    this.app = app;
    this.memory = {};
    this.errorMemory = {};
    this.open = false; // the counts
    this.cards = [new Card("detection_ap", () => this.plot()), new Card("detection_errors", () => this.errorsPlot())];
    this.controls = h("div", { class: "controls" });
    this.unfit = h("div"); // before the picture: it warns of it
    this.body = h("div");
    this.element = h("div", {}, this.controls, this.unfit, ...this.cards.map(({ element }) => element), this.body);
  }

  static has(data) {
    const { scalars, images } = data.index;
    const tags = [...Object.values(scalars), ...Object.values(images)].flatMap(Object.keys);
    return tags.some((tag) => tag.startsWith(OURS)) || data.some(({ measurement }) => measurement === "detection_audit");
  }

  close() {
    for (const card of this.cards) card.close();
  }

  update() {
    for (const card of this.cards) card.update();
  }

  async load() {
    const { app } = this;
    const { scalars, images } = app.data.index;
    const ours = (tag) => tag.startsWith(OURS);
    this.tag = new Map();
    for (const run of app.selected()) {
      const [found] = app.data.find(run, isAudit);
      if (found) this.tag.set(run, found.tag);
    }
    this.runs = [...this.tag.keys()];
    // Earlier versions logged no labels: their numbers are shown by their tags.
    this.unlabelled = app.selected().filter((run) => !this.tag.has(run) && Object.keys(scalars[run] ?? {}).some(ours));
    const tags = [...new Set(this.unlabelled.flatMap((run) => Object.keys(scalars[run]).filter(ours)))];
    this.read = tags.length ? await app.data.scalars(this.unlabelled, tags) : {};
    this.arrays = await app.data.tensors(this.runs, [...new Set(this.tag.values())]);
    this.runs = this.runs.filter((run) => this.series(run));
    const kinds = this.runs.flatMap((run) => labelled(this.series(run), 0).map(({ quantity }) => quantity));
    this.metrics = [...new Set(kinds)].filter((kind) => kind && kind !== COUNT);
    await this.loadBeside();
    const entries = app
      .selected()
      .flatMap((run) => Object.keys(images[run] ?? {}).map((tag) => ({ run, tag })))
      .filter(({ tag }) => ours(tag) || tag.startsWith(HEATMAP))
      .filter(({ run, tag }) => tag !== ERRORS || !this.beside(run, "lfc_errors"))
      .filter(({ run, tag }) => tag !== HEATMAP || !app.data.find(run, isMap).length);
    this.found = await pictures(app, entries.slice(0, SHOWN));
    await app.loadProgress(app.selected());
    app.setSteps([
      ...this.runs.map((run) => [run, this.series(run)]),
      ...this.unlabelled.flatMap((run) => Object.values(this.read[run] ?? {}).map((series) => [run, series])),
      ...placesOf(this.found),
    ]);
  }

  /** The audit's numbers of a run: a row per tag. */
  series(run) {
    return this.arrays.get(run)?.[this.tag.get(run)];
  }

  /** Arrays beside the numbers: intervals of the differences to the original, and errors by kind. */
  async loadBeside() {
    const { data } = this.app;
    const wanted = /^((lfc|hfc)_difference_(lower|upper)|(original|lfc|hfc)_errors(_found)?)$/;
    const fits = ({ measurement, array, axes }) => measurement === "detection_audit" && wanted.test(array) && axes.length;
    const found = this.runs.flatMap((run) => data.find(run, fits).map(({ tag }) => tag));
    this.arraysBeside = found.length ? await data.tensors(this.runs, [...new Set(found)]) : new Map();
  }

  /** {values, radii, names} of an array at the step; its rows are radii, its columns are named. */
  beside(run, array) {
    const series = Object.values(this.arraysBeside.get(run) ?? {}).find(({ content }) => content.array === array);
    const k = series ? this.app.at(run, series) : -1;
    if (!series) return null;
    const [radii, names] = series.content.axes.length > 1 ? series.content.axes.map(({ values }) => values) : [[NaN], series.content.axes[0].values];
    return { values: k < 0 ? series.at(0).map(() => NaN) : series.at(k), radii: radii ?? [], names: names ?? [] };
  }

  /** " [low, high] points" of a change, or nothing. */
  interval(run, metric, part, radius) {
    const ends = ["lower", "upper"].map((end) => {
      const found = this.beside(run, `${part}_difference_${end}`);
      const [row, column] = found ? [found.radii.indexOf(radius), found.names.indexOf(metric)] : [-1, -1];
      return row < 0 || column < 0 ? NaN : 100 * found.values[row * found.names.length + column];
    });
    return ends.every(Number.isFinite) ? ` [${ends.map((end) => end.toFixed(1)).join(", ")}]` : "";
  }

  /** In what the audits of the runs shown were not made alike, against the first of them. */
  unalike() {
    const [one, ...others] = this.runs.map((run) => [run, this.about(run)]).filter(([, content]) => content);
    return others.flatMap(([run, content]) => {
      const texts = differences(one[1], content).map(({ text }) => text);
      const [some, others] = [one[1].samples, content.samples];
      if (some !== others) texts.push(`${this.count(one[1])} against ${this.count(content)}`);
      const known = one[1].provenance?.images && content.provenance?.images;
      if (known && !sameImages(one[1], content)) texts.push("other images");
      return texts.map((text) => `${one[0]} and ${run}: ${text}`);
    });
  }

  about(run) {
    return this.app.data.find(run, ({ measurement }) => measurement === "detection_audit")[0]?.content;
  }

  count({ samples }) {
    return Number.isFinite(samples) ? `${samples} images` : "an unknown number of images";
  }

  /** What is said once for all runs shown, or of each in the legend. */
  made(run) {
    const content = this.about(run);
    const background = content?.settings?.hfc_background ?? content?.hfc_background;
    return [content && this.count(content), background && `HFC on ${background} background`].filter(Boolean).join(", ");
  }

  metric() {
    const wanted = this.app.state.get("metric");
    return this.metrics.includes(wanted) ? wanted : this.metrics[0];
  }

  bands() {
    return this.app.state.get("bands") === "1";
  }

  show() {
    const { app } = this;
    const nothing = !this.runs.length && !this.unlabelled.length && !this.found.length;
    this.controls.replaceChildren();
    this.unfit.replaceChildren();
    if (nothing) {
      this.body.replaceChildren(
        note(
          "None of the chosen runs has logged a detection audit (hfc_detection/…). DetectionAudit compares a detector's AP on original, low- and high-frequency images.",
        ),
      );
    } else {
      const options = this.metrics.map((metric) => [metric, metric]);
      this.controls.append(
        ...[
          options.length > 1 && choice("Metric", options, this.metric(), (value) => app.state.set({ metric: value })),
          toggle("95 % intervals", this.bands(), (on) => app.state.set({ bands: on ? "1" : "0" })),
          app.stepper(),
        ].filter(Boolean),
      );
      this.rest();
    }
    this.update();
  }

  step() {
    this.update();
    if (this.runs.length || this.unlabelled.length || this.found.length) this.rest();
  }

  /** The labels of a run with their values at the step. */
  now(run) {
    const series = this.series(run);
    return labelled(series, this.app.at(run, series));
  }

  of(run, metric) {
    const series = this.series(run);
    return curvesOf(series, this.app.at(run, series), metric);
  }

  rest() {
    const rows = [];
    const metric = this.metric();
    for (const run of this.runs) {
      const { original, ...parts } = this.of(run, metric);
      rows.push([run, "original", "", percent(...original), ""]);
      for (const [part] of PARTS) {
        for (const [radius, ...all] of parts[part]) {
          const change = 100 * (all[0] - original[0]);
          const text = Number.isFinite(change) ? `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(1)}${this.interval(run, metric, part, radius)} points` : "";
          rows.push([run, part.toUpperCase(), String(radius), percent(...all), text]);
        }
      }
    }
    const unalike = this.unalike();
    const counts = this.runs.flatMap((run) =>
      this.now(run)
        .filter(({ quantity, value }) => quantity === COUNT && Number.isFinite(value))
        .map(({ text, value }) => [run, text, String(value)]),
    );
    const tagged = this.unlabelled.flatMap((run) =>
      Object.entries(this.read[run] ?? {}).flatMap(([tag, series]) => {
        const k = this.app.at(run, series);
        return k < 0 ? [] : [[run, tag, figures(series.values[k] ?? NaN)]];
      }),
    );
    this.unfit.replaceChildren(
      ...(unalike.length ? [note(`Measured differently, so not to be compared: ${unalike.join("; ")}.`)] : []),
    );
    this.body.replaceChildren(
      ...(tagged.length
        ? [h("h2", {}, "Logged without labels, by an earlier version"), table(["run", "tag", "value"], tagged)]
        : []),
      ...(rows.length
        ? [h("h2", {}, `${metric}, and its change against the original`), table(["run", "variant", "radius", metric, "change"], rows)]
        : []),
      ...(this.found.length
        ? [h("h2", {}, "Pictures of the audit"), h("div", { class: "gallery" }, gallery(this.app, this.found))]
        : this.runs.length
          ? [note("The audit logged no pictures in these runs.")]
          : []),
      ...(counts.length
        ? [
            h(
              "details",
              { open: this.open, ontoggle: (event) => (this.open = event.target.open) },
              h("summary", {}, "How many images and objects fare better or worse than on the original"),
              table(["run", "what", "number"], counts),
            ),
          ]
        : []),
    );
  }

  plot() {
    if (!this.runs?.length) return null;
    const { app } = this;
    const metric = this.metric();
    const series = [];
    const radii = new Set();
    for (const run of this.runs) {
      const found = this.of(run, metric);
      const color = app.color(run);
      for (const [part, dash] of PARTS) {
        const list = found[part].filter(([radius]) => Number.isFinite(radius));
        for (const [radius] of list) radii.add(radius);
        const [x, y, low, high] = [0, 1, 2, 3].map((k) => list.map((one) => one[k]));
        series.push({ name: `${part.toUpperCase()} ${run}`, x, y, low, high, color, dash, points: true });
      }
    }
    const xTicks = [...radii].sort((a, b) => a - b);
    for (const run of this.runs) {
      const x = xTicks.length ? [xTicks[0], xTicks.at(-1)] : [0, 1];
      const [y, low, high] = this.of(run, metric).original.map((value) => x.map(() => value));
      series.push({ name: `original ${run}`, x, y, low, high, color: app.color(run), dash: DOTS, width: 1.5, points: xTicks.length === 1, bare: true });
    }
    const made = new Set(this.runs.map((run) => this.made(run)));
    const placed = this.runs.map((run) => [run, this.series(run)]);
    const name = (run) => (made.size > 1 ? `${run} (${this.made(run)})` : run);
    return lines(
      {
        title: `${metric} against radius at ${app.placesText(placed)}${made.size === 1 ? `, ${this.made(this.runs[0])}` : ""}`,
        panels: [{ series }],
        legend: [
          ...this.runs.map((run) => ({ name: name(run), color: app.color(run) })),
          ...this.signs().map((sign, k) => ({ name: sign, dash: PARTS[k][1] })),
          { name: "original", dash: DOTS },
        ],
        columns: 1,
        panelHeight: 320,
        xLabel: `radius r (${this.unit()})`,
        xTicks,
        xText: (radius) => `r = ${radius}`,
        yLabel: metric,
        yRange: [0, Math.min(1, 1.1 * Math.max(0.1, ...series.flatMap(({ y, high }) => [...y, ...(this.bands() ? (high ?? []) : [])].filter(Number.isFinite))))],
        bands: this.bands(),
        value: percent,
      },
      this.memory,
    );
  }

  signs() {
    return signs(this.runs.map((run) => this.about(run)));
  }

  unit() {
    const units = new Set(this.runs.map((run) => this.about(run)?.settings?.units));
    return [...units].map((unit) => (unit === "nyquist" ? "× Nyquist" : "cycles/image")).join(" or ");
  }

  /** AP50 that each kind of error costs, on LFC and on HFC of every run; the original dotted. */
  errorsPlot() {
    const { app } = this;
    const runs = (this.runs ?? []).filter((run) => this.beside(run, "lfc_errors"));
    if (!runs.length) return null;
    const kinds = [...new Set(runs.flatMap((run) => this.beside(run, "lfc_errors").names))];
    const look = (kind) => runStyle(kinds.indexOf(kind), app.theme());
    const ticks = new Set();
    const panels = runs.slice(0, RUNS).flatMap((run) =>
      PARTS.map(([part]) => {
        const take = (of, name) => {
          const found = this.beside(run, `${of}_errors${name}`);
          return (kind) => (found ? found.radii.map((_, row) => found.values[row * found.names.length + found.names.indexOf(kind)]) : []);
        };
        const [cost, found, before, foundBefore] = [part, "original"].flatMap((of) => [take(of, ""), take(of, "_found")]);
        const x = this.beside(run, `${part}_errors`)?.radii ?? [];
        for (const radius of x) ticks.add(radius);
        const ends = [x[0], x.at(-1)];
        const series = kinds.flatMap((kind) => [
          { name: kind, x, y: cost(kind), count: found(kind), ...look(kind), points: true },
          ...before(kind).map((value) => ({
            name: `${kind}, original`, keys: [kind, "original"], x: ends, y: [value, value],
            count: ends.map(() => foundBefore(kind)[0]), color: look(kind).color, dash: DOTS, width: 1.5,
          })),
        ]);
        return { title: `${runs.length > 1 ? `${run}, ` : ""}${part.toUpperCase()}`, series };
      }),
    );
    const rest = runs.length > RUNS ? `, of the first ${RUNS} of ${runs.length} runs` : "";
    return lines(
      {
        title: `Errors by kind against radius at ${app.placesText(runs.map((run) => [run, this.series(run)]))}${rest}`,
        panels,
        legend: [...kinds.map((kind) => ({ name: kind, ...look(kind), points: true })), { name: "original", dash: DOTS }],
        columns: 2,
        panelHeight: 260,
        xLabel: `radius r (${this.unit()})`,
        xTicks: [...ticks].sort((a, b) => a - b),
        xText: (radius) => `r = ${radius}`,
        yLabel: "AP50 lost to this kind",
        yRange: [0, 1.08 * Math.max(0.05, ...panels.flatMap(({ series }) => series.flatMap(({ y }) => y.filter(Number.isFinite))))],
        value: (value, low, high, count) => `${(100 * value).toFixed(1)} points${Number.isFinite(count) ? ` (${count} found)` : ""}`,
      },
      this.errorMemory,
    );
  }
}
