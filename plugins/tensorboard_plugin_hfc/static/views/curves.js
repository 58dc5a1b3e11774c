// Accuracy on LFC and HFC: over training per radius, or at one step against the radius.

import { concerns, differences, how, sameImages, signs } from "../alike.js";
import { Card, percent } from "../charts/cards.js";
import { ordered, runColor } from "../charts/colors.js";
import { choice, h, note, segments, table, toggle } from "../dom.js";
import { fitted, lines } from "../charts/lines.js";
import { byChance, compare, points, verdict } from "../words.js";
import { seeds } from "../names.js";
import { Accuracies, DASH, PARTS } from "./accuracies.js";

const PANELS = 24;

export class CurvesView extends Accuracies {
  constructor(app) {
    super(app);
    this.open = true;
    this.zoom = { training: {}, radius: {} };
    this.card = new Card("curves", () => this.plot());
    this.words = h("section", { class: "words", "aria-live": "polite" });
    this.numbers = h("section");
    this.body = h("div");
    this.controls = h("div", { class: "controls" });
    this.element = h("div", {}, this.controls, this.words, this.card.element, this.numbers, this.body);
  }

  static has(data) {
    return data.some(({ measurement }) => measurement === "frequency_accuracy");
  }

  close() {
    this.card.close();
  }

  async load() {
    const { app } = this;
    const runs = app.selected();
    const all = [...new Set([...runs, ...app.pair()])].filter(Boolean);
    await this.read(all);
    this.runs = runs.filter((run) => this.curve(run, "hfc") || this.curve(run, "lfc"));
    this.without = runs.filter((run) => !this.runs.includes(run));
    this.radii = [...new Set(this.runs.flatMap((run) => this.radiiOf(run)))].sort((a, b) => a - b);
    app.setSteps(this.placed(), true);
  }

  placed() {
    return this.runs.map((run) => [run, this.any(run)]);
  }

  get unit() {
    return [...new Set(this.runs.map((run) => this.unitOf(run)))].join(" or ") || "cycles/image";
  }

  /** A run's name, with how it was measured if the runs shown differ in that. */
  named(run) {
    const of = (one) => how(this.any(one)?.content);
    return this.runs.every((one) => of(one) === of(run)) ? run : `${run} (${of(run) || "does not say how"})`;
  }

  /** How all runs shown were measured; "" if they differ. */
  together(brief = false) {
    const all = new Set(this.runs.map((run) => how(this.any(run)?.content, brief)));
    return all.size === 1 && [...all][0] ? `, ${[...all][0]}` : "";
  }

  signs() {
    return signs(this.runs.map((run) => this.any(run)?.content));
  }

  /** The legend's entries of LFC and HFC, with the marks of points if there are any. */
  partLegend(points) {
    const [low, high] = this.signs();
    const background = this.background();
    const all = { lfc: { name: low, points }, hfc: { name: high + (background && ` (${background} background)`), dash: DASH, points } };
    return this.parts().map((part) => all[part]);
  }

  /** As chosen; runs of one step alone, as an audit's, have no course of training to show. */
  mode() {
    const alone = this.runs.length > 0 && this.runs.every((run) => this.any(run).steps.length === 1);
    return this.app.state.get("mode") || (alone ? "radius" : "training");
  }

  parts() {
    const part = this.app.state.get("part");
    return part === "both" ? PARTS : [part];
  }

  show() {
    const { app } = this;
    const { state } = app;
    const mode = this.mode();
    const controls = [
      segments("Layout", [["training", "Over training"], ["radius", "Against radius"]], mode, (value) =>
        state.set({ mode: value }),
      ),
      segments("Part", [["both", "LFC and HFC"], ["lfc", "LFC"], ["hfc", "HFC"]], state.get("part"), (value) =>
        state.set({ part: value }),
      ),
      mode === "training" && app.axisChoice(this.runs),
      mode === "radius" &&
        this.groups().length > 0 &&
        toggle("Seeds as mean ± SD", state.get("seeds") === "1", (on) => state.set({ seeds: on ? "1" : "0" })),
      toggle("95 % intervals", state.get("bands") === "1", (on) => state.set({ bands: on ? "1" : "0" })),
      app.stepper(),
    ];
    this.controls.replaceChildren(...controls.filter(Boolean));
    this.body.replaceChildren();
    this.numbers.replaceChildren();
    if (!this.runs.length) {
      this.words.hidden = true;
      this.body.append(note("None of the chosen runs has logged FrequencyAccuracy; choose others on the left."));
    } else {
      this.tell();
      if (this.without.length) {
        this.body.append(note(`No FrequencyAccuracy in: ${this.without.join(", ")}.`));
      }
      if (this.runs.length > PANELS && mode === "training") {
        this.body.append(note(`The first ${PANELS} of ${this.runs.length} chosen runs have a panel each.`));
      }
    }
    this.card.update();
  }

  step() {
    if (!this.runs.length) return;
    this.tell();
    this.card.update();
  }

  plot() {
    if (!this.runs?.length) return null;
    return this.mode() === "radius" ? this.radiusPlot() : this.trainingPlot();
  }

  trainingPlot() {
    const { app } = this;
    const colors = ordered(this.radii.length, app.theme());
    const axis = app.xAxis(this.runs, (run) => this.any(run));
    const bands = app.state.get("bands") === "1";
    const panels = this.runs.slice(0, PANELS).map((run) => {
      const series = [];
      this.radii.forEach((radius, k) => {
        for (const part of this.parts()) {
          const found = this.over(run, part, radius, axis.of);
          if (!found) continue;
          const look = { color: colors[k], dash: part === "hfc" ? DASH : undefined };
          series.push({ name: `${part.toUpperCase()}(${radius})`, ...found, ...look });
        }
      });
      const original = this.curve(run, "original");
      if (original) {
        const own = (name) => this.curve(run, name);
        series.push({
          name: "original",
          x: axis.of(run, original),
          y: Array.from(original.values),
          low: own("original_lower") && Array.from(own("original_lower").values),
          high: own("original_upper") && Array.from(own("original_upper").values),
          color: app.theme().muted,
          dash: [1, 3],
          width: 1.5,
        });
      }
      return { title: this.named(run), series, lines: this.chanceLines([run]) };
    });
    const legend = [
      ...this.radii.map((radius, k) => ({ name: `r = ${radius}`, color: colors[k] })),
      ...this.partLegend(this.runs.some((run) => this.any(run).steps.length === 1)),
      { name: "original", color: app.theme().muted, dash: [1, 3] },
    ];
    const title = `Accuracy on low- and high-frequency components, r in ${this.unit}`;
    return lines(
      {
        title: title + this.together(true),
        label: title + this.together(),
        panels,
        legend,
        bands,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: "accuracy",
        yRange: fitted(panels, bands),
        value: percent,
        marker: axis.label === "minutes" ? undefined : axis.label === "epoch" ? app.epochHere() : app.step(),
        click: (x) => app.state.set({ step: axis.step(this.runs[0], this.any(this.runs[0]), x), mode: "radius" }),
      },
      this.zoom.training,
    );
  }

  /** Runs of several seeds, measured alike at the same radii: [[name, runs], …]. */
  groups() {
    const like = (run) => JSON.stringify([how(this.any(run).content), this.radiiOf(run)]);
    return seeds(this.runs).filter(([, runs]) => runs.length > 1 && runs.every((run) => like(run) === like(runs[0])));
  }

  /** Mean of some runs' curves, with the standard deviation between the runs as its band. */
  mean(runs, part) {
    const all = runs.map((run) => this.across(run, part)).filter(Boolean);
    if (all.length < 2) return null;
    const y = all[0].y.map((_, k) => all.reduce((sum, one) => sum + one.y[k], 0) / all.length);
    const spread = y.map((middle, k) => Math.sqrt(all.reduce((sum, one) => sum + (one.y[k] - middle) ** 2, 0) / (all.length - 1)));
    return { x: all[0].x, y, low: y.map((middle, k) => middle - spread[k]), high: y.map((middle, k) => middle + spread[k]) };
  }

  radiusPlot() {
    const { app } = this;
    const bands = app.state.get("bands") === "1";
    const series = [];
    const legend = [];
    const apart = new Set(this.placed().map(([run, own]) => app.placeOf(run, own))).size > 1;
    const groups = app.state.get("seeds") === "1" ? this.groups() : [];
    const grouped = new Set(groups.flatMap(([, runs]) => runs));
    for (const [name, runs] of groups) {
      const color = app.color(runs[0]);
      for (const part of this.parts()) {
        const found = this.mean(runs, part);
        const look = { color, dash: part === "hfc" ? DASH : undefined, points: true };
        if (found) series.push({ name: `${part.toUpperCase()} ${name}`, ...found, ...look });
      }
      legend.push({ name: `${name}: mean ± SD of ${runs.length} runs`, color });
    }
    for (const run of this.runs.filter((one) => !grouped.has(one))) {
      const color = app.color(run);
      for (const part of this.parts()) {
        const found = this.across(run, part);
        if (!found) continue;
        const look = { color, dash: part === "hfc" ? DASH : undefined, points: true };
        series.push({ name: `${part.toUpperCase()} ${run}`, ...found, ...look });
      }
      legend.push({ name: this.named(run) + (apart ? `, ${app.placeOf(run, this.any(run))}` : ""), color });
    }
    const panel = { series, lines: this.chanceLines(this.runs) };
    const title = "Accuracy against radius";
    return lines(
      {
        title: title + (apart ? "" : ` at ${app.placesText(this.placed())}`) + this.together(true), // the legend has the rest
        label: `${title} at ${app.placesText(this.placed())}${this.together()}`,
        panels: [panel],
        legend: [...legend, ...this.partLegend(true)],
        bands,
        columns: 1,
        panelHeight: 340,
        xLabel: `radius r (${this.unit})`,
        xTicks: this.radii,
        xText: (radius) => `r = ${radius} ${this.unit}`,
        yLabel: "accuracy",
        yRange: fitted([panel], bands),
        value: percent,
      },
      this.zoom.radius,
    );
  }

  /** The reading of run A against run B, and the table behind it. */
  tell() {
    const { app } = this;
    const [a, b] = app.pair();
    this.words.hidden = !(a && b && this.any(a) && this.any(b));
    if (this.words.hidden) return;
    const epochs = app.byEpoch;
    const keys = (run, series) => (epochs ? app.epochs(run, series) : series.steps);
    const where = (key) => (key === null ? "" : epochs ? `epoch ${key}` : `step ${key}`);
    const [one, two] = [a, b].map((run) => this.any(run).content);
    const unalike = differences(one, two);
    const refused = (part) => unalike.some((difference) => concerns(difference, part));
    const together = sameImages(one, two);
    const unit = this.unitOf(a);
    const radii = this.radiiOf(a).filter((radius) => this.radiiOf(b).includes(radius));
    const found = Object.fromEntries(
      PARTS.map((part) => [
        part,
        radii.map((radius) => {
          const [first, second] = [a, b].map((run) => this.over(run, part, radius, keys));
          return { radius, unit, found: first && second && compare(first, second, together, app.position()) };
        }),
      ]),
    );
    const guesses = [a, b].map((run) => this.guess(run)).filter(Boolean);
    const outcome = (part, { found }) => {
      if (refused(part)) return "measured differently";
      if (guesses.length) return "not above chance";
      if (!found.interval) return "no interval";
      return (found.differs ? `differs since ${where(found.since)}` : "no clear difference") + (found.paired ? ", paired" : "");
    };
    const rows = PARTS.flatMap((part) =>
      found[part]
        .filter((row) => row.found)
        .map((row) => [
          `${part.toUpperCase()}(${row.radius})`,
          percent(...row.found.a),
          percent(...row.found.b),
          refused(part) ? "" : points(row.found.difference, row.found.interval),
          outcome(part, row),
        ]),
    );
    const judged = PARTS.filter((part) => !refused(part)).flatMap((part) => found[part].filter((row) => row.found?.interval));
    const silent = [a, b].filter((run) => !this.any(run).content.provenance);
    const words = unalike.length
      ? [`${a} and ${b} were measured differently (${unalike.map(({ text }) => text).join("; ")}): not the same quantity, so no verdict.`, ...guesses]
      : guesses.length
        ? guesses
        : [verdict([a, b], found.hfc, where)];
    this.words.replaceChildren(...words.map((text) => h("p", { class: "verdict" }, text)));
    const shown = [...found.hfc, ...found.lfc].find((row) => row.found);
    const place = shown ? ` at ${where(shown.found.key)}` : "";
    const notes = [
      judged.length && !guesses.length && byChance(judged.length),
      together && `Both runs saw the same images${judged.some((row) => row.found.paired) ? ": they are compared image by image" : ""}.`,
      silent.length && `No provenance in ${silent.join(" and ")} (logged by an earlier version): judged as if images, data and normalisation were alike.`,
    ].filter(Boolean);
    this.numbers.replaceChildren(
      h(
        "details",
        { open: this.open, ontoggle: (event) => (this.open = event.target.open) },
        h("summary", {}, `Run A against run B${place}, in numbers`),
        table(["component", `A: ${a}`, `B: ${b}`, "A − B", "judged by the 95 % interval of A − B"], rows),
        note(notes.join(" ")),
      ),
    );
  }
}
