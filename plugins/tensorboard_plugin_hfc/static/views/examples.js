// Pictures that a run has logged: the panels of HFC Figure 2 and whatever else is not drawn here.

import { choice, h, note } from "../dom.js";

// Drawn by other views, from numbers.
const ELSEWHERE = [/^hfc_heatmap\//, /^hfc_sensitivity\//, /\/(kernels|spectra)$/, /^hfc_detection\//];
const SHOWN = 24;

/** Pictures of some runs and tags at or before a step, as figures. */
export async function pictures(app, entries) {
  return Promise.all(
    entries.map(async ({ run, tag }) => ({ run, tag, steps: await app.data.images(run, tag) })),
  );
}

/** What the slider moves along: [run, {steps}] of pictures. */
export const placesOf = (found) => found.map(({ run, steps }) => [run, { steps: steps.map(({ step }) => step) }]);

export function gallery(app, found) {
  return found.map(({ run, tag, steps }) => {
    const at = steps[app.at(run, { steps: steps.map(({ step }) => step) })];
    if (!at) return h("figure", { class: "picture" }, h("figcaption", {}, `${run}: ${tag}: nothing yet at this step`));
    return h(
      "figure",
      { class: "picture" },
      h("figcaption", {}, `${run}: ${tag}, ${app.placeText(run, at.step)}`),
      at.urls.map((url) =>
        h("a", { href: url, target: "_blank", rel: "noopener" }, h("img", { src: url, alt: `${tag} of ${run}`, loading: "lazy" })),
      ),
    );
  });
}

const isExample = (tag) => !ELSEWHERE.some((pattern) => pattern.test(tag));

export class ExamplesView {
  constructor(app) {
    this.app = app;
    this.controls = h("div", { class: "controls" });
    this.body = h("div", { class: "gallery" });
    this.element = h("div", {}, this.controls, this.body);
  }

  static has({ index }) {
    return Object.values(index.images).some((tags) => Object.keys(tags).some(isExample));
  }

  close() {}

  async load() {
    const { images } = this.app.data.index;
    this.entries = this.app
      .selected()
      .flatMap((run) => Object.keys(images[run] ?? {}).map((tag) => ({ run, tag })))
      .filter(({ tag }) => isExample(tag));
    this.tags = [...new Set(this.entries.map(({ tag }) => tag))];
    const wanted = this.app.state.get("map");
    this.tag = this.tags.includes(wanted) ? wanted : "";
    const some = this.entries.filter(({ tag }) => !this.tag || tag === this.tag);
    this.more = Math.max(0, some.length - SHOWN);
    this.found = await pictures(this.app, some.slice(0, SHOWN));
    await this.app.loadProgress(this.app.selected());
    this.app.setSteps(placesOf(this.found));
  }

  show() {
    const { app } = this;
    if (!this.entries.length) {
      this.controls.replaceChildren();
      this.body.replaceChildren(
        note(
          "None of the chosen runs has logged example pictures. The ComponentExamples measurement logs images that " +
            "are recognised on their high-frequency component but not on their low-frequency one: pass it in measurements= of hfc_probe.attach.",
        ),
      );
      return;
    }
    const options = [["", "all"], ...this.tags.map((tag) => [tag, tag])];
    this.controls.replaceChildren(
      choice("Picture", options, this.tag, (value) => app.state.set({ map: value })),
      app.stepper(),
    );
    this.step();
  }

  step() {
    if (!this.entries.length) return;
    const rest = this.more ? [note(`and ${this.more} more: choose fewer runs, or one picture.`)] : [];
    this.body.replaceChildren(...gallery(this.app, this.found), ...rest);
  }
}
