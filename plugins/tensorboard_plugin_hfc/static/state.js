// What is shown, kept in the page's address so that a view can be sent to a colleague.

const PREFIX = "p.hfc.";
const DEFAULTS = {
  view: "overview",
  mode: "", // of the curves: training or radius; empty: radius if there is one step alone
  part: "both", // of the curves: both, lfc or hfc
  x: "auto", // epoch, step or minutes
  bands: "1",
  seeds: "0", // of the curves against the radius: runs of several seeds as one
  runs: "", // JSON list; empty: the first ones
  a: "",
  b: "",
  all: "0", // all runs shown are compared with B, the baseline
  smooth: "0", // weight of the past in smoothed lines
  step: "", // empty: the latest
  map: "",
  common: "1",
  cells: "", // i,j;i,j in cycles per image
  layer: "",
  order: "smoothness",
  kernel: "", // a:3 or b:3
  metric: "AP",
};

/** The window whose address is the user's: TensorBoard's, or our own when opened alone. */
function page() {
  try {
    if (window.parent.location.hash !== undefined) return window.parent;
  } catch {
    // Shown inside another site's frame: its address is not ours to read.
  }
  return window;
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return "";
  }
}

function parse(hash) {
  const found = {};
  for (const part of hash.replace(/^#/, "").split("&")) {
    const [key, value] = part.split("=").map(decode);
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : "";
    if (name in DEFAULTS && value !== undefined) found[name] = value;
  }
  return found;
}

/** The address's fragment with our state in it; what others keep there stays. */
export function fragment(hash, state) {
  const kept = hash
    .replace(/^#/, "")
    .split("&")
    .filter((part) => part && !decode(part).startsWith(PREFIX));
  if (!kept.some((part) => !part.includes("="))) kept.unshift("hfc");
  for (const [key, value] of Object.entries(state)) {
    if (value !== DEFAULTS[key]) kept.push(`${PREFIX}${key}=${encodeURIComponent(value)}`);
  }
  return `#${kept.join("&")}`;
}

export class State {
  constructor(onchange) {
    this.onchange = onchange;
    this.timer = null;
    this.values = { ...DEFAULTS, ...parse(page().location.hash) };
    page().addEventListener("hashchange", () => this.read());
  }

  get(key) {
    return this.values[key];
  }

  /** Values changed by the user; `onchange` gets the names of those that really did. */
  set(patch) {
    const changed = Object.keys(patch).filter((key) => this.values[key] !== String(patch[key]));
    for (const key of changed) this.values[key] = String(patch[key]);
    if (!changed.length) return;
    // Not at once: a browser refuses many changes of the address within a second.
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), 120);
    this.onchange(changed);
  }

  read() {
    const fresh = { ...DEFAULTS, ...parse(page().location.hash) };
    const changed = Object.keys(fresh).filter((key) => fresh[key] !== this.values[key]);
    const ours = page().location.hash.replace(/^#/, "").split("&")[0] === "hfc";
    if (!changed.length || !ours) return;
    this.values = fresh;
    this.onchange(changed);
  }

  write() {
    const { location, history } = page();
    const tab = location.hash.replace(/^#/, "").split("&").find((part) => !part.includes("="));
    if (page() !== window && tab && tab !== "hfc") return; // another tab is in front
    history.replaceState(history.state, "", fragment(location.hash, this.values));
  }

  link() {
    const { origin, pathname, search, hash } = page().location;
    return origin + pathname + search + fragment(hash, this.values);
  }
}
