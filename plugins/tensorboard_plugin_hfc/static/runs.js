// The runs: which are shown, which are A and B, how each is drawn, and their list.

import { theme } from "./charts/cards.js";
import { runStyle, styleOf } from "./charts/colors.js";
import { chip, h, segments } from "./dom.js";
import { commonPrefix, matching, nameRuns } from "./names.js";

const RUNS_AT_FIRST = 6;
const TAIL = 10; // letters at the end of a name that the list always shows; its title is the whole name

export class Runs {
  constructor(data, state) {
    this.data = data;
    this.state = state;
    this.runs = h("aside", { class: "runs", "aria-label": "Runs" });
    this.styles = new Map(); // run → number of its style, kept while the page is open
    this.chosen = []; // runs shown unless somebody chose others
    this.letters = ["", ""]; // A and B, likewise
    this.filter = "";
  }

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

  /** Run B, if all runs shown are compared with it, and not A alone; else "". */
  baseline() {
    return this.state.get("all") === "1" ? this.pair()[1] : "";
  }

  /** The runs that are compared, with run B, which comes last: A, or all that are shown. */
  compared() {
    const [a, b] = this.pair();
    const others = this.baseline() ? this.selected().filter((name) => name !== b) : [a];
    return [...others, b].filter(Boolean);
  }

  /** A run's name with its letter. */
  lettered(run) {
    const [a, b] = this.pair();
    if (this.baseline()) return run === b ? `baseline ${run}` : run;
    return run === a ? `A: ${run}` : run === b ? `B: ${run}` : run;
  }

  /** {color, shape} of a run. */
  style(run) {
    if (!this.styles.has(run)) {
      const start = new Map(this.data.index.runs.map((one) => [one.name, one.start || 0]));
      const fresh = this.names().filter((name) => !this.styles.has(name));
      // In the order of their beginnings, so that a new run changes no other's style.
      fresh.sort((a, b) => start.get(a) - start.get(b) || (a < b ? -1 : 1));
      for (const name of fresh) this.styles.set(name, styleOf(name, [...this.styles.values()]));
    }
    return runStyle(this.styles.get(run) ?? 0, theme());
  }

  color(run) {
    return this.style(run).color;
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
    nameRuns(names);
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
              chip(this.style(name)),
              // The end of a name stays whole, since seeds differ there; what is left out comes before it.
              h("span", { class: "name" }, h("span", {}, name.slice(prefix.length, -TAIL)), h("span", {}, name.slice(Math.max(prefix.length, name.length - TAIL)))),
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
      names.length > 2
        ? segments("Compare", [["0", "A with B"], ["1", "all with B"]], this.state.get("all"), (value) => this.state.set({ all: value }))
        : "",
      list,
      this.data.index.other_runs
        ? h("p", { class: "small" }, `${this.data.index.other_runs} more without anything from hfc_probe`)
        : "",
    );
  }
}
