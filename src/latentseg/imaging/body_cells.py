"""A scan reduced to cells of 6.5 mm, and the pictures of it that the body network reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import LatentsegWarning
from latentseg.imaging.body_network import CELL_MM, PICTURE
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU, Modality, normalize

Array = NDArray[np.float32]
SAMPLES_PER_CELL = 2


@dataclass(frozen=True, eq=False)
class Cells:
    """A scan on a coarse grid that has its axes, and covers it from edge to edge.

    Attributes:
        values: `(A, B, C)` in [-1, 1], -1 being air.
        mass: for each axis the share of what is not air in each layer, `(A,)`, `(B,)` and `(C,)`.
    """

    values: Array
    mass: tuple[Array, Array, Array]

    @classmethod
    def of(
        cls,
        array: NDArray[Any],
        spacing_mm: tuple[float, float, float],
        *,
        modality: Modality,
        window: tuple[float, float] = SOFT_TISSUE_WINDOW_HU,
    ) -> Cells:
        """Reduce voxels `(A, B, C)`; cost grows with the size of the body, not with that of the array.

        What has a single value is air.

        Raises:
            InputError: values that are no numbers.
        """
        steps = [max(1, int(CELL_MM / SAMPLES_PER_CELL / mm)) for mm in spacing_mm]
        starts = [(count - 1) % step // 2 for count, step in zip(array.shape, steps, strict=True)]
        taken = tuple(slice(start, None, step) for start, step in zip(starts, steps, strict=True))
        few = np.asarray(array[taken])
        if few.size == 0 or few.min() == few.max():
            values = np.full(few.shape, -1, np.float32)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LatentsegWarning)
                values = normalize(few, modality=modality, window=window)
        for axis, (count, mm) in enumerate(zip(array.shape, spacing_mm, strict=True)):
            values = _resampled(values, axis, max(1, round(count * mm / CELL_MM)))
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: Array) -> Cells:
        """Cells whose values are there already."""
        weight = values + np.float32(1 + 1e-4)
        sums = [weight.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)]
        i, j, k = ((total / total.sum()).astype(np.float32) for total in sums)
        return cls(values, (i, j, k))

    def layers(self, axis: int, count: int) -> list[int]:
        """Up to `count` layers along an axis, at equal steps of what is not air."""
        reached = np.cumsum(self.mass[axis])
        shares = (np.arange(count) + 0.5) / count
        return sorted(set(np.searchsorted(reached, shares).clip(0, len(reached) - 1).tolist()))

    def pictures(self, axis: int, layers: Iterable[int]) -> Array:
        """Layers across an axis as `(N, PICTURE, PICTURE)`, the body in the middle, air around."""
        rows, columns = (other for other in range(3) if other != axis)
        chosen = np.moveaxis(self.values, axis, 0)[list(layers)]
        out = np.full((len(chosen), PICTURE, PICTURE), -1, np.float32)
        (to_rows, from_rows), (to_columns, from_columns) = self._cut(rows), self._cut(columns)
        out[:, to_rows, to_columns] = chosen[:, from_rows, from_columns]
        return out

    def _cut(self, axis: int) -> tuple[slice, slice]:
        """Where the cells of an axis go in a picture, and which of them."""
        mass = self.mass[axis]
        middle = float((np.arange(len(mass)) + 0.5) @ mass)
        first = round(middle - PICTURE / 2)
        start, end = max(first, 0), min(first + PICTURE, len(mass))
        return slice(start - first, end - first), slice(start, end)


def _resampled(values: Array, axis: int, count: int) -> Array:
    """Resize one axis to `count`, linearly where it grows and by overlapping triangles where it shrinks."""
    size = values.shape[axis]
    scale = size / count
    positions = (np.arange(count) + 0.5) * scale - 0.5
    distance = np.abs(positions[:, None] - np.arange(size)[None]) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    moved = np.tensordot(weights.astype(np.float32), values, (1, axis))
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis))
