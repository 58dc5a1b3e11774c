"""Cells of a Fourier heatmap and the directions that fill them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ... import fourier


@dataclass(frozen=True)
class Grid:
    """Cells of a centred map of frequencies, and the directions that fill them.

    Args:
        height, width: of the images, in pixels.
        rows, columns: of the window of frequencies.
        stride: between measured frequencies of one axis.
    """

    height: int
    width: int
    rows: int
    columns: int
    stride: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Cells of the map along i and j; DC is at half of each, rounded down."""
        return len(self._axis(self.rows)), len(self._axis(self.columns))

    def _axis(self, size: int) -> NDArray[np.int64]:
        low, high = (size // 2) // self.stride, ((size - 1) // 2) // self.stride
        return np.arange(-low, high + 1) * self.stride

    def frequencies(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Signed i of each row and j of each column, cycles per image."""
        return self._axis(self.rows), self._axis(self.columns)

    @cached_property
    def directions(self) -> list[tuple[int, int]]:
        """One (i, j) of every pair ±(i, j) that has a cell."""
        return [(i, j) for i, j in fourier.half_plane(self.height, self.width) if self.cells(i, j)]

    def cells(self, i: int, j: int) -> list[tuple[int, int]]:
        """Cells of ±(i, j): one, two, or none outside the window."""
        found = []
        for a, b in ((i, j), (-i, -j)):
            # At an even size −N/2 and N/2 are one frequency, kept as the negative one.
            a = (a + self.height // 2) % self.height - self.height // 2
            b = (b + self.width // 2) % self.width - self.width // 2
            inside = -(self.rows // 2) <= a < (self.rows + 1) // 2
            inside = inside and -(self.columns // 2) <= b < (self.columns + 1) // 2
            if inside and a % self.stride == 0 and b % self.stride == 0:
                cell = (
                    a // self.stride + (self.rows // 2) // self.stride,
                    b // self.stride + (self.columns // 2) // self.stride,
                )
                if cell not in found:
                    found.append(cell)
        return found

    def layout(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value per direction, ``(D, …)``, to a map with DC in the middle."""
        values = np.asarray(values)
        out = np.zeros((*self.shape, *values.shape[1:]), dtype=values.dtype)
        rows, columns, which = self._filled
        out[rows, columns] = values[which]
        return out

    @cached_property
    def _filled(self) -> NDArray[np.int64]:
        """Row and column of each cell, and the number of its direction, ``(3, cells)``."""
        found: NDArray[np.int64] = np.array(
            [(*cell, k) for k, pair in enumerate(self.directions) for cell in self.cells(*pair)]
        ).T
        return found

    def distances(self) -> NDArray[np.float64]:
        """Distance from DC of each direction, cycles per image, ``(D,)``."""
        return np.array([math.hypot(i, j) for i, j in self.directions])

    def rings(self) -> NDArray[np.int64]:
        """Ring of each direction, one cycle per image wide and centred on whole ones, ``(D,)``."""
        return np.floor(self.distances() + 0.5).astype(np.int64)
