// Places in training: what the slider moves along, steps and epochs, and the axis of training.

import { choice, h } from "./dom.js";
import { Runs } from "./runs.js";

const NAMED = 3; // runs of which the slider says where they are
const PLAY_MS = 220;
const PROGRESS = "progress/epoch";

export class Places extends Runs {
  constructor(data, state) {
    super(data, state);
    this.steps = []; // where the slider can stand: a step for each place, and
    this.keys = []; // the epochs, or the same steps, that it stands for
    this.byEpoch = false;
    this.comparing = false;
    this.placed = []; // [run, series] of what is shown
    this.known = new WeakMap(); // epochs of a series
    this.epochOf = new Map(); // run → Series of the epochs that had ended at a step
    this.playing = null;
  }

  /**
   * What the slider moves along: the places of [run, series], by epoch if all have their own.
   *
   * @param comparing whether the view is of A and B: it then opens at the latest place of both
   */
  setSteps(placed, comparing = false) {
    this.placed = placed;
    this.comparing = comparing;
    this.byEpoch = placed.length > 0 && placed.every(([run, series]) => this.hasEpochs(run, series));
    const places = new Map();
    const longest = [...placed].sort((one, two) => two[1].steps.length - one[1].steps.length);
    for (const [run, series] of longest) {
      const keys = this.byEpoch ? this.epochs(run, series) : series.steps;
      keys.forEach((key, k) => places.has(key) || places.set(key, series.steps[k]));
    }
    this.keys = [...places.keys()].sort((a, b) => a - b);
    this.steps = this.keys.map((key) => places.get(key));
    this.drawStepper?.();
  }

  /** The epoch that the slider stands at, as the first run has it. */
  epochHere() {
    const [run, series] = this.placed[0] ?? [];
    return this.byEpoch ? this.position() : series ? this.epochs(run, series)[this.at(run, series)] : undefined;
  }

  /** The epoch, or the step, that the slider stands at. */
  position() {
    return this.keys[this.standing()];
  }

  /** The number of the step that the slider stands at; found once for a step, since all curves ask for it. */
  standing() {
    if (!this.steps.length) return -1;
    const wanted = this.state.get("step");
    if (this.stood?.steps !== this.steps || this.stood.wanted !== wanted || wanted === "") {
      this.stood = { steps: this.steps, wanted, place: this.steps.indexOf(this.nearest(wanted)) };
    }
    return this.stood.place;
  }

  nearest(text) {
    const wanted = Number(text);
    if (text === "" || !Number.isFinite(wanted)) return this.latest();
    return this.steps.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
  }

  /** The latest place of a series that is not after the slider's; −1 if there is none. */
  at(run, series) {
    if (!this.steps.length) return -1;
    if (!this.byEpoch || !this.hasEpochs(run, series)) return series.steps.findLastIndex((one) => one <= this.step());
    const key = this.position();
    const epochs = this.epochs(run, series);
    let [low, high] = [0, epochs.length]; // they increase
    while (low < high) {
      const middle = (low + high) >> 1;
      if (epochs[middle] <= key) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  /** Where a run is in what is shown of it, in words; if it has ended before, that, too. */
  placeOf(run, series) {
    const k = this.at(run, series);
    if (k < 0) return "nothing yet";
    const key = this.byEpoch ? this.epochs(run, series)[k] : series.steps[k];
    const over = k === series.steps.length - 1 && key < this.position() ? ", its last" : "";
    return this.placeText(run, series.steps[k]) + over;
  }

  /** Where the runs are: one place for all of them, or each with its name. */
  placesText(placed = this.placed) {
    const texts = placed.map(([run, series]) => this.placeOf(run, series));
    if (new Set(texts).size < 2) return texts[0] ?? "no step";
    const epochs = placed.map(([run, series]) => this.byEpoch && this.epochs(run, series)[this.at(run, series)]);
    const same = this.byEpoch && new Set(epochs).size === 1;
    const text = ([run, series], n) => `${run}: ${same ? `step ${series.steps[this.at(run, series)]}` : texts[n]}`;
    const some = placed.slice(0, NAMED).map(text).join("; ");
    const all = some + (placed.length > NAMED ? ` and ${placed.length - NAMED} more` : "");
    return same ? `epoch ${epochs[0]} (${all})` : all;
  }

  step() {
    return this.steps.length ? this.steps[this.standing()] : 0;
  }

  setStep(step) {
    this.state.set({ step: step === this.latest() ? "" : step }); // the latest one keeps following
  }

  /** The latest place there is, or that A and B both have if the view compares them. */
  latest() {
    const pair = this.comparing ? this.pair() : [];
    const own = this.placed
      .filter(([run, series]) => pair.includes(run) && series.steps.length)
      .map(([run, series]) => (this.byEpoch ? this.epochs(run, series) : series.steps));
    const end = Math.min(...own.map((keys) => keys.at(-1)));
    if (own.some(([start]) => start > end)) return this.steps.at(-1); // no common place
    return this.steps.at(this.keys.findLastIndex((key) => key <= end));
  }

  move(by) {
    const place = this.standing() + by;
    if (place >= 0 && place < this.steps.length) this.setStep(this.steps[place]);
    return place < this.steps.length - 1;
  }

  play(on) {
    clearInterval(this.playing);
    this.playing = null;
    if (on && this.steps.length > 1) {
      if (this.step() === this.steps.at(-1)) this.setStep(this.steps[0]);
      this.playing = setInterval(() => {
        if (!this.move(1)) this.play(false);
      }, PLAY_MS);
    }
    this.drawStepper?.();
  }

  /** Slider, arrows and play; it stays the same element while steps change. */
  stepper() {
    const slider = h("input", {
      type: "range",
      min: 0,
      step: 1,
      "aria-label": "Step",
      oninput: () => this.setStep(this.steps[Number(slider.value)]),
    });
    const play = h("button", { onclick: () => this.play(!this.playing) });
    const text = h("output");
    const element = h(
      "div",
      { class: "stepper" },
      play,
      h("button", { "aria-label": "Previous step", onclick: () => this.move(-1) }, "‹"),
      slider,
      h("button", { "aria-label": "Next step", onclick: () => this.move(1) }, "›"),
      text,
    );
    this.drawStepper = () => {
      slider.max = Math.max(0, this.steps.length - 1);
      slider.value = this.standing();
      slider.disabled = this.steps.length < 2;
      play.disabled = this.steps.length < 2;
      play.textContent = this.playing ? "Pause" : "Play";
      const both = this.placed.filter(([run]) => this.pair().includes(run));
      text.textContent = this.steps.length ? this.placesText(both.length ? both : this.placed) : "no steps";
    };
    this.drawStepper();
    return element;
  }

  async loadProgress(runs) {
    const read = await this.data.tensors(runs, [PROGRESS]);
    for (const [run, found] of read) {
      if (found[PROGRESS]) this.epochOf.set(run, found[PROGRESS]);
    }
  }

  epochs(run, series) {
    const progress = this.epochOf.get(run);
    const known = this.known.get(series);
    if (known?.progress === progress && known?.epochs.length === series.steps.length) return known.epochs;
    const epochs = series.steps.map((step) => {
      const k = progress ? progress.before(step) : -1;
      return k < 0 ? NaN : progress.values[k];
    });
    const own = epochs.every((epoch, k) => Number.isFinite(epoch) && (k === 0 || epoch > epochs[k - 1]));
    this.known.set(series, { progress, epochs, own });
    return epochs;
  }

  /** Whether each place of a series has an epoch of its own. */
  hasEpochs(run, series) {
    this.epochs(run, series);
    return this.known.get(series).own;
  }

  placeText(run, step) {
    const progress = this.epochOf.get(run);
    const k = progress ? progress.before(step) : -1;
    if (k < 0 || progress.values[k] === step) return `step ${step}`;
    return `step ${step} (epoch ${progress.values[k]})`;
  }

  axisChoice() {
    const options = [["auto", "automatic"], ["step", "step"], ["epoch", "epoch"], ["minutes", "minutes"]];
    return choice("Along", options, this.state.get("x"), (value) => this.state.set({ x: value }));
  }

  /** The weight of the past in smoothed lines, as TensorBoard's. */
  smoothingChoice() {
    const value = h("output", {}, this.state.get("smooth"));
    const slider = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: this.state.get("smooth"), oninput: () => (value.textContent = slider.value), onchange: () => this.state.set({ smooth: slider.value }) });
    return h("label", { class: "choice" }, h("span", {}, "Smoothing"), slider, value);
  }

  /** Where the data of a run lie along the training. */
  xAxis(runs, seriesOf) {
    const known = runs.every((run) => this.hasEpochs(run, seriesOf(run)));
    const wanted = this.state.get("x");
    const kind = wanted === "auto" || (wanted === "epoch" && !known) ? (known ? "epoch" : "step") : wanted;
    const places = {
      step: (run, series) => series.steps,
      epoch: (run, series) => this.epochs(run, series),
      minutes: (run, series) => {
        const start = this.data.index.runs.find((one) => one.name === run)?.start;
        const from = Number.isFinite(start) && start > 0 ? Math.min(start, series.wall_times[0]) : series.wall_times[0];
        return series.wall_times.map((time) => (time - from) / 60);
      },
    };
    const of = places[kind];
    return {
      label: kind,
      of,
      text: (x) => (kind === "minutes" ? `${x.toFixed(2)} minutes` : `${kind} ${x}`),
      step: (run, series, x) => {
        const xs = of(run, series);
        const k = xs.reduce((best, one, n) => (Math.abs(one - x) < Math.abs(xs[best] - x) ? n : best), 0);
        return series.steps[k];
      },
    };
  }
}
