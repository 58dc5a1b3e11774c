// Power spectra of kernels, from their weights. Pure: no page, no network.

const tables = new Map();

/** Cosines and sines of 2πk/size. */
function table(size) {
  if (!tables.has(size)) {
    const angle = Array.from({ length: size }, (_, k) => (2 * Math.PI * k) / size);
    tables.set(size, { cos: Float64Array.from(angle, Math.cos), sin: Float64Array.from(angle, Math.sin) });
  }
  return tables.get(size);
}

/**
 * Σ over channels of |DFT|² of a kernel padded to a square, DC in the middle; a weight is real, so
 * half of it is computed and mirrored.
 *
 * @param weights (channels, rows, columns), one after the other
 * @param size points along each axis
 * @param dilation spacing of the taps along rows and columns, in pixels
 */
export function powerSpectrum(weights, [channels, rows, columns], size, [down, along] = [1, 1]) {
  const { cos, sin } = table(size);
  const power = new Float32Array(size * size);
  const [real, imaginary] = [new Float64Array(rows), new Float64Array(rows)];
  const middle = size >> 1;
  for (let channel = 0; channel < channels; channel++) {
    for (let v = 0; v <= middle; v++) {
      for (let row = 0; row < rows; row++) {
        let [re, im] = [0, 0];
        for (let column = 0; column < columns; column++) {
          const weight = weights[(channel * rows + row) * columns + column];
          const turn = (v * column * along) % size;
          re += weight * cos[turn];
          im -= weight * sin[turn];
        }
        [real[row], imaginary[row]] = [re, im];
      }
      for (let u = 0; u < size; u++) {
        let [re, im] = [0, 0];
        for (let row = 0; row < rows; row++) {
          const turn = (u * row * down) % size;
          re += real[row] * cos[turn] + imaginary[row] * sin[turn];
          im += imaginary[row] * cos[turn] - real[row] * sin[turn];
        }
        const value = re * re + im * im;
        power[((u + middle) % size) * size + ((v + middle) % size)] += value;
        const [mirrorU, mirrorV] = [(size - u) % size, (size - v) % size];
        if (mirrorV > middle) power[((mirrorU + middle) % size) * size + ((mirrorV + middle) % size)] += value;
      }
    }
  }
  return power;
}
