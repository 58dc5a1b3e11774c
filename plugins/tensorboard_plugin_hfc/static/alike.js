// Whether two runs' numbers are the same quantity, and how they were made. Pure: no page, no network.

// What another value of costs precision or adds numbers, but does not change what a number means.
const HARMLESS = new Set(
  "samples seed radii rhos epsilons ranks corruptions forwards precision seconds autocast channels_last perturbation_radii control".split(" "),
);
const DECISIVE = ["data", "resampling", "classes"]; // of the provenance
const AT_THE_TOP = ["hfc_background", "norm", "estimator"]; // of the metadata of earlier versions
const LACKED = { axes: 2, iou_type: "bbox" }; // settings that earlier versions lack, with what they measured

const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
const first = (value) => (Array.isArray(value) ? value[0] : value);
const said = (value) => (value === undefined || value === null ? "none" : typeof value === "object" ? JSON.stringify(value) : String(value));

function settings(content) {
  const top = AT_THE_TOP.filter((key) => content[key] !== undefined).map((key) => [key, content[key]]);
  return { ...LACKED, ...Object.fromEntries(top), ...content.settings };
}

/** Whether both runs saw the same images, as far as they say. */
export function sameImages(a, b) {
  const [one, two] = [a, b].map((content) => content?.provenance?.images);
  return Boolean(one) && one === two;
}

/** In what two arrays' metadata make them other quantities: [{what, text}]. */
export function differences(a, b) {
  const [one, two] = [settings(a), settings(b)];
  const known = a.settings && b.settings;
  const found = [];
  for (const key of new Set([...Object.keys(one), ...Object.keys(two)])) {
    if (HARMLESS.has(key) || (!known && !(key in one && key in two))) continue;
    const pair = key === "topk" ? [first(one[key]), first(two[key])] : [one[key], two[key]]; // further k stand apart
    if (!same(...pair)) found.push({ what: key, text: `${key} ${said(pair[0])} against ${said(pair[1])}` });
  }
  const [p, q] = [a.provenance, b.provenance];
  if (!p || !q) return found;
  for (const key of DECISIVE) {
    if (same(p[key], q[key]) || (key === "data" && sameImages(a, b))) continue;
    found.push({ what: key, text: `${key} ${said(p[key])} against ${said(q[key])}` });
  }
  return found;
}

/** Whether such a difference concerns the curve of a part, "lfc" or "hfc". */
export const concerns = ({ what }, part) => what !== "hfc_background" || part === "hfc";

/**
 * How accuracies on components were measured, in a few words; "" if the metadata do not say.
 *
 * @param brief without what the axis of radii and the legend of LFC and HFC say
 */
export function how(content, brief = false) {
  const { topk, closed, rescale } = content?.settings ?? {};
  const { hfc_background: background } = content ? settings(content) : {};
  return [
    topk !== undefined && `top ${first(topk)}`,
    !brief && closed !== undefined && (closed ? "LFC d ≤ r" : "LFC d < r"),
    !brief && content?.axes?.[0]?.unit === "nyquist" && "r × Nyquist",
    !brief && background && `HFC on ${background} background`,
    rescale && `rescaled by ${rescale}`,
  ]
    .filter(Boolean)
    .join(", ");
}

/** The legend's names of LFC and HFC: ≤ or <, as the runs' metadata say; both if they differ. */
export function signs(contents) {
  const kinds = new Set(contents.map((content) => content?.settings?.closed !== false));
  if (kinds.size > 1) return ["LFC, d ≤ r or d < r", "HFC, d > r or d ≥ r"];
  return kinds.has(false) ? ["LFC, d < r", "HFC, d ≥ r"] : ["LFC, d ≤ r", "HFC, d > r"];
}
