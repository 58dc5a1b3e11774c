// The runs: which are shown, which are A and B, how each is drawn, and their list.

import { theme } from "./charts/cards.js";
import { colorOf, runColor } from "./charts/colors.js";
import { h } from "./dom.js";
import { commonPrefix, matching, shortened } from "./names.js";

const RUNS_AT_FIRST = 6;
const NAME_LENGTH = 24; // in the list; the whole name is its title

export class Runs {
  constructor(data, state) {
    this.data = data;
    this.state = state;
    this.runs = h("aside", { class: "runs", "aria-label": "Runs" });
    this.colors = new Map(); // run → number of its colour, kept while the page is open
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
}
