// First-layer kernels and their spectra as grids, and how smooth they are, over training.

import { Card, figures } from "../charts/cards.js";
import { choice, h, note } from "../dom.js";
import { lines } from "../charts/lines.js";
import { maps, picture, range, tiles } from "../charts/maps.js";
import { powerSpectrum } from "../spectra.js";

// Spectra are derived from the weights, a tenth of the numbers or less.
const ARRAYS = ["kernels", "high_frequency_ratio", "spectral_centroid"];
const SHOWN = 128;
const WHOLE = 12e6; // numbers of one run that are fetched for all steps at once
const PAUSE_MS = 40; // a key held down asks for the step it ends on
const BINS = 25;
const SHADE = "#56b4e9";

/** A kernel as a picture: colour if it has three channels, else the channels' mean. */
export function kernelPicture(values, [channels, rows, columns], canvas = document.createElement("canvas")) {
  const size = rows * columns;
  const grey = (k) => {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += values[c * size + k];
    return sum / channels;
  };
  if (channels !== 3) {
    const mean = Float32Array.from({ length: size }, (_, k) => grey(k));
    const peak = Math.max(...range(mean).map(Math.abs)) || 1;
    return picture(mean, rows, columns, "grey", -peak, peak, canvas);
  }
  const peak = Math.max(...range(values).map(Math.abs)) || 1;
  if (canvas.width !== columns) canvas.width = columns;
  if (canvas.height !== rows) canvas.height = rows;
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  for (let k = 0; k < size; k++) {
    for (let c = 0; c < 3; c++) image.data[4 * k + c] = 128 + (127 * values[c * size + k]) / peak;
    image.data[4 * k + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

export const isSmoothness = ({ measurement, array, axes }) =>
  measurement === "kernel_spectra" && array === "smoothness" && axes.length === 1;

export class KernelsView {
  constructor(app) {
    this.app = app;
    this.lists = new WeakMap();
    this.canvases = new Map();
    this.zoom = { history: {}, kernel: {} };
    this.cards = {
      grid: new Card("kernels", () => this.gridPlot()),
      history: new Card("kernel_smoothness", () => this.historyPlot()),
      spectrum: new Card("kernel_spectrum", () => this.spectrumPlot()),
      one: new Card("kernel_history", () => this.onePlot()),
    };
    this.controls = h("div", { class: "controls" });
    this.body = h("div");
    const { grid, history, spectrum, one } = this.cards;
    const pair = h("div", { class: "pair" }, spectrum.element, one.element);
    this.element = h("div", {}, this.controls, grid.element, pair, history.element, this.body);
  }

  static has(data) {
    return data.some(isSmoothness);
  }

  close() {
    clearTimeout(this.timer);
    this.fetching?.abort();
    for (const card of Object.values(this.cards)) card.close();
  }

  async load() {
    const { app } = this;
    this.pair = app.pair().filter(Boolean);
    const found = new Map(this.pair.map((run) => [run, app.data.find(run, isSmoothness)]));
    const groups = [...new Set([...found.values()].flatMap((list) => list.map(({ group }) => group)))];
    const wanted = app.state.get("layer");
    this.groups = groups;
    this.wanted = groups.includes(wanted) ? wanted : groups[0];
    // Two runs may call their first layer by different names: each then shows its own.
    this.group = new Map();
    for (const [run, list] of found) {
      const own = list.find(({ group }) => group === this.wanted) ?? list[0];
      if (own) this.group.set(run, own.group);
    }
    const runs = [...this.group.keys()];
    const tags = [...new Set([...this.group.values()].map((group) => `${group}/smoothness`))];
    await app.loadProgress(runs);
    const read = await app.data.tensors(runs, tags);
    this.smoothness = new Map();
    for (const run of runs) {
      const series = read.get(run)?.[`${this.group.get(run)}/smoothness`];
      if (!series) continue;
      this.smoothness.set(run, series);
    }
    app.setSteps([...this.smoothness], true);
    this.whole = new Map();
    this.single = new Map();
    await this.fetchStep();
    this.fetchWhole();
  }

  /** The layer of a run's kernels, with the kernels' size, in words. */
  layerOf(run) {
    const layer = this.group.get(run)?.split("/").slice(1).join("/");
    const [, , rows, columns] = this.arraysAt(run)?.kernels?.[1] ?? [];
    return `${layer ? `layer ${layer}` : "the model"}${rows ? ` (${rows}×${columns})` : ""}`;
  }

  layers() {
    return [...new Set([...this.smoothness.keys()].map((run) => this.layerOf(run)))];
  }

  /** A run's name, with its layer if the two runs' layers differ in name or size. */
  named(run) {
    return this.layers().length > 1 && this.smoothness.has(run) ? `${run}, ${this.layerOf(run)}` : run;
  }

  tags(run) {
    const group = this.group.get(run);
    return ARRAYS.map((name) => `${group}/${name}`).filter((tag) => this.app.data.content(run, tag));
  }

  stepOf(run) {
    const series = this.smoothness.get(run);
    const k = series ? this.app.at(run, series) : -1;
    return k < 0 ? null : series.steps[k];
  }

  async fetchStep() {
    this.fetching?.abort(); // what is not shown any more
    const { signal } = (this.fetching = new AbortController());
    await Promise.all(
      [...this.smoothness.keys()].map(async (run) => {
        const step = this.stepOf(run);
        if (step === null || this.here(run)) return;
        const found = await this.app.data.tensorsAt(run, this.tags(run), step, signal);
        if (!signal.aborted) this.single.set(run, { step, found });
      }),
    );
  }

  /** Whether a run's kernels at the step that the slider stands at have come. */
  here(run) {
    return this.whole.has(run) || this.single.get(run)?.step === this.stepOf(run);
  }

  /** All steps in the background if that is not too much, so that the slider is quick. */
  async fetchWhole() {
    const { smoothness, whole } = this;
    for (const [run, series] of smoothness) {
      const one = this.single.get(run)?.found ?? {};
      const numbers = Object.values(one).reduce((sum, { size }) => sum + size, 0) * series.steps.length;
      if (!numbers || numbers > WHOLE) continue;
      try {
        const tags = this.tags(run);
        const found = (await this.app.data.tensors([run], tags)).get(run);
        if (whole === this.whole) whole.set(run, found);
      } catch {
        return; // step by step then
      }
    }
    if (whole === this.whole) this.element.dataset.whole = String(whole.size);
  }

  /** The step of a run that is drawn: the slider's, or while that is fetched the one before it. */
  shown(run) {
    const step = this.stepOf(run);
    return step === null || this.here(run) ? step : (this.single.get(run)?.step ?? step);
  }

  /** {kernels: [values, shape], …} of a run at the step drawn; null before the first has come. */
  arraysAt(run) {
    const step = this.shown(run);
    const from = this.whole.get(run) ?? this.single.get(run)?.found;
    if (step === null || !from) return null;
    const out = {};
    for (const name of ARRAYS) {
      const series = from[`${this.group.get(run)}/${name}`];
      const k = series?.place.get(step);
      if (k !== undefined) out[name] = [series.at(k), series.shape];
    }
    return out;
  }

  show() {
    const { app } = this;
    this.controls.replaceChildren();
    this.body.replaceChildren();
    if (!this.smoothness.size) {
      this.body.append(
        note(
          this.pair.length
            ? `${this.pair.join(" and ")}: no kernels logged. Choose other runs as A and B, or add KernelSpectra() to measurements= of hfc_probe.attach.`
            : "Choose the runs to compare with the letters A and B on the left.",
        ),
      );
    } else {
      const orders = [["smoothness", "smoothness"], ["index", "index"]];
      this.controls.append(
        choice("Layer", this.groups.map((group) => [group, group.split("/").slice(1).join("/") || group]), this.wanted, (value) =>
          app.state.set({ layer: value }),
        ),
        app.stepper(),
        choice("Order", orders, app.state.get("order"), (value) => app.state.set({ order: value })),
      );
      if (this.layers().length > 1) {
        this.body.append(note(`Different layers, ${this.layers().join(" and ")}: their smoothness is not the same quantity.`));
      }
      if (!this.chosen()) this.body.append(note("Click a kernel to see its spectrum and its history."));
    }
    for (const card of Object.values(this.cards)) card.update();
  }

  step() {
    if (!this.smoothness.size) return;
    const { grid, history, spectrum, one } = this.cards;
    const update = () => {
      for (const card of [grid, spectrum]) card.update();
      history.moveTo(this.marker());
      one.moveTo(this.marker([this.chosen()?.run].filter(Boolean)));
    };
    update();
    clearTimeout(this.timer);
    if ([...this.smoothness.keys()].every((run) => this.stepOf(run) === null || this.here(run))) return;
    this.timer = setTimeout(() => {
      this.fetchStep()
        .then(update)
        .catch((error) => error.name !== "AbortError" && this.app.fail(error));
    }, PAUSE_MS);
  }

  smooth(run) {
    const series = this.smoothness.get(run);
    const k = series?.place.get(this.shown(run));
    return k === undefined ? null : series.at(k);
  }

  order(run) {
    const values = this.smooth(run);
    if (!values) return [];
    const order = Array.from(values.keys());
    if (this.app.state.get("order") === "smoothness") {
      const key = (k) => (Number.isFinite(values[k]) ? values[k] : -1); // kernels of zeros come last
      order.sort((a, b) => key(b) - key(a) || a - b);
    }
    return order;
  }

  /** The canvas of a tile; made once, since a step draws hundreds of them. */
  canvas(key) {
    if (!this.canvases.has(key)) this.canvases.set(key, document.createElement("canvas"));
    return this.canvases.get(key);
  }

  gridPlot() {
    if (!this.smoothness?.size) return null;
    const { app } = this;
    const panels = [];
    let cut = 0;
    let part = "";
    this.pair.forEach((run, n) => {
      const letter = "AB"[n];
      const arrays = this.smoothness.has(run) ? this.arraysAt(run) : null;
      const order = this.order(run);
      const values = this.smooth(run);
      // Of a wide layer only the first kernels are logged, with the smoothness of all.
      const logged = arrays?.kernels?.[1][0] ?? order.length;
      const there = order.filter((k) => k < logged);
      cut = Math.max(cut, there.length - SHOWN);
      if (there.length < order.length) part = `, the ${there.length} logged of ${order.length}`;
      const place = arrays ? `, ${this.here(run) ? app.placeOf(run, this.smoothness.get(run)) : `${app.placeText(run, this.shown(run))}, loading …`}` : "";
      const empty = !this.smoothness.has(run)
        ? "no kernels logged"
        : this.stepOf(run) === null
          ? "nothing yet at this step"
          : "loading …";
      for (const name of ["kernels", "spectra"]) {
        const [all, shape] = arrays?.kernels ?? [null, null];
        const points = this.spectrumAxis(run)?.length;
        const list = all && (name === "kernels" || points)
          ? there.slice(0, SHOWN).map((k) => {
              const size = all.length / shape[0];
              const own = all.subarray(k * size, (k + 1) * size);
              const power = name === "spectra" && this.spectrum(run, own, shape);
              const canvas = this.canvas(`${letter} ${name} ${k}`);
              const image = power ? picture(power, points, points, "magma", 0, range(power)[1], canvas) : kernelPicture(own, shape.slice(1), canvas);
              const number = (other) => arrays[other]?.[0][k];
              return {
                image,
                kernel: k,
                text: `Kernel ${k} of ${run}`,
                lines: [
                  `smoothness ${figures(values[k])}`,
                  Number.isFinite(number("high_frequency_ratio")) &&
                    `power beyond 0.25 cycles/pixel: ${(100 * number("high_frequency_ratio")).toFixed(0)} %`,
                  Number.isFinite(number("spectral_centroid")) &&
                    `spectral centroid ${figures(number("spectral_centroid"))} cycles/pixel`,
                ].filter(Boolean),
              };
            })
          : [];
        const what = name === "kernels" ? "kernels" : "power spectra, DC in the middle";
        panels.push({ title: `${letter}: ${this.named(run)}, ${what}${place}`, tiles: list, letter: letter.toLowerCase(), empty });
      }
    });
    const order = app.state.get("order") === "smoothness" ? "smoothest first" : "by index";
    const some = part + (cut > 0 ? `, the first ${SHOWN}` : "");
    return tiles({
      title: `Kernels of ${this.layers().join(" and ")}, ${order}${some}; each scaled by itself, grey is 0`,
      label: `Kernels and their spectra: ${panels.map(({ title }) => title).join("; ")}`,
      panels,
      click: (panel, tile) => {
        const key = `${panel.letter}:${tile.kernel}`;
        app.state.set({ kernel: app.state.get("kernel") === key ? "" : key });
      },
      chosen: (panel, tile) => app.state.get("kernel") === `${panel.letter}:${tile.kernel}`,
      rows: () => {
        const out = [["run", "kernel", "smoothness", "high_frequency_ratio", "spectral_centroid", "weights"]];
        for (const run of this.pair) {
          const arrays = this.arraysAt(run);
          if (!arrays) continue;
          for (const k of this.order(run)) {
            // Beyond those logged there are numbers, but no weights.
            const [all, shape] = arrays.kernels ?? [new Float32Array(), [1]];
            const size = all.length / shape[0];
            const weights = Array.from(all.subarray(k * size, (k + 1) * size), figures).join(" ");
            const number = (name) => arrays[name]?.[0][k];
            out.push([run, k, this.smooth(run)[k], number("high_frequency_ratio"), number("spectral_centroid"), weights]);
          }
        }
        return out;
      },
    });
  }

  /** The smoothness of all kernels at each step, in order. */
  sorted(series) {
    if (!this.lists.has(series)) {
      const own = (k) => Array.from(series.at(k)).filter(Number.isFinite).sort((a, b) => a - b);
      this.lists.set(series, series.steps.map((_, k) => own(k)));
    }
    return this.lists.get(series);
  }

  /** The slider's place on the axis of training; of one run alone, as two may stand at other ones. */
  marker(runs = this.pair.filter((run) => this.smoothness.has(run))) {
    const series = this.smoothness.get(runs[0]);
    if (runs.length !== 1 || !series) return undefined;
    return this.app.xAxis(runs, () => series).of(runs[0], series)[Math.max(0, this.app.at(runs[0], series))];
  }

  historyPlot() {
    if (!this.smoothness?.size) return null;
    const { app } = this;
    const runs = this.pair.filter((run) => this.smoothness.has(run));
    const axis = app.xAxis(runs, (run) => this.smoothness.get(run));
    const panels = runs.map((run) => {
      const series = this.smoothness.get(run);
      const x = axis.of(run, series);
      const lists = this.sorted(series);
      const at = (share) => lists.map((list) => (list.length ? list[Math.round(share * (list.length - 1))] : NaN));
      const mean = lists.map((list) => list.reduce((sum, value) => sum + value, 0) / list.length);
      return {
        title: `${"AB"[this.pair.indexOf(run)]}: ${this.named(run)}`,
        series: [
          { name: "mean", x, y: mean, color: "#d55e00", width: 2.5 },
          { name: "5th percentile", x, y: at(0.05), color: "#d55e00", dash: [2, 3], width: 1.2 },
          { name: "95th percentile", x, y: at(0.95), color: "#d55e00", dash: [2, 3], width: 1.2 },
        ],
        under: (context, toX, toY) => histogram(context, lists, x, toX, toY),
      };
    });
    return lines(
      {
        title: "Smoothness of the kernels over training (1 constant, 0.29 white noise)",
        panels,
        legend: [
          { name: "mean over kernels", color: "#d55e00" },
          { name: "5th and 95th percentile", color: "#d55e00", dash: [2, 3] },
          { name: "share of kernels", color: SHADE, patch: true },
        ],
        panelHeight: 220,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: "smoothness",
        yRange: [0, 1],
        marker: this.marker(),
      },
      this.zoom.history,
    );
  }

  /** The chosen kernel as {run, k}; null if there is none. */
  chosen() {
    const [letter, number] = this.app.state.get("kernel").split(":");
    const run = this.pair["ab".indexOf(letter || "?")];
    const series = this.smoothness?.get(run);
    const k = Number(number);
    return series && number !== undefined && Number.isInteger(k) && k >= 0 && k < series.size ? { run, k } : null;
  }

  /** The metadata of a run's spectra. */
  spectra(run) {
    return this.app.data.content(run, `${this.group.get(run)}/spectra`);
  }

  /** The frequencies along each axis of a run's spectra; undefined if it logged none. */
  spectrumAxis(run) {
    return this.spectra(run)?.axes[1]?.values;
  }

  spectrum(run, weights, shape) {
    return powerSpectrum(weights, shape.slice(1), this.spectrumAxis(run).length, this.spectra(run).settings?.dilation);
  }

  spectrumPlot() {
    const chosen = this.chosen();
    const [all, shape] = (chosen && this.arraysAt(chosen.run)?.kernels) || [];
    const i = chosen && this.spectrumAxis(chosen.run);
    if (!all || !i || chosen.k >= shape[0]) return null; // not among those logged
    const { run, k } = chosen;
    const [size, columns, j] = [all.length / shape[0], i.length, i];
    const values = this.spectrum(run, all.subarray(k * size, (k + 1) * size), shape);
    const unit = this.spectra(run).axes[1].unit || "cycles/pixel";
    const where = (row, column) => `i = ${figures(i[row])}, j = ${figures(j[column])} (${unit})`;
    return maps({
      title: `Power spectrum of kernel ${k} of ${run}`,
      panels: [
        {
          title: this.app.placeOf(run, this.smoothness.get(run)),
          values,
          map: "magma",
          low: 0,
          high: range(values)[1],
          unit: "power",
          tip: (row, column) => ({
            title: where(row, column),
            lines: [{ text: `power ${figures(values[row * columns + column])}` }],
          }),
        },
      ],
      i,
      j,
      unit,
      size: 260,
    });
  }

  onePlot() {
    const chosen = this.chosen();
    if (!chosen) return null;
    const { run, k } = chosen;
    const series = this.smoothness.get(run);
    const axis = this.app.xAxis([run], () => series);
    const x = axis.of(run, series);
    const y = series.steps.map((_, n) => series.at(n)[k]);
    return lines(
      {
        title: `Smoothness of kernel ${k} of ${run}`,
        panels: [{ series: [{ name: `kernel ${k}`, x, y, color: this.app.color(run) }] }],
        columns: 1,
        panelHeight: 230,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: "smoothness",
        yRange: [0, 1],
        marker: this.marker([run]),
      },
      this.zoom.kernel,
    );
  }
}

/** Columns of a histogram over steps, each up to its neighbours' middles; a lone one a few pixels wide. */
function histogram(context, lists, x, toX, toY) {
  context.fillStyle = SHADE;
  lists.forEach((list, n) => {
    if (!list.length || !Number.isFinite(x[n])) return;
    const [before, after] = [x[n - 1] ?? x[n], x[n + 1] ?? x[n]].map((other) => (other + x[n]) / 2);
    const least = x.length > 1 ? 0 : 4;
    const counts = new Float32Array(BINS);
    for (const value of list) counts[Math.min(BINS - 1, Math.max(0, Math.floor(value * BINS)))] += 1 / list.length;
    counts.forEach((share, bin) => {
      if (share === 0) return;
      context.globalAlpha = 0.12 + 0.88 * Math.sqrt(share);
      const [left, right] = [toX(before) - least, toX(after) + least].map(Math.round);
      const [top, bottom] = [toY((bin + 1) / BINS), toY(bin / BINS)].map(Math.round);
      context.fillRect(left, top, right - left, bottom - top);
    });
  });
  context.globalAlpha = 1;
}
