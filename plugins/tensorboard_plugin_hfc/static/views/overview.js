// All of a run at a glance: what it gets from which frequencies, in words and small pictures.

import { concerns, differences, sameImages } from "../alike.js";
import { Card, figures, percent } from "../charts/cards.js";
import { fitted } from "../charts/axes.js";
import { lines } from "../charts/lines.js";
import { maps, range, tiles } from "../charts/maps.js";
import { chip, h, note, sentences } from "../dom.js";
import { change, compare, outstanding, reading } from "../words.js";
import { Accuracies, DASH, PARTS } from "./accuracies.js";
import { curvesOf, firstMetric, isAudit } from "./detections.js";
import { kernelPicture, isSmoothness } from "./kernels.js";
import { isMap, mapTitle } from "./heatmap.js";

const SHOWN = 12; // runs
const KERNELS = 64;
const HIGH = 230; // of a picture
const COST = "hfc_cost/share";

export class OverviewView extends Accuracies {
  constructor(app) {
    super(app);
    this.cards = new Map(); // run → its pictures
    this.unfolded = {};
    this.memories = new Map(); // run → what its curves remember
    this.first = h("section", { class: "words" });
    this.body = h("div");
    this.element = h("div", {}, this.first, this.body);
  }

  static has() {
    return true;
  }

  close() {
    for (const cards of this.cards.values()) Object.values(cards).forEach((card) => card.close());
  }

  async load() {
    const { app } = this;
    this.all = app.selected();
    this.runs = this.all.slice(0, SHOWN);
    const costs = this.all.filter((run) => app.data.index.scalars[run]?.[COST]);
    const [, cost, ...rest] = await Promise.all([
      this.read(this.all),
      costs.length ? app.data.scalars(costs, [COST]) : {},
      ...this.runs.map(async (run) => [
        run,
        await this.latest(run, isMap),
        await this.latest(run, isSmoothness, "kernels"),
        await this.latest(run, isAudit),
      ]),
    ]);
    this.cost = cost;
    this.maps = new Map(rest.map(([run, map]) => [run, map]));
    this.kernels = new Map(rest.map(([run, , kernels]) => [run, kernels]));
    this.audits = new Map(rest.map(([run, , , audit]) => [run, audit]));
    app.setSteps([]);
  }

  /** The last array of a kind that a run has, or another one of its group. */
  async latest(run, fits, name) {
    const { data } = this.app;
    const [found] = data.find(run, fits);
    const tag = found && (name ? `${found.group}/${name}` : found.tag);
    if (!tag || !data.content(run, tag)) return null;
    const [, step] = data.index.tensors[run][tag];
    return (await data.tensorsAt(run, [tag], step))[tag] ?? null;
  }

  show() {
    const own = (run) => this.cards.get(run) ?? this.cards.set(run, this.pictures(run)).get(run);
    for (const run of this.cards.keys()) {
      if (this.runs.includes(run)) continue;
      Object.values(this.cards.get(run)).forEach((card) => card.close());
      this.cards.delete(run);
    }
    this.first.hidden = this.all.length < 2 || !this.where.size; // detectors alone have no such accuracies
    if (!this.first.hidden) this.first.replaceChildren(...sentences(this.headlines(), this.unfolded));
    // Runs that have a curve alone stand side by side.
    this.body.className = this.runs.some((run) => this.maps.get(run) || this.kernels.get(run)) ? "" : "columns";
    this.body.replaceChildren(
      ...this.runs.map((run) => this.one(run, Object.values(own(run)))),
      ...(this.all.length > SHOWN ? [note(`The first ${SHOWN} of ${this.all.length} chosen runs are drawn.`)] : []),
      ...(this.all.length ? [] : [note("Choose one run or more on the left.")]),
    );
    for (const cards of this.cards.values()) Object.values(cards).forEach((card) => card.update());
  }

  pictures(run) {
    return {
      curve: new Card("overview_curve", () => this.curvePlot(run)),
      map: new Card("overview_heatmap", () => this.mapPlot(run)),
      kernels: new Card("overview_kernels", () => this.kernelPlot(run)),
    };
  }

  one(run, cards) {
    const base = this.any(run);
    const last = base ? base.steps.length - 1 : -1;
    const share = this.cost[run]?.[COST]?.values.findLast(Number.isFinite);
    const at = base && this.app.placeText(run, base.steps[last]);
    const said = base ? this.guess(run, last) || reading(this.told(run, last), this.unitOf(run)) : this.detected(run) || "No LFC and HFC accuracy logged.";
    return h(
      "article",
      { class: "run" },
      h("h2", {}, chip(this.app.style(run)), ` ${run}${at ? `, ${at}` : ""}`),
      h("p", { class: "verdict" }, said),
      last > 0 && h("p", { class: "note" }, change(this.told(run, 0), this.told(run, last), this.app.placeText(run, base.steps[0]))),
      h("div", { class: "glance" }, cards.map((card) => card.element)),
      share !== undefined && h("p", { class: "note" }, `The probe has taken ${Number((100 * share).toPrecision(2))} % of the training's wall time.`),
    );
  }

  /** A detector's AP on originals, and on LFC and HFC of the middle radius; "" without an audit. */
  detected(run) {
    const audit = this.audits.get(run);
    const metric = audit && firstMetric(audit);
    if (!metric) return "";
    const { original, ...parts } = curvesOf(audit, 0, metric);
    const said = PARTS.flatMap((part) => {
      const [radius, ...all] = parts[part][parts[part].length >> 1] ?? [];
      return radius === undefined ? [] : [`${percent(...all)} on ${part.toUpperCase()}(${figures(radius)})`];
    });
    return `${metric} is ${percent(...original)} on the original images${said.length ? `; ${said.join(", ")}` : ""}.`;
  }

  /** Original, LFC and HFC accuracy at a place, for words. */
  told(run, k) {
    const of = (part) => {
      const found = this.across(run, part, k);
      return found && found.x.map((radius, n) => ({ radius, all: [found.y[n], found.low?.[n] ?? NaN, found.high?.[n] ?? NaN] }));
    };
    return { original: this.original(run, k), lfc: of("lfc"), hfc: of("hfc") };
  }

  /** The largest clear difference, or that of each run to the baseline if there is one. */
  headlines() {
    const base = this.app.baseline();
    const good = (run) => this.any(run) && !this.guess(run, this.any(run).steps.length - 1);
    if (!base || !this.any(base)) return [this.headline()];
    const others = this.all.filter((run) => run !== base);
    const found = others.map((run) => ({ run, rows: good(run) && good(base) ? this.rows([run, base]) : [] }));
    const size = ({ rows }) => Math.max(0, ...rows.filter((row) => row.found.differs).map((row) => Math.abs(row.found.difference)));
    found.sort((one, two) => size(two) - size(one));
    return found.map(({ run, rows }) => {
      if (!rows.length) return `${run}: not compared with ${base} (${this.why(run, this.all.filter(good), base)}).`;
      const said = outstanding(rows, 2, 2, []);
      return rows.some((row) => row.found.differs) ? said : `${run} and ${base}: ${said.charAt(0).toLowerCase()}${said.slice(1)}`;
    });
  }

  /** The largest clear difference: of run A and run B if somebody set them, else of all runs alike. */
  headline() {
    const runs = this.all.filter((run) => this.any(run) && !this.guess(run, this.any(run).steps.length - 1));
    const set = ["a", "b"].map((key) => this.app.state.get(key));
    const pair = set.every((run) => runs.includes(run)) ? this.rows(set) : [];
    const rows = pair.length ? pair : this.rows(runs);
    const compared = (part) => new Set(rows.filter((row) => row.part === part).flatMap(({ runs: some }) => some));
    const [low, high] = PARTS.map(compared);
    const out = pair.length ? [] : this.all.filter((run) => !low.has(run) || !high.has(run));
    const left = out.map((run) => {
      const part = low.has(run) ? "HFC of " : high.has(run) ? "LFC of " : "";
      const [like] = part === "LFC of " ? low : high.size ? high : low;
      return `${part}${run} (${this.why(run, runs, like)})`;
    });
    return outstanding(rows, runs.length, new Set([...low, ...high]).size, left);
  }

  /** Why a run is not compared with another one. */
  why(run, runs, like) {
    if (!this.any(run)) return "no LFC and HFC accuracy";
    if (!runs.includes(run)) return "not above chance";
    const found = like ? differences(this.any(run).content, this.any(like).content) : [];
    return found.map(({ what, text }) => (what === "data" ? "other data" : text)).join(", ") || "no place or radius in common";
  }

  /** Of some runs, those measured alike with a place in common, as many as there are, and that place. */
  alike(runs, part) {
    const { app } = this;
    let best = { runs: [] };
    for (const lead of runs) {
      const like = runs.filter((run) => {
        const found = differences(this.any(lead).content, this.any(run).content);
        return !found.some((difference) => concerns(difference, part));
      });
      const epochs = like.every((run) => app.hasEpochs(run, this.any(run)));
      const keys = (run, series) => (epochs ? app.epochs(run, series) : series.steps);
      for (const place of like.map((run) => keys(run, this.any(run)).at(-1))) {
        const there = like.filter((run) => {
          const own = keys(run, this.any(run));
          return own[0] <= place && place <= own.at(-1);
        });
        const later = there.length === best.runs.length && epochs === best.epochs && place > best.place;
        if (there.length > best.runs.length || later) best = { runs: there, place, keys, epochs };
      }
    }
    return best;
  }

  /** The largest difference between some runs at each part and radius. */
  rows(some) {
    const rows = [];
    for (const part of PARTS) {
      const { runs, place, keys, epochs } = this.alike(some, part);
      for (const radius of new Set(runs.flatMap((run) => this.radiiOf(run)))) {
        const curves = runs.map((run) => ({ run, curve: this.over(run, part, radius, keys) })).filter(({ curve }) => curve);
        const now = ({ curve }) => curve.y[curve.keys.findLastIndex((key) => key <= place)] ?? NaN;
        const known = curves.filter((one) => Number.isFinite(now(one))).sort((one, two) => now(two) - now(one));
        if (known.length < 2) continue;
        const [most, least] = [known[0], known.at(-1)];
        const same = sameImages(this.any(most.run).content, this.any(least.run).content);
        const found = compare(most.curve, least.curve, same, place);
        if (!found) continue;
        const at = `${epochs ? "epoch" : "step"} ${found.key}`;
        rows.push({ part, radius, unit: this.unitOf(most.run), at, names: [most.run, least.run], runs: known.map(({ run }) => run), found });
      }
    }
    return rows;
  }

  curvePlot(run) {
    const base = this.any(run);
    if (!base) return this.auditPlot(run);
    const last = base.steps.length - 1;
    const { color, shape } = this.app.style(run);
    const series = PARTS.flatMap((part) => {
      const dash = part === "hfc" ? DASH : undefined;
      const name = part.toUpperCase();
      const start = last > 0 && this.across(run, part, 0);
      const end = this.across(run, part, last);
      return [
        start && { name: `${name} at the start`, keys: ["start"], x: start.x, y: start.y, color: `${color}88`, dash, width: 1.2 },
        end && { name, ...end, color, shape, dash, points: true },
      ].filter(Boolean);
    });
    const [original] = this.original(run, last);
    const background = this.background([run]);
    const level = Number.isFinite(original) ? [{ y: original, text: "original" }] : [];
    const panel = { series, lines: [...level, ...this.chanceLines([run])] };
    return lines(
      {
        title: "Accuracy against radius",
        label: `Accuracy against radius of ${run}`,
        panels: [panel],
        legend: series
          .filter(({ name }) => !name.startsWith("HFC at"))
          .map(({ name, keys, color: own, dash, points }) => ({
            name: keys ? "at the start" : name === "HFC" && background ? `HFC (${background} background)` : name,
            key: keys?.[0] ?? name,
            ...{ color: own, dash, points, shape: points && shape },
          })),
        columns: 1,
        panelHeight: HIGH,
        xLabel: `radius r (${this.unitOf(run)})`,
        xTicks: this.radiiOf(run),
        xText: (radius) => `r = ${radius} ${this.unitOf(run)}`,
        yLabel: "accuracy",
        yRange: fitted([panel]),
        value: percent,
      },
      this.memories.get(run) ?? this.memories.set(run, {}).get(run),
    );
  }

  auditPlot(run) {
    const audit = this.audits.get(run);
    const metric = audit && firstMetric(audit);
    if (!metric) return null;
    const { original, ...parts } = curvesOf(audit, 0, metric);
    const { color, shape } = this.app.style(run);
    const series = PARTS.map((part) => {
      const [x, y, low, high] = [0, 1, 2, 3].map((k) => parts[part].filter(([radius]) => Number.isFinite(radius)).map((one) => one[k]));
      return { name: part.toUpperCase(), x, y, low, high, color, shape, dash: part === "hfc" ? DASH : undefined, points: true };
    });
    const { settings } = audit.content;
    const unit = settings?.units === "nyquist" ? "× Nyquist" : "cycles/image";
    const names = { HFC: settings?.hfc_background ? `HFC (${settings.hfc_background} background)` : "HFC" };
    const panel = { series, lines: Number.isFinite(original[0]) ? [{ y: original[0], text: "original" }] : [] };
    return lines(
      {
        title: `${metric} against radius`,
        label: `${metric} against radius of ${run}`,
        panels: [panel],
        legend: series.map(({ name, ...look }) => ({ ...look, name: names[name] ?? name, key: name })),
        columns: 1,
        panelHeight: HIGH,
        xLabel: `radius r (${unit})`,
        xTicks: series[0].x,
        xText: (radius) => `r = ${radius} ${unit}`,
        yLabel: metric,
        yRange: fitted([panel]),
        value: percent,
      },
      this.memories.get(run) ?? this.memories.set(run, {}).get(run),
    );
  }

  mapPlot(run) {
    const map = this.maps.get(run);
    if (!map) return null;
    const { axes, unit, measurement } = map.content;
    const [i, j] = axes.map(({ values }) => values);
    const values = map.at(0);
    const [low, high] = unit === "error rate" ? [0, 1] : range(values); // one scale for all runs
    const say = (value) => (unit === "error rate" ? percent(value) : figures(value));
    const where = axes[0].unit || "cycles/image";
    const tip = (row, column) => ({
      title: `i = ${i[row]}, j = ${j[column]} (${where})`,
      lines: [{ text: `${unit || "value"}: ${say(values[row * j.length + column])}` }],
    });
    const title = measurement === "fourier_heatmap" ? "Errors under Fourier noise" : mapTitle({ ...map.content, noise: map.content.noise && "" });
    return maps({
      title,
      label: `${title} of ${run}`,
      panels: [{ title: this.app.placeText(run, map.steps[0]), values, map: "viridis", low, high, unit: unit || "value", tip }],
      i,
      j,
      unit: where,
      size: HIGH,
      cells: [],
    });
  }

  kernelPlot(run) {
    const kernels = this.kernels.get(run);
    if (!kernels) return null;
    const [count, ...shape] = kernels.shape;
    const size = kernels.size / count;
    const own = (k) => kernels.values.subarray(k * size, (k + 1) * size);
    const list = Array.from({ length: Math.min(count, KERNELS) }, (_, k) => ({
      image: kernelPicture(own(k), shape),
      kernel: k,
      text: `Kernel ${k} of ${run}`,
      lines: [],
    }));
    const some = count > KERNELS ? `, ${KERNELS} of ${count}` : "";
    return tiles({
      title: `Kernels of the first layer${some}`,
      label: `Kernels of the first layer of ${run}`,
      panels: [{ title: this.app.placeText(run, kernels.steps[0]), tiles: list }],
      room: HIGH + 20,
      rows: () => [["kernel", "weights"], ...list.map(({ kernel }) => [kernel, Array.from(own(kernel), figures).join(" ")])],
    });
  }
}
