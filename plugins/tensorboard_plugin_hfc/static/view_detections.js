// Average precision of a detector against the radius, and the audit's pictures.

import { differences, sameImages, signs } from "./alike.js";
import { Card, percent } from "./cards.js";
import { choice, h, note, table } from "./dom.js";
import { lines } from "./lines.js";
import { gallery, pictures } from "./view_examples.js";

const TAG = /^hfc_detection\/([^/]+)\/(original|(lfc|hfc)_r([\d.]+|inf))$/;
const COUNTS = /^(images|objects)_(\w+?)(_any)?$/; // how many are better or worse than on the original
const SHOWN = 24;

export class DetectionsView {
  constructor(app) {
    this.app = app;
    this.memory = {};
    this.card = new Card("detection_ap", () => this.plot());
    this.controls = h("div", { class: "controls" });
    this.body = h("div");
    this.element = h("div", {}, this.controls, this.card.element, this.body);
  }

  close() {
    this.card.close();
  }

  async load() {
    const { app } = this;
    const { scalars, images } = app.data.index;
    const ours = (tag) => TAG.test(tag);
    this.runs = app.selected().filter((run) => Object.keys(scalars[run] ?? {}).some(ours));
    const tags = [...new Set(this.runs.flatMap((run) => Object.keys(scalars[run]).filter(ours)))];
    const metrics = [...new Set(tags.map((tag) => TAG.exec(tag)[1]))];
    this.metrics = metrics.filter((metric) => !COUNTS.test(metric));
    this.counts = metrics.filter((metric) => COUNTS.test(metric));
    await this.loadIntervals();
    this.read = this.runs.length ? await app.data.scalars(this.runs, tags) : {};
    const entries = app
      .selected()
      .flatMap((run) => Object.keys(images[run] ?? {}).map((tag) => ({ run, tag })))
      .filter(({ tag }) => tag.startsWith("hfc_detection/"));
    this.found = await pictures(app, entries.slice(0, SHOWN));
    const steps = new Set(this.found.flatMap(({ steps }) => steps.map(({ step }) => step)));
    for (const run of this.runs) {
      for (const { steps: own } of Object.values(this.read[run] ?? {})) for (const step of own) steps.add(step);
    }
    app.setSteps(steps);
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
        const k = series.before(this.app.step());
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
      const known = one[1].provenance?.images && content.provenance?.images;
      if (known && !sameImages(one[1], content)) texts.push("other images");
      return texts.map((text) => `${one[0]} and ${run}: ${text}`);
    });
  }

  about(run) {
    return this.app.data.find(run, ({ measurement }) => measurement === "detection_audit")[0]?.content;
  }

  metric() {
    const wanted = this.app.state.get("metric");
    return this.metrics.includes(wanted) ? wanted : this.metrics[0];
  }

  show() {
    const { app } = this;
    const nothing = !this.runs.length && !this.found.length;
    this.controls.replaceChildren();
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
    if (this.runs.length || this.found.length) this.rest();
  }

  /** {original, lfc: [[radius, value]], hfc: […]} of a run at the step. */
  of(run, metric) {
    const step = this.app.step();
    const out = { original: NaN, lfc: [], hfc: [] };
    for (const [tag, { steps, values }] of Object.entries(this.read[run] ?? {})) {
      const [, own, what, part, radius] = TAG.exec(tag) ?? [];
      if (own !== metric) continue;
      const k = steps.findLastIndex((one) => one <= step);
      const value = k < 0 || values[k] === null ? NaN : values[k];
      if (what === "original") out.original = value;
      else if (k >= 0) out[part].push([radius === "inf" ? Infinity : Number(radius), value, steps[k]]);
    }
    for (const part of ["lfc", "hfc"]) {
      // A radius may have been logged under two tags, r064 and r64: the later one counts.
      const latest = new Map(out[part].sort((a, b) => a[2] - b[2]).map((one) => [one[0], one]));
      out[part] = [...latest.values()].sort((a, b) => a[0] - b[0]);
    }
    return out;
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
      this.counts.flatMap((metric) => {
        const [, what, direction, any] = COUNTS.exec(metric);
        const found = this.of(run, metric);
        const kind = any ? "by any margin" : "by the audit's margin";
        return ["lfc", "hfc"].flatMap((part) =>
          found[part].map(([radius, value]) => [
            run,
            `${part.toUpperCase()}(${radius})`,
            `${what}: ${direction}`,
            kind,
            Number.isFinite(value) ? String(value) : "",
          ]),
        );
      }),
    );
    this.body.replaceChildren(
      ...(unalike.length ? [note(`Measured differently, so not to be compared: ${unalike.join("; ")}.`)] : []),
      ...(counts.length
        ? [h("h2", {}, "How many fare better or worse than on the original"), table(["run", "variant", "what", "counted", "number"], counts)]
        : []),
      ...(rows.length
        ? [h("h2", {}, "Average precision, and its change against the original"), table(["run", "metric", "variant", "radius", "value", "change"], rows)]
        : []),
      ...(this.found.length
        ? [h("h2", {}, "Pictures of the audit"), h("div", { class: "gallery" }, gallery(this.app, this.found, this.app.step()))]
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
      series.push({ name: `original ${run}`, x: ends, y: ends.map(() => original), color: app.color(run), dash: [1, 3], width: 1.5 });
    }
    return lines(
      {
        title: `${metric} against radius`,
        panels: [{ series }],
        legend: [
          ...this.runs.map((run) => ({ name: run, color: app.color(run) })),
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
