// The frame around the views: runs, steps, the address, live refresh, keys.

import { setDark, theme } from "./charts/cards.js";
import { colorOf, runColor } from "./charts/colors.js";
import { Data } from "./data.js";
import { choice, h, keepFocus, note } from "./dom.js";
import { commonPrefix, matching, shortened } from "./names.js";
import { onReload, onTheme } from "./host.js";
import { State } from "./state.js";
import { CostView } from "./views/cost.js";
import { CurvesView } from "./views/curves.js";
import { DetectionsView } from "./views/detections.js";
import { emptyState } from "./views/empty.js";
import { ExamplesView } from "./views/examples.js";
import { HeatmapView } from "./views/heatmap.js";
import { KernelsView } from "./views/kernels.js";
import { OverviewView } from "./views/overview.js";

const VIEWS = [
  ["overview", "Overview", OverviewView],
  ["curves", "Curves", CurvesView],
  ["heatmap", "Heatmap", HeatmapView],
  ["kernels", "Kernels", KernelsView],
  ["detections", "Detections", DetectionsView],
  ["examples", "Examples", ExamplesView],
  ["cost", "Cost", CostView],
];
const RUNS_AT_FIRST = 6;
const NAMED = 3; // runs of which the slider says where they are
const NAME_LENGTH = 24; // in the list; the whole name is its title
const PLAY_MS = 220;
const PROGRESS = "progress/epoch";

export class App {
  constructor(root) {
    this.root = root;
    this.data = new Data();
    this.state = new State((changed) => this.changed(changed));
    this.view = null;
    this.token = 0;
    this.steps = []; // where the slider can stand: a step for each place, and
    this.keys = []; // the epochs, or the same steps, that it stands for
    this.byEpoch = false;
    this.comparing = false;
    this.placed = []; // [run, series] of what is shown
    this.known = new WeakMap(); // epochs of a series
    this.colors = new Map(); // run → number of its colour, kept while the page is open
    this.chosen = []; // runs shown unless somebody chose others
    this.letters = ["", ""]; // A and B, likewise
    this.epochOf = new Map(); // run → Series of the epochs that had ended at a step
    this.interval = 15;
    this.timer = null;
    this.playing = null;
    this.running = null;
    this.filter = "";
  }

  async start() {
    this.frame();
    onTheme((dark) => {
      document.documentElement.classList.toggle("dark", dark);
      setDark(dark);
      if (this.view && !this.loading) {
        this.drawRuns();
        this.view.show();
      }
    });
    onReload(() => this.refresh());
    addEventListener("keydown", (event) => this.key(event));
    await this.refresh(true);
    window.focus();
  }

  frame() {
    this.tabs = h("nav", { class: "views", "aria-label": "Views" });
    this.live = h("input", { type: "checkbox", id: "live", onchange: () => this.schedule() });
    this.state_ = h("span", { class: "status", role: "status" });
    const pace = choice("every", [["2", "2 s"], ["5", "5 s"], ["15", "15 s"], ["60", "60 s"]], "15", (value) => {
      this.interval = Number(value);
      this.schedule();
    });
    this.runs = h("aside", { class: "runs", "aria-label": "Runs" });
    this.cautions = h("div", { class: "cautions" });
    this.problems = h("div", { class: "problems" });
    this.main = h("div");
    this.root.replaceChildren(
      h(
        "header",
        {},
        h("h1", { class: "unseen" }, "HFC: which image frequencies models rely on"),
        this.tabs,
        h(
          "div",
          { class: "right" },
          this.state_,
          h("label", { class: "toggle" }, this.live, h("span", {}, "Live")),
          pace,
          h("button", { onclick: () => this.refresh() }, "Refresh"),
          h("button", { onclick: (event) => this.copyLink(event.target) }, "Copy link"),
        ),
      ),
      h("div", { class: "body" }, this.runs, h("main", { class: "content", tabindex: "-1" }, this.cautions, this.problems, this.main)),
    );
    this.drawTabs();
  }

  /** The views that have something to show, and the one that a link asks for. */
  views() {
    return VIEWS.filter(([name, , View]) => View.has(this.data) || name === this.state.get("view"));
  }

  drawTabs() {
    this.tabs.replaceChildren(
      ...this.views().map(([name, text], k) =>
        h(
          "button",
          {
            "aria-current": this.state.get("view") === name ? "page" : false,
            "data-view": name,
            title: `Key ${k + 1}`,
            onclick: () => this.state.set({ view: name }),
          },
          text,
        ),
      ),
    );
  }

  async copyLink(button) {
    const link = this.state.link();
    try {
      await navigator.clipboard.writeText(link);
      button.textContent = "Copied";
    } catch {
      prompt("The link to this view:", link); // no clipboard without https or permission
    }
    setTimeout(() => (button.textContent = "Copy link"), 1500);
  }

  // --- runs

  names() {
    return this.data.index.runs.map((run) => run.name);
  }

  selected() {
    const names = this.names();
    let wanted = null;
    try {
      wanted = this.state.get("runs") ? JSON.parse(this.state.get("runs")) : null;
    } catch {
      wanted = null; // an address that somebody cut off
    }
    if (Array.isArray(wanted)) return names.filter((name) => wanted.includes(name));
    // A run that appears later displaces none of those shown.
    this.chosen = this.chosen.filter((name) => names.includes(name));
    for (const name of names) {
      if (this.chosen.length < RUNS_AT_FIRST && !this.chosen.includes(name)) this.chosen.push(name);
    }
    return names.filter((name) => this.chosen.includes(name));
  }

  /** Run A and run B; "" if there is none. */
  pair() {
    const names = this.names();
    const chosen = this.selected();
    const given = ["a", "b"].map((key) => (names.includes(this.state.get(key)) ? this.state.get(key) : ""));
    // Nobody chose them: they stay what they were, whatever run appears.
    const kept = this.letters.map((name, k) => given[k] || (chosen.includes(name) && !given.includes(name) ? name : ""));
    const rest = chosen.filter((name) => !kept.includes(name));
    this.letters = kept.map((name) => name || rest.shift() || "");
    return this.letters;
  }

  color(run) {
    if (!this.colors.has(run)) {
      const start = new Map(this.data.index.runs.map((one) => [one.name, one.start || 0]));
      const fresh = this.names().filter((name) => !this.colors.has(name));
      // In the order of their beginnings, so that a new run changes no other's colour.
      fresh.sort((a, b) => start.get(a) - start.get(b) || (a < b ? -1 : 1));
      for (const name of fresh) this.colors.set(name, colorOf(name, [...this.colors.values()]));
    }
    return runColor(this.colors.get(run) ?? 0, theme());
  }

  theme() {
    return theme();
  }

  drawRuns() {
    const names = this.names();
    const chosen = new Set(this.selected());
    const [a, b] = this.pair();
    const shown = () => matching(names, this.filter);
    const prefix = commonPrefix(names);
    const choose = (set) => this.state.set({ runs: JSON.stringify(names.filter((name) => set.has(name))) });
    const list = h("ul");
    const pick = (name, key, other) =>
      h(
        "button",
        {
          class: "letter",
          "aria-pressed": String((key === "a" ? a : b) === name),
          "aria-label": `${key.toUpperCase()}: compare ${name} as run ${key.toUpperCase()}`,
          title: `Compare as run ${key.toUpperCase()}`,
          onclick: () => {
            // The other letter stays where it is, or swaps.
            const [one, two] = [this.pair()[0], this.pair()[1]];
            const swap = key === "a" ? two === name : one === name;
            const patch = { [key]: name, [other]: swap ? (key === "a" ? one : two) : key === "a" ? two : one };
            this.state.set(patch);
          },
        },
        key.toUpperCase(),
      );
    const fill = () =>
      list.replaceChildren(
        ...shown().map((name) =>
          h(
            "li",
            { title: name },
            h(
              "label",
              {},
              h("input", {
                type: "checkbox",
                checked: chosen.has(name),
                "data-run": name,
                onchange: (event) => {
                  if (event.target.checked) chosen.add(name);
                  else chosen.delete(name);
                  choose(chosen);
                },
              }),
              h("i", { class: "chip", style: { background: this.color(name) } }),
              h("span", {}, shortened(name.slice(prefix.length), NAME_LENGTH)),
            ),
            pick(name, "a", "b"),
            pick(name, "b", "a"),
          ),
        ),
      );
    const search = h("input", {
      type: "search",
      placeholder: "Filter runs (regex)",
      "aria-label": "Filter runs",
      value: this.filter,
      oninput: (event) => {
        this.filter = event.target.value;
        fill();
      },
    });
    fill();
    this.runs.replaceChildren(
      h("h2", {}, `Runs (${chosen.size} of ${names.length})`),
      prefix ? h("p", { class: "small" }, `All begin with ${prefix}`) : "",
      names.length > 8 ? search : "",
      h(
        "div",
        { class: "both" },
        h("button", { onclick: () => choose(new Set([...chosen, ...shown()])) }, "All"),
        h(
          "button",
          { onclick: () => choose(new Set([...chosen].filter((name) => !shown().includes(name)))) },
          "None",
        ),
      ),
      list,
      this.data.index.other_runs
        ? h("p", { class: "small" }, `${this.data.index.other_runs} more without anything from hfc_probe`)
        : "",
    );
  }

  // --- steps and the axis of training

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
    return this.keys[this.steps.indexOf(this.step())];
  }

  /** The latest place of a series that is not after the slider's; −1 if there is none. */
  at(run, series) {
    if (!this.steps.length) return -1;
    if (!this.byEpoch || !this.hasEpochs(run, series)) return series.steps.findLastIndex((one) => one <= this.step());
    const key = this.position();
    return this.epochs(run, series).findLastIndex((epoch) => epoch <= key);
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
    if (!this.steps.length) return 0;
    const wanted = Number(this.state.get("step"));
    if (this.state.get("step") === "" || !Number.isFinite(wanted)) return this.latest();
    return this.steps.reduce((best, one) => (Math.abs(one - wanted) < Math.abs(best - wanted) ? one : best));
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
    const place = this.steps.indexOf(this.step()) + by;
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
      slider.value = this.steps.indexOf(this.step());
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
    this.known.set(series, { progress, epochs });
    return epochs;
  }

  /** Whether each place of a series has an epoch of its own. */
  hasEpochs(run, series) {
    const epochs = this.epochs(run, series);
    return epochs.every((epoch, k) => Number.isFinite(epoch) && (k === 0 || epoch > epochs[k - 1]));
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

  // --- what happens

  changed(changed) {
    if (changed.length === 1 && changed[0] === "step" && this.view && !this.loading) {
      const begin = performance.now();
      this.view.step?.();
      this.drawStepper?.();
      performance.measure("hfc-step", { start: begin, end: performance.now() });
      return;
    }
    keepFocus(() => {
      this.drawTabs();
      this.drawRuns();
    });
    this.load();
  }

  async refresh(first = false) {
    clearTimeout(this.timer);
    try {
      this.state_.textContent = first ? "Loading …" : "Looking …";
      const fresh = await this.data.refresh();
      this.state_.textContent = `as of ${new Date().toLocaleTimeString()}`;
      if (fresh || first || this.failed) {
        keepFocus(() => {
          this.drawTabs();
          this.drawRuns();
        });
        await this.load();
      }
    } catch (error) {
      this.state_.textContent = error.message;
      if (first) this.fail(error);
    }
    this.schedule();
  }

  schedule() {
    clearTimeout(this.timer);
    if (this.live.checked) this.timer = setTimeout(() => this.refresh(), 1000 * this.interval);
  }

  /** Show the chosen view, with what it needs fetched; the old one stays until then. */
  load() {
    const token = ++this.token;
    this.loading = true;
    delete document.body.dataset.ready;
    // One after the other: an older answer that comes late must not overwrite a newer one.
    const before = this.running;
    this.running = (async () => {
      await before;
      if (token === this.token) await this.loadNow(token);
    })();
    return this.running;
  }

  async loadNow(token) {
    this.failed = false;
    try {
      const [name, , View] = VIEWS.find(([one]) => one === this.state.get("view")) ?? VIEWS[0];
      if (!this.names().length) {
        this.discard();
        this.main.replaceChildren(emptyState(this.data.index));
      } else {
        const old = this.view;
        const view = old?.key === name ? old : new View(this);
        view.key = name;
        if (view !== old) {
          this.play(false);
          this.drawStepper = null;
        }
        await view.load();
        if (token !== this.token) {
          if (view !== old) view.close();
          return;
        }
        if (view !== old) {
          this.discard();
          this.view = view;
        }
        keepFocus(() => {
          if (this.main.firstChild !== view.element) this.main.replaceChildren(view.element);
          view.show();
        });
      }
      this.drawCautions();
      this.drawProblems();
      await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
      if (token === this.token) {
        document.body.dataset.ready = this.names().length ? name : "empty";
        performance.mark("hfc-painted");
      }
    } catch (error) {
      if (token === this.token) this.fail(error);
    } finally {
      if (token === this.token) this.loading = false;
    }
  }

  discard() {
    this.view?.close();
    this.view = null;
  }

  fail(error) {
    this.failed = true;
    this.discard();
    this.main.replaceChildren(
      h(
        "div",
        { class: "failure", role: "alert" },
        note(`This view could not be shown: ${error.message}`),
        h("button", { onclick: () => this.refresh() }, "Try again"),
      ),
    );
    document.body.dataset.ready = "failed";
  }

  /** What cannot be trusted about the runs shown; it comes before any number. */
  drawCautions() {
    const said = [...new Set([...this.pair(), ...this.selected()])].filter(Boolean).flatMap((run) => {
      const found = this.data.find(run, ({ provenance }) => Array.isArray(provenance?.caveats));
      const own = new Set(found.flatMap(({ content }) => content.provenance.caveats));
      return [...own].map((text) => h("li", {}, `${run}: ${text}`));
    });
    this.cautions.replaceChildren(...(said.length ? [h("strong", {}, "Not to be trusted as they are"), h("ul", {}, said)] : []));
  }

  drawProblems() {
    const { problems } = this.data.index;
    const all = [...problems.map(({ run, tag, why }) => `${run}: ${tag} is left out: ${why}`), ...this.data.notes.values()];
    this.problems.replaceChildren();
    if (!all.length) return;
    const more = all.length > 20 ? [h("li", {}, `and ${all.length - 20} more`)] : [];
    this.problems.append(
      h(
        "details",
        {},
        h("summary", {}, all.length === 1 ? all[0] : `${all.length} series are hidden or incomplete`),
        h("ul", {}, all.slice(0, 20).map((text) => h("li", {}, text)), more),
      ),
    );
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { tagName, type } = event.target;
    if (tagName === "SELECT" || (tagName === "INPUT" && ["search", "text"].includes(type))) return;
    const digit = Number(event.key);
    const views = this.views();
    if (digit >= 1 && digit <= views.length) this.state.set({ view: views[digit - 1][0] });
    else if (event.key === "ArrowRight") this.move(1);
    else if (event.key === "ArrowLeft") this.move(-1);
    else if (event.key === "Home" && this.steps.length) this.setStep(this.steps[0]);
    else if (event.key === "End" && this.steps.length) this.setStep(this.steps.at(-1));
    else if (event.key === " " && tagName !== "BUTTON" && tagName !== "INPUT") this.play(!this.playing);
    else return;
    event.preventDefault();
  }
}
