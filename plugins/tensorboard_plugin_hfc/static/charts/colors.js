// Colour maps that are read alike with any colour vision, and the two themes.

// After Okabe and Ito, with lightness spread: two runs differ in the mark's shape, or in lightness, which
// is what grey print and colour-blind eyes keep. The same hues brighter for a dark page.
const RUNS = ["#00549a", "#d04e00", "#e69f00", "#00664a", "#b3578f", "#58b7ec", "#929292"];
const RUNS_ON_DARK = ["#4f86d6", "#ff8a47", "#f0e442", "#1f9a74", "#df92c1", "#b4e6ff", "#c5c5c5"];
// Circle, square, triangles, diamond, cross and hourglass, about 2 wide, around 0: SVG paths.
const SHAPES = [
  "M1 0A1 1 0 1 1-1 0A1 1 0 1 1 1 0Z",
  "M-.9-.9H.9V.9H-.9Z",
  "M0-1.2L1.15.85H-1.15Z",
  "M0-1.35L1.25 0 0 1.35-1.25 0Z",
  "M0 1.2L1.15-.85H-1.15Z",
  "M-.42-1.25H.42V-.42H1.25V.42H.42V1.25H-.42V.42H-1.25V-.42H-.42Z",
  "M-1.1-1.1H1.1L-1.1 1.1H1.1Z",
];

function ramp(text) {
  const anchors = text.split(" ").map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));
  const table = new Uint8Array(256 * 3);
  for (let k = 0; k < 256; k++) {
    const place = (k / 255) * (anchors.length - 1);
    const low = Math.min(anchors.length - 2, Math.floor(place));
    for (let c = 0; c < 3; c++) {
      const value = anchors[low][c] + (place - low) * (anchors[low + 1][c] - anchors[low][c]);
      table[3 * k + c] = Math.round(value);
    }
  }
  return table;
}

// Anchors, evenly spaced: Matplotlib's viridis and magma (CC0); blue, white, vermilion for differences.
const viridis = ramp(
  "440154 460c5f 47186a 482273 472c7b 453681 424085 3e4989 3a528b 365a8c 32628d 2f6a8d " +
  "2c728e 287a8e 26818e 23898d 20908c 1e988a 1e9f88 21a784 28ae7f 32b57a 3ebc73 4dc26b " +
  "5ec961 70ce56 83d34b 97d83e addc30 c2df22 d7e219 ece41a fde724",
);
const magma = ramp(
  "000003 030311 0a0722 120d33 1c1046 281159 350f6a 430f75 50127b 5d177e 691c80 762181 " +
  "822581 8f2a80 9c2e7f a9327c b63679 c33b74 d0416f dc4869 e65162 ee5d5d f56a5b f9795c " +
  "fb8861 fd9768 fea671 feb57c fec488 fdd295 fde1a3 fcf0b1 fbfcbf",
);
const difference = ramp("08335c 0072b2 6db3d9 f7f7f7 eda67a d55e00 6e2f00");
const grey = ramp("000000 ffffff");
export const MAPS = { viridis, magma, difference, grey };

/** Index into a 256-colour table for a value between two bounds. */
export function shade(value, low, high) {
  const share = high > low ? (value - low) / (high - low) : 0.5;
  return Math.max(0, Math.min(255, Math.round(255 * share)));
}

export function css(table, index) {
  return `rgb(${table[3 * index]},${table[3 * index + 1]},${table[3 * index + 2]})`;
}

/** Colours of an ordered quantity (radii): dark to bright, none that melts into the page. */
export function ordered(count, theme) {
  const [from, to] = theme.dark ? [95, 255] : [0, 205];
  return Array.from({ length: count }, (_, k) =>
    css(viridis, Math.round(count > 1 ? from + ((to - from) * k) / (count - 1) : (from + to) / 2)),
  );
}

/** The number of a run's style by its name: a colour that fewest runs have, and how many had it before. */
export function styleOf(name, taken) {
  let hash = 0;
  for (const letter of name) hash = (31 * hash + letter.codePointAt(0)) >>> 0;
  const count = (color) => taken.filter((one) => one % RUNS.length === color).length;
  const all = RUNS.map((_, k) => (hash + k) % RUNS.length);
  const color = all.reduce((best, one) => (count(one) < count(best) ? one : best));
  return color + RUNS.length * count(color);
}

/** {color, shape} of a style's number; 49 of them differ. */
export function runStyle(number, theme) {
  const colors = theme.dark ? RUNS_ON_DARK : RUNS;
  const color = number % colors.length;
  return { color: colors[color], shape: SHAPES[(color + Math.floor(number / colors.length)) % SHAPES.length] };
}

export const [ROUND] = SHAPES;

export const LIGHT = {
  dark: false,
  background: "#ffffff",
  text: "#1f1f1f",
  muted: "#5f6368",
  grid: "#e3e3e3",
  axis: "#8a8a8a",
};
export const DARK = {
  dark: true,
  background: "#303030",
  text: "#f1f1f1",
  muted: "#b8bcc2",
  grid: "#484848",
  axis: "#8d8d8d",
};
export const FONT = 'Roboto, system-ui, "Helvetica Neue", Arial, sans-serif';
