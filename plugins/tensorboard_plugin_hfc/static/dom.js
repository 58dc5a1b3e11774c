// Elements from data: text is always text, never markup, whatever a run is called.

/** An element with properties (on… are listeners, the rest attributes) and children. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "disabled") element[key] = value;
    else if (key === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

/** The mark of a run as it stands on its lines. */
export function chip({ color, shape }) {
  const svg = (name, attributes, ...children) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  return svg("svg", { class: "chip", viewBox: "-1.4 -1.4 2.8 2.8", "aria-hidden": "true" }, svg("path", { d: shape, fill: color }));
}

/** What an element is to somebody who works with the keyboard, whichever element it is now. */
function identity(element) {
  const { dataset, tagName } = element;
  const name = element.getAttribute("aria-label") ?? element.closest("label")?.textContent ?? element.textContent;
  const value = dataset.run ?? dataset.view ?? dataset.value ?? "";
  return [tagName, value, value ? "" : name, element.closest("[data-plot]")?.dataset.plot].join("\n");
}

/** Redraw, and leave the focus where it was though the elements are new. */
export function keepFocus(redraw) {
  const before = document.activeElement;
  const key = before && identity(before);
  redraw();
  if (!before || before.isConnected) return;
  const again = [...document.querySelectorAll(before.tagName)].find((element) => identity(element) === key);
  (again ?? document.querySelector("main"))?.focus({ preventScroll: true });
}

/** A labelled choice. `options` are [value, text] pairs. */
export function choice(label, options, value, onchange, extra = {}) {
  const select = h(
    "select",
    { "aria-label": label, onchange: (event) => onchange(event.target.value), ...extra },
    options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
  );
  return h("label", { class: "choice" }, h("span", {}, label), select);
}

/** A switch with a label. */
export function toggle(label, checked, onchange, extra = {}) {
  const box = h("input", { type: "checkbox", checked, onchange: () => onchange(box.checked), ...extra });
  return h("label", { class: "toggle" }, box, h("span", {}, label));
}

/** Buttons of which one is pressed. */
export function segments(label, options, value, onchange) {
  return h(
    "div",
    { class: "segments", role: "group", "aria-label": label },
    options.map(([key, text]) =>
      h("button", { "aria-pressed": String(key === value), "data-value": key, onclick: () => onchange(key) }, text),
    ),
  );
}

/** A table; cells are text or elements. */
export function table(heads, rows, label = heads.join(", ")) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": `Table: ${label}` },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", {}, head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell))))),
    ),
  );
}

export function note(text) {
  return h("p", { class: "note" }, text);
}

const SAID = 3; // sentences shown at once

/** Sentences, the first few of them at once; `memory` keeps whether the others are open. */
export function sentences(texts, memory) {
  const all = texts.map((text) => h("p", { class: "verdict" }, text));
  const rest = all.splice(SAID);
  const ontoggle = (event) => (memory.open = event.target.open);
  return rest.length ? [...all, h("details", { open: memory.open, ontoggle }, h("summary", {}, `and ${rest.length} more`), rest)] : all;
}

/** Hand a file to the user. */
export function download(blob, name) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name.replace(/[^\w.+-]+/g, "_") });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Rows as CSV (RFC 4180); cells that a spreadsheet would run as a formula are kept as text. */
export function csv(rows) {
  const cell = (value) => {
    if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
    let text = String(value ?? "");
    if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}
