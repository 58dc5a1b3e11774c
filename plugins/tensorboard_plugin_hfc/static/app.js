// The frame around the views: the address, live refresh, keys.

import { setDark } from "./charts/cards.js";
import { Data } from "./data.js";
import { choice, h, keepFocus, note } from "./dom.js";
import { onReload, onTheme } from "./host.js";
import { Places } from "./places.js";
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

export class App extends Places {
  constructor(root) {
    super(new Data(), new State((changed) => this.changed(changed)));
    this.root = root;
    this.view = null;
    this.token = 0;
    this.interval = 15;
    this.timer = null;
    this.running = null;
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
