// What the probe itself took of the training.

import { Card, figures } from "../charts/cards.js";
import { h, note, table } from "../dom.js";
import { lines } from "../charts/lines.js";

const SHARE = "hfc_cost/share";
const SECONDS = "hfc_cost/seconds/";

const isCost = (tag) => tag === SHARE || tag.startsWith(SECONDS);

export class CostView {
  constructor(app) {
    this.app = app;
    this.memory = {};
    this.card = new Card("cost_share", () => this.plot());
    this.controls = h("div", { class: "controls" });
    this.body = h("div");
    this.element = h("div", {}, this.controls, this.card.element, this.body);
  }

  static has({ index }) {
    return Object.values(index.scalars).some((tags) => Object.keys(tags).some(isCost));
  }

  close() {
    this.card.close();
  }

  async load() {
    const { app } = this;
    const { scalars } = app.data.index;
    this.runs = app.selected().filter((run) => Object.keys(scalars[run] ?? {}).some(isCost));
    const tags = [...new Set(this.runs.flatMap((run) => Object.keys(scalars[run]).filter(isCost)))];
    this.read = this.runs.length ? await app.data.scalars(this.runs, tags) : {};
    await app.loadProgress(this.runs);
    app.setSteps([]);
  }

  show() {
    this.controls.replaceChildren(...(this.runs.length ? [this.app.axisChoice(), this.app.smoothingChoice()] : []));
    if (!this.runs.length) {
      this.body.replaceChildren(note("None of the chosen runs has logged what the probe costs (hfc_cost/…)."));
    } else {
      const rows = this.runs.flatMap((run) =>
        Object.entries(this.read[run] ?? {})
          .filter(([tag]) => tag.startsWith(SECONDS))
          .map(([tag, { values }]) => {
            const good = values.filter(Number.isFinite);
            const sum = good.reduce((total, value) => total + value, 0);
            const name = tag.slice(SECONDS.length);
            return [run, name, String(values.length), `${figures(sum / good.length)} s`, `${figures(sum)} s`];
          }),
      );
      this.body.replaceChildren(
        h("h2", {}, "What each measurement took"),
        table(["run", "measurement", "times logged", "mean", "sum of those"], rows),
      );
    }
    this.card.update();
  }

  plot() {
    const { app } = this;
    const runs = (this.runs ?? []).filter((run) => this.read[run]?.[SHARE]);
    const axis = app.xAxis(runs, (run) => this.read[run][SHARE]);
    const series = runs.map((run) => {
      const found = this.read[run][SHARE];
      const y = found.values.map((value) => (value === null ? NaN : 100 * value));
      return { name: run, x: axis.of(run, found), y, ...app.style(run) };
    });
    if (!series.length) return null;
    const top = Math.max(1, ...series.flatMap(({ y }) => y.filter(Number.isFinite)));
    return lines(
      {
        title: "Share of the training's wall time that the probe took so far",
        panels: [{ series }],
        legend: series.map(({ name, color, shape }) => ({ name, color, shape })),
        columns: 1,
        panelHeight: 280,
        smoothing: Number(app.state.get("smooth")) || 0,
        xLabel: axis.label,
        xText: axis.text,
        yLabel: "share (%)",
        yRange: [0, top * 1.05],
        value: (value) => `${figures(value)} %`,
      },
      this.memory,
    );
  }
}
