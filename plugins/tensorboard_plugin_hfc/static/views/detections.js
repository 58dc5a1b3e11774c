// Average precision of a detector against the radius, and the audit's pictures.

import { differences, sameImages, signs } from "../alike.js";
import { Card, figures, percent } from "../charts/cards.js";
import { choice, h, note, table } from "../dom.js";
import { lines } from "../charts/lines.js";
import { gallery, pictures, placesOf } from "./examples.js";

const OURS = "hfc_detection/";
const HEATMAP = "hfc_detection_heatmap/figure"; // beside the audit's pictures
const COUNT = "count"; // of images or objects, no average precision
const SHOWN = 24;

export class DetectionsView {
  constructor(app) {
    this.app = app;
    this.memory = {};
    this.card = new Card("detection_ap", () => this.plot());
    this.controls = h("div", { class: "controls" });
    this.unfit = h("div"); // before the picture: it warns of it
    this.body = h("div");
    this.element = h("div", {}, this.controls, this.unfit, this.card.element, this.body);
  }

  static has(data) {
    const { scalars, images } = data.index;
    const tags = [...Object.values(scalars), ...Object.values(images)].flatMap(Object.keys);
    return tags.some((tag) => tag.startsWith(OURS)) || data.some(({ measurement }) => measurement === "detection_audit");
  }

  close() {
    this.card.close();
  }

  async load() {
    const { app } = this;
    const { scalars, images } = app.data.index;
    const ours = (tag) => tag.startsWith(OURS);
    const audits = ({ measurement, array }) => measurement === "detection_audit" && array === "scalars";
    this.tag = new Map();
    for (const run of app.selected()) {
      const [found] = app.data.find(run, audits);
      if (found) this.tag.set(run, found.tag);
    }
    this.runs = [...this.tag.keys()];
    // Earlier versions logged no labels: their numbers are shown by their tags.
    this.unlabelled = app.selected().filter((run) => !this.tag.has(run) && Object.keys(scalars[run] ?? {}).some(ours));
    const tags = [...new Set(this.unlabelled.flatMap((run) => Object.keys(scalars[run]).filter(ours)))];
    this.read = tags.length ? await app.data.scalars(this.unlabelled, tags) : {};
    this.arrays = await app.data.tensors(this.runs, [...new Set(this.tag.values())]);
    this.runs = this.runs.filter((run) => this.series(run));
    const kinds = this.runs.flatMap((run) => this.labels(run).map(({ quantity }) => quantity));
    this.metrics = [...new Set(kinds)].filter((kind) => kind && kind !== COUNT);
    await this.loadIntervals();
    const entries = app
      .selected()
      .flatMap((run) => Object.keys(images[run] ?? {}).map((tag) => ({ run, tag })))
      .filter(({ tag }) => ours(tag) || tag.startsWith(HEATMAP));
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

  labels(run) {
    const { labels } = this.series(run).content.axes[0];
    return Array.isArray(labels) ? labels : [];
  }

  /** Intervals of the differences to the original, by bootstrap over images, where logged. */
  async loadIntervals() {
    const { data } = this.app;
    const bounds = ["lfc", "hfc"].flatMap((part) => ["lower", "upper"].map((end) => `${part}_difference_${end}`));
    const fits = ({ array, axes }) => bounds.includes(array) && axes.length === 2 && axes[1].name === "metric";
    const found = this.runs.flatMap((run) => data.find(run, fits).map(({ tag }) => tag));
    this.intervals = found.length ? await data.tensors(this.runs, [...new Set(found)]) : new Map();
  }

  /** " [low, high] points" of a change, or nothing. */
  interval(run, metric, part, radius) {
    const ends = ["lower", "upper"].map((end) => {
      for (const series of Object.values(this.intervals.get(run) ?? {})) {
        const [radii, metrics] = series.content.axes;
        const row = radii.values?.indexOf(radius) ?? -1;
        const column = metrics.values?.indexOf(metric) ?? -1;
        const k = this.app.at(run, series);
        if (series.content.array !== `${part}_difference_${end}` || row < 0 || column < 0 || k < 0) continue;
        return 100 * series.at(k)[row * series.shape[1] + column];
      }
      return NaN;
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
          app.stepper(),
        ].filter(Boolean),
      );
      this.rest();
    }
    this.card.update();
  }

  step() {
    this.card.update();
    if (this.runs.length || this.unlabelled.length || this.found.length) this.rest();
  }

  /** The labels of a run with their values at the step. */
  now(run) {
    const series = this.series(run);
    const k = this.app.at(run, series);
    if (k < 0) return [];
    const width = series.shape[1];
    return this.labels(run).map((label, n) => ({ ...label, value: series.at(k)[n * width] }));
  }

  /** {original, lfc: [[radius, value]], hfc: […]} of a run at the step. */
  of(run, metric) {
    const found = this.now(run).filter(({ quantity }) => quantity === metric);
    const curve = (part) =>
      found
        .filter((one) => one.part === part)
        .map(({ radius, value }) => [radius === "inf" ? Infinity : radius, value])
        .sort((a, b) => a[0] - b[0]);
    return { original: found.find(({ part }) => part === "original")?.value ?? NaN, lfc: curve("lfc"), hfc: curve("hfc") };
  }

  rest() {
    const rows = [];
    for (const run of this.runs) {
      for (const metric of this.metrics) {
        const { original, lfc, hfc } = this.of(run, metric);
        rows.push([run, metric, "original", "", percent(original), ""]);
        for (const [name, list] of [["LFC", lfc], ["HFC", hfc]]) {
          for (const [radius, value] of list) {
            const change = 100 * (value - original);
            const text = Number.isFinite(change) ? `${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(1)}${this.interval(run, metric, name.toLowerCase(), radius)} points` : "";
            rows.push([run, metric, name, String(radius), percent(value), text]);
          }
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
      ...(counts.length
        ? [h("h2", {}, "How many fare better or worse than on the original"), table(["run", "what", "number"], counts)]
        : []),
      ...(tagged.length
        ? [h("h2", {}, "Logged without labels, by an earlier version"), table(["run", "tag", "value"], tagged)]
        : []),
      ...(rows.length
        ? [h("h2", {}, "Average precision, and its change against the original"), table(["run", "metric", "variant", "radius", "value", "change"], rows)]
        : []),
      ...(this.found.length
        ? [h("h2", {}, "Pictures of the audit"), h("div", { class: "gallery" }, gallery(this.app, this.found))]
        : this.runs.length
          ? [note("The audit logged no pictures in these runs.")]
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
      for (const [part, dash] of [["lfc", undefined], ["hfc", [6, 4]]]) {
        const list = found[part].filter(([radius]) => Number.isFinite(radius));
        for (const [radius] of list) radii.add(radius);
        const [x, y] = [list.map(([radius]) => radius), list.map(([, value]) => value)];
        series.push({ name: `${part.toUpperCase()} ${run}`, x, y, color, dash, points: true });
      }
    }
    const xTicks = [...radii].sort((a, b) => a - b);
    for (const run of this.runs) {
      const { original } = this.of(run, metric);
      const ends = xTicks.length ? [xTicks[0], xTicks.at(-1)] : [0, 1];
      series.push({ name: `original ${run}`, x: ends, y: ends.map(() => original), color: app.color(run), dash: [1, 3], width: 1.5, points: xTicks.length === 1 });
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
          { name: signs(this.runs.map((run) => this.about(run)))[0] },
          { name: signs(this.runs.map((run) => this.about(run)))[1], dash: [6, 4] },
          { name: "original", dash: [1, 3] },
        ],
        columns: 1,
        panelHeight: 320,
        xLabel: "radius r (cycles/image)",
        xTicks,
        xText: (radius) => `r = ${radius}`,
        yLabel: metric,
        yRange: [0, Math.min(1, 1.1 * Math.max(0.1, ...series.flatMap(({ y }) => y.filter(Number.isFinite))))],
        value: (value) => percent(value),
      },
      this.memory,
    );
  }
}
