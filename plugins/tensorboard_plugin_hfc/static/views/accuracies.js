// Accuracy on LFC and HFC as runs have logged it, for the views that draw it.

import { guessing } from "../words.js";

export const DASH = [6, 4];
export const PARTS = ["lfc", "hfc"];
const VARIANTS = ["", "_lower", "_upper", "_count"];

export class Accuracies {
  constructor(app) {
    this.app = app;
  }

  /** Fetch the curves of some runs. */
  async read(runs) {
    const { app } = this;
    const tags = new Set();
    this.where = new Map();
    for (const run of runs) {
      const found = app.data.find(run, ({ measurement }) => measurement === "frequency_accuracy");
      const group = found.find(({ content }) => content.array === "hfc")?.group;
      if (group === undefined) continue;
      this.where.set(run, group);
      const original = VARIANTS.slice(0, 3).map((v) => `${group}/original${v}`);
      const bands = PARTS.flatMap((part) => VARIANTS.map((v) => `${group}/${part}${v}`));
      for (const tag of [...bands, ...original, `${group}/per_image`]) tags.add(tag);
    }
    await app.loadProgress(runs);
    this.arrays = await app.data.tensors(runs, [...tags]);
    this.made = new Map(); // curves over the steps
  }

  any(run) {
    return this.curve(run, "hfc") ?? this.curve(run, "lfc");
  }

  /** Where the slider stands in a run's curves; −1 before the first. */
  at(run) {
    const base = this.any(run);
    return base ? this.app.at(run, base) : -1;
  }

  curve(run, name) {
    return this.arrays.get(run)?.[`${this.where.get(run)}/${name}`];
  }

  axis(run) {
    return this.any(run)?.content.axes[0] ?? { values: [], unit: "cycles" };
  }

  radiiOf(run) {
    return this.axis(run).values ?? [];
  }

  unitOf(run) {
    return this.axis(run).unit === "nyquist" ? "× Nyquist" : "cycles/image";
  }

  /** Outcomes by image of one part and radius at a step: {packed, count}, or undefined. */
  outcomes(run, part, radius, step) {
    const series = this.curve(run, "per_image");
    const k = series?.place.get(step);
    if (k === undefined) return undefined;
    const [{ labels }, images] = series.content.axes;
    // The first of several k is the one that the curves show.
    const row = Array.isArray(labels) ? labels.findIndex((label) => label.part === part && label.radius === radius) : -1;
    if (row < 0 || !Number.isFinite(images.count)) return undefined;
    const width = series.shape[1];
    return { packed: series.at(k).subarray(row * width, (row + 1) * width), count: images.count };
  }

  /** One radius over the steps, at the places that `keys` gives. */
  over(run, part, radius, keys) {
    const tag = `${run}\n${part} ${radius}`;
    if (!this.made.has(tag)) this.made.set(tag, this.make(run, part, radius));
    const made = this.made.get(tag);
    const places = made && keys(run, this.curve(run, part));
    return made && { ...made, x: places, keys: places };
  }

  make(run, part, radius) {
    const column = this.radiiOf(run).indexOf(radius);
    const base = this.curve(run, part);
    if (column < 0 || !base) return null;
    const take = (variant) => {
      const series = this.curve(run, part + variant);
      if (!series) return undefined;
      return base.steps.map((step) => {
        const k = series.place.get(step);
        return k === undefined ? NaN : series.values[k * series.size + column];
      });
    };
    const [y, low, high, count] = VARIANTS.map(take);
    const bits = (k) => this.outcomes(run, part, radius, base.steps[k]);
    return { y, low, high, count, bits };
  }

  /** All radii at the k-th place, by default where the slider stands. */
  across(run, part, k = this.at(run)) {
    const base = this.curve(run, part);
    if (!base || k < 0) return null;
    const take = (variant) => {
      const series = this.curve(run, part + variant);
      const place = series?.place.get(base.steps[k]);
      return place === undefined ? undefined : Array.from(series.at(place));
    };
    const [y, low, high, count] = VARIANTS.map(take);
    return { x: this.radiiOf(run), y, low, high, count };
  }

  background(runs = this.runs) {
    const found = runs.map((run) => {
      const content = this.curve(run, "hfc")?.content;
      return content?.settings?.hfc_background ?? content?.hfc_background;
    });
    return [...new Set(found.filter(Boolean))].join(" or ");
  }

  /** Accuracy on the original images at the k-th place, with its interval. */
  original(run, k = this.at(run)) {
    return ["", "_lower", "_upper"].map((v) => this.curve(run, `original${v}`)?.values[k] ?? NaN);
  }

  chance(run) {
    return this.any(run)?.content.provenance?.chance ?? NaN;
  }

  /** Why a run's curves mean nothing at the k-th place: not above chance. "" if they may. */
  guess(run, k = this.at(run)) {
    return guessing(run, this.original(run, k), this.chance(run));
  }

  /** Lines at the chance of the runs' data. */
  chanceLines(runs) {
    const all = new Set(runs.map((run) => this.chance(run)).filter(Number.isFinite));
    return [...all].map((y) => ({ y, text: "chance", key: "chance" }));
  }
}
