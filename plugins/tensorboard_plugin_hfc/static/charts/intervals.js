// 95 % intervals of the difference of two proportions. Pure: no page, no network.

const Z = 1.959963984540054;

/**
 * Of two independent estimates, from [value, low, high] of each; null if that is unknown.
 *
 * Newcombe, Statistics in Medicine 1998, method 10 (with Wilson intervals); Zou and Donner, 2008.
 */
export function independent([p, l, u], [q, m, v]) {
  const gap = p - q;
  const bounds = [gap - Math.hypot(p - l, v - q), gap + Math.hypot(u - p, q - m)];
  return bounds.every(Number.isFinite) ? bounds : null;
}

/** Of the same images seen twice: how many only the first, and only the second, has right, of n. */
export function paired(b, c, n) {
  return n > 0 ? [lowest(b, c, n), -lowest(c, b, n)] : null;
}

/** Tango, Statistics in Medicine 1998: the smallest difference with a score of at most z, by bisection. */
function lowest(b, c, n) {
  let [outside, inside] = [-1, (b - c) / n];
  for (let turn = 0; turn < 50; turn++) {
    const middle = (outside + inside) / 2;
    const linear = (2 * n - b + c) * middle - b - c;
    const root = Math.sqrt(Math.max(0, linear ** 2 + 8 * n * c * middle * (1 - middle)));
    const variance = n * ((root - linear) / (2 * n) + middle * (1 - middle));
    if ((b - c - n * middle) ** 2 <= Z ** 2 * variance) inside = middle;
    else outside = middle;
  }
  return inside;
}

/** How many bits only the first, and only the second, of two packed rows has. */
export function discordant(one, two) {
  const ones = (byte) => {
    let count = 0;
    for (let rest = byte; rest; rest &= rest - 1) count++;
    return count;
  };
  let [b, c] = [0, 0];
  for (let k = 0; k < one.length; k++) {
    b += ones(one[k] & ~two[k]);
    c += ones(two[k] & ~one[k]);
  }
  return [b, c];
}
