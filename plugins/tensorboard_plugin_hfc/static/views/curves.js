// Accuracy on LFC and HFC: over training per radius, or at one step against the radius.

import { concerns, differences, how, sameImages, signs } from "../alike.js";
import { Card, percent } from "../charts/cards.js";
import { ordered } from "../charts/colors.js";
import { h, note, segments, sentences, table, toggle } from "../dom.js";
import { fitted } from "../charts/axes.js";
import { lines } from "../charts/lines.js";
import { byChance, compare, points, verdict } from "../words.js";
import { seeds } from "../names.js";
import { Accuracies, DASH, PARTS } from "./accuracies.js";

const PANELS = 24;

export class CurvesView extends Accuracies {
  constructor(app) {
    super(app);
    this.open = true;
    this.unfolded = {};
    this.zoom = { training: {}, runs: {}, radius: {} };
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
    const all = { lfc: { name: low, key: "lfc", points }, hfc: { name: high + (background && ` (${background} background)`), key: "hfc", dash: DASH, points } };
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
      segments("Layout", [["training", "Over training"], ["runs", "Runs together"], ["radius", "Against radius"]], mode, (value) =>
        state.set({ mode: value }),
      ),
      segments("Part", [["both", "LFC and HFC"], ["lfc", "LFC"], ["hfc", "HFC"]], state.get("part"), (value) =>
        state.set({ part: value }),
      ),
      mode !== "radius" && app.axisChoice(),
      mode !== "radius" && app.smoothingChoice(),
      mode === "radius" &&
        this.groups().length > 0 &&
        toggle("Seeds as mean ± SD", state.get("seeds") === "1", (on) => state.set({ seeds: on ? "1" : "0" })),
      mode !== "runs" && toggle("95 % intervals", state.get("bands") === "1", (on) => state.set({ bands: on ? "1" : "0" })),
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
    if (this.mode() === "radius") this.card.update();
    else this.card.moveTo(this.marker());
  }

  plot() {
    if (!this.runs?.length) return null;
    return this.mode() === "radius" ? this.radiusPlot() : this.trainingPlot();
  }

  /** The accuracy on original images over the training. */
  originalOver(run, of, look) {
    const original = this.curve(run, "original");
    if (!original) return [];
    const own = (name) => this.curve(run, name) && Array.from(this.curve(run, name).values);
    const [low, high] = [own("original_lower"), own("original_upper")];
    return [{ name: "original", x: of(run, original), y: Array.from(original.values), low, high, ...look }];
  }

  /** A panel for each run, with a line for each part and radius. */
  runPanels(of, colors) {
    const grey = { color: this.app.theme().muted, dash: [1, 3], width: 1.5 };
    return this.runs.slice(0, PANELS).map((run) => {
      const series = this.radii.flatMap((radius, k) =>
        this.parts().flatMap((part) => {
          const found = this.over(run, part, radius, of);
          const look = { color: colors[k], dash: part === "hfc" ? DASH : undefined, keys: [`r = ${radius}`, part] };
          return found ? [{ name: `${part.toUpperCase()}(${radius})`, ...found, ...look }] : [];
        }),
      );
      return { title: this.named(run), series: [...series, ...this.originalOver(run, of, grey)], lines: this.chanceLines([run]) };
    });
  }

  /** A panel for each part and radius, with a line for each run. */
  radiusPanels(of) {
    const panel = (title, each) => ({ title, series: this.runs.flatMap(each), lines: this.chanceLines(this.runs) });
    const look = (run) => ({ ...this.app.style(run), name: run, keys: [run], width: 1.6 });
    const original = panel("original", (run) => this.originalOver(run, of, look(run)));
    const parts = this.parts().flatMap((part) =>
      this.radii.map((radius) =>
        panel(`${part.toUpperCase()}(${radius})`, (run) => {
          const found = this.over(run, part, radius, of);
          return found ? [{ ...found, ...look(run), dash: part === "hfc" ? DASH : undefined }] : [];
        }),
      ),
    );
    return [original, ...parts].filter(({ series }) => series.length);
  }

  marker() {
    const { app } = this;
    const kind = app.xAxis(this.runs, (run) => this.any(run)).label;
    return kind === "minutes" ? undefined : kind === "epoch" ? app.epochHere() : app.step();
  }

  trainingPlot() {
    const { app } = this;
    const colors = ordered(this.radii.length, app.theme());
    const axis = app.xAxis(this.runs, (run) => this.any(run));
    const together = this.mode() === "runs";
    const bands = app.state.get("bands") === "1" && !together; // of many runs they cover each other
    const smoothing = Number(app.state.get("smooth")) || 0;
    const panels = together ? this.radiusPanels(axis.of) : this.runPanels(axis.of, colors);
    const legend = together
      ? this.runs.map((run) => ({ name: this.named(run), key: run, ...app.style(run) }))
      : [
          ...this.radii.map((radius, k) => ({ name: `r = ${radius}`, color: colors[k] })),
          ...this.partLegend(this.runs.some((run) => this.any(run).steps.length === 1)),
          { name: "original", color: app.theme().muted, dash: [1, 3] },
        ];
    const title = `Accuracy on low- and high-frequency components, r in ${this.unit}`;
    const how = this.together(true) + (smoothing ? `, smoothed by ${smoothing}` : "");
    return lines(
      {
        title: title + how,
        label: title + this.together(),
        panels,
        legend,
        bands,
        smoothing,
        panelHeight: together ? 190 : 230,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: "accuracy",
        yRange: fitted(panels, bands),
        value: percent,
        marker: this.marker(),
        click: (x) => app.state.set({ step: axis.step(this.runs[0], this.any(this.runs[0]), x), mode: "radius" }),
      },
      this.zoom[this.mode()],
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
      const style = app.style(runs[0]);
      for (const part of this.parts()) {
        const found = this.mean(runs, part);
        const look = { ...style, dash: part === "hfc" ? DASH : undefined, points: true, keys: [name, part] };
        if (found) series.push({ name: `${part.toUpperCase()} ${name}`, ...found, ...look });
      }
      legend.push({ name: `${name}: mean ± SD of ${runs.length} runs`, key: name, ...style });
    }
    for (const run of this.runs.filter((one) => !grouped.has(one))) {
      const style = app.style(run);
      for (const part of this.parts()) {
        const found = this.across(run, part);
        if (!found) continue;
        const look = { ...style, dash: part === "hfc" ? DASH : undefined, points: true, keys: [run, part] };
        series.push({ name: `${part.toUpperCase()} ${run}`, ...found, ...look });
      }
      legend.push({ name: this.named(run) + (apart ? `, ${app.placeOf(run, this.any(run))}` : ""), key: run, ...style });
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

  /** The reading of run A, or of all runs, against run B, and the tables behind it. */
  tell() {
    const { app } = this;
    const compared = app.compared().filter((run) => this.any(run));
    const [, b] = app.pair();
    this.words.hidden = !compared.includes(b) || compared.length < 2;
    if (this.words.hidden) return;
    const all = compared.filter((run) => run !== b);
    const found = all.map((run) => this.against(run, b)).sort((one, two) => two.size - one.size);
    this.words.replaceChildren(...sentences(found.flatMap(({ words }) => words), this.unfolded));
    const judged = found.reduce((sum, one) => sum + one.judged, 0);
    const notes = [judged && byChance(judged), ...found.flatMap((one) => one.notes)];
    this.numbers.replaceChildren(
      h(
        "details",
        { open: this.open, ontoggle: (event) => (this.open = event.target.open) },
        h("summary", {}, `${app.baseline() ? `Against the baseline ${b}` : "Run A against run B"}${found[0].place}, in numbers`),
        ...(app.baseline() ? [this.wide(found, b)] : found.map(({ table: one }) => one)),
        note([...new Set(notes.filter(Boolean))].join(" ")),
      ),
    );
  }

  /** The differences of all runs to the baseline in one table, a run in a row. */
  wide(found, b) {
    const names = [...new Set(found.flatMap(({ rows }) => rows.map(([name]) => name)))];
    const cell = (row) => (row && row[3] ? h(row[4].startsWith("differs") ? "b" : "span", {}, row[3].replace(" points", "")) : (row?.[4] ?? ""));
    const cells = ({ run, rows }) => [run, ...names.map((name) => cell(rows.find(([one]) => one === name)))];
    return h("div", {}, table([`run − ${b}, points`, ...names], found.map(cells)), note("Bold: the 95 % interval of the difference excludes 0."));
  }

  /**
   * What is said of a run against run B.
   *
   * @returns {run, size: of the largest clear difference in HFC,
   *   words, notes, table, rows, judged: how many, place}
   */
  against(a, b) {
    const { app } = this;
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
    const shown = [...found.hfc, ...found.lfc].find((row) => row.found);
    const notes = [
      together && `${app.baseline() ? `${a} and ${b}` : "Both runs"} saw the same images${judged.some((row) => row.found.paired) ? ": they are compared image by image" : ""}.`,
      silent.length && `No provenance in ${silent.join(" and ")} (logged by an earlier version): judged as if images, data and normalisation were alike.`,
    ];
    return {
      run: a,
      size: Math.max(0, ...found.hfc.filter((row) => row.found?.differs).map((row) => Math.abs(row.found.difference))),
      words,
      notes,
      rows,
      table: table(["component", `A: ${a}`, `B: ${b}`, "A − B", "judged by the 95 % interval of A − B"], rows),
      judged: guesses.length ? 0 : judged.length,
      place: shown ? ` at ${where(shown.found.key)}` : "",
    };
  }
}
