// Pictures that a run has logged: the panels of HFC Figure 2 and whatever else is not drawn here.

import { figures } from "../charts/cards.js";
import { choice, h, note } from "../dom.js";

// Drawn by other views, from numbers.
const ELSEWHERE = [/^hfc_heatmap\//, /^hfc_sensitivity\//, /\/(kernels|spectra)$/, /^hfc_detection(_audit|_heatmap)?\//];
const SHOWN = 24;
const SIDE = 480; // to which small pictures are enlarged, by whole factors
const ROWS = ["original", "LFC", "HFC"]; // of the pictures that ComponentExamples logs
const PICTURES = "hfc_examples/pictures";
const RADIUS = "component_examples/example_radius";

/** What a picture shows, in words. */
function words(tag) {
  const text = tag.replace(/^hfc_|\/(figure|pictures)$/g, "").replaceAll("/", ", ").replaceAll("_", " ");
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Pictures of some runs and tags at or before a step, as figures. */
export async function pictures(app, entries) {
  return Promise.all(
    entries.map(async ({ run, tag }) => {
      const radii = tag === PICTURES ? (await app.data.tensors([run], [RADIUS])).get(run)[RADIUS] : undefined;
      return { run, tag, steps: await app.data.images(run, tag), radii };
    }),
  );
}

/** What the slider moves along: [run, {steps}] of pictures. */
export const placesOf = (found) => found.map(({ run, steps }) => [run, { steps: steps.map(({ step }) => step) }]);

/** Small pictures by a whole factor larger, each pixel a square. */
function enlarge({ target: image }) {
  const factor = Math.floor(SIDE / Math.max(image.naturalWidth, image.naturalHeight));
  if (factor > 1) Object.assign(image.style, { width: `${factor * image.naturalWidth}px`, imageRendering: "pixelated" });
}

/** A picture as large as the page; arrows go to the next ones, Escape or a click back. */
function lightbox(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
  event.preventDefault();
  const links = [...document.querySelectorAll(".picture a")];
  let k = links.indexOf(event.currentTarget);
  const [image, text] = [h("img"), h("p")];
  const show = () => {
    const { src, alt } = links[k].querySelector("img");
    Object.assign(image, { src, alt });
    text.textContent = `${links[k].closest("figure").querySelector("figcaption").textContent} (${k + 1} of ${links.length})`;
  };
  const onkeydown = (press) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[press.key];
    press.stopPropagation(); // the slider stays where it is
    if (!by) return;
    k = (k + by + links.length) % links.length;
    show();
  };
  const dialog = h("dialog", { class: "lightbox", "aria-label": "Picture, enlarged", onkeydown, onclick: () => dialog.close(), onclose: () => dialog.remove() }, image, text, h("button", {}, "Close"));
  show();
  document.body.append(dialog);
  dialog.showModal();
}

export function gallery(app, found) {
  return found.map(({ run, tag, steps, radii }) => {
    const series = { steps: steps.map(({ step }) => step) };
    const at = steps[app.at(run, series)];
    if (!at) return h("figure", { class: "picture" }, h("figcaption", {}, `${run}: ${words(tag)}: nothing yet at this step`));
    const k = radii?.place.get(at.step) ?? -1;
    const radius = k < 0 ? "" : figures(radii.values[k]);
    const unit = radii?.content.unit === "nyquist" ? "× Nyquist" : "cycles/image";
    const place = app.placeText(run, at.step);
    const caption = [
      `${run}: ${words(tag)}`,
      radius && `r = ${radius} ${unit}`,
      app.placeOf(run, series) === place ? place : `logged at ${place}, none since`,
    ];
    const rows = tag === PICTURES && h("div", { class: "names" }, ROWS.map((row, n) => h("span", {}, n && radius ? `${row}(${radius})` : row)));
    return h(
      "figure",
      { class: "picture" },
      h("figcaption", {}, caption.filter(Boolean).join(", ")),
      at.urls.map((url) =>
        h(
          "div",
          { class: "rows" },
          rows,
          h(
            "a",
            { href: url, onclick: lightbox },
            h("img", { src: url, alt: `${words(tag)} of ${run}`, loading: "lazy", onload: enlarge }),
          ),
        ),
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
    const options = [["", "all"], ...this.tags.map((tag) => [tag, words(tag)])];
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
