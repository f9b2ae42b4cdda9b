"""Outlines of structures, filled on the voxels of a scan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, caution

if TYPE_CHECKING:
    from latentseg.imaging.dicom.files import Entry

MAX_OFF_PLANE = 0.25
"""How far a contour may lie beside its slice, as a fraction of the distance between slices."""

MOST_OUTSIDE = 0.5
"""Share of a structure's contours that may lie outside of the scan, which then shows only a part of it."""

SAME_PIXELS = 0.05
"""How far the corners of two outlines may lie apart, in pixels, for one to be a copy of the other."""

GIVE_ITS_SCAN = "Give the scan it was drawn on"


class Outlines:
    """Fills the outlines of one structure; an outline inside another cuts a hole (even-odd).

    An outline that is stored twice is filled once, and one outside of the scan is left out; both are said.

    Args:
        mask: `(I, J, K)`, changed in place.
        name: of the structure, for messages.
        entry: its file.
    """

    def __init__(self, mask: NDArray[np.bool_], *, name: str, entry: Entry) -> None:
        self.mask, self.name, self.entry = mask, name, entry
        self.drawn: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
        self.count = self.copies = 0
        self.outside: list[str] = []

    def fill(self, outlines: Iterable[NDArray[np.float64]]) -> None:
        """Fill outlines, `(3, P)` each in voxels.

        Raises:
            GeometryError: outlines of another scan.
        """
        for outline in outlines:
            if outline.size:
                self.count += 1
                self._fill(outline)
        self._say()

    def _fill(self, index: NDArray[np.float64]) -> None:
        axis = int(np.ptp(index, axis=1).argmin()) if index.shape[1] > 2 else 2
        k = round(float(np.median(index[axis])))
        corners = np.delete(index, axis, axis=0)
        plane_shape = np.delete(self.mask.shape, axis)
        if not 0 <= k < self.mask.shape[axis]:
            self.outside.append(f"on slice {k} of a scan of {self.mask.shape[axis]} slices")
            return
        off = float(np.abs(index[axis] - k).max())
        if off > MAX_OFF_PLANE:
            what = (
                f"a contour of {self.name!r} lies {off:.2f} slices beside the nearest slice ({k}) of the scan"
            )
            raise GeometryError(what, where=str(self.entry), fix=GIVE_ITS_SCAN)
        if (corners.max(1) < -0.5).any() or (corners.min(1) > plane_shape - 0.5).any():
            self.outside.append(f"beside the pixels of slice {k}")
            return
        before = self.drawn.setdefault((axis, k), [])
        shape = int(plane_shape[0]), int(plane_shape[1])
        if any(_is_copy(corners, other, shape) for other in before):
            self.copies += 1
            return
        before.append(corners)
        plane = np.moveaxis(self.mask, axis, 0)[k]
        plane ^= inside_outline(*corners, shape=shape)

    def _say(self) -> None:
        if self.copies:
            caution(f"{self.entry}: {self.copies} contours of {self.name!r} are stored twice and drawn once")
        if not self.outside:
            return
        what = f"{len(self.outside)} of {self.count} contours of {self.name!r} lie outside of the scan"
        what += f", {'such as ' * (len(self.outside) > 1)}{self.outside[-1]}"
        if len(self.outside) > MOST_OUTSIDE * self.count:
            raise GeometryError(what, where=str(self.entry), fix=GIVE_ITS_SCAN)
        caution(f"{self.entry}: {what}, and are left out")


def _is_copy(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, int]) -> bool:
    """Whether two outlines `(2, P)` are one, whatever corner and direction they start with."""
    ends = np.abs(a.min(1) - b.min(1)), np.abs(a.max(1) - b.max(1))
    if max(map(np.max, ends)) > SAME_PIXELS:
        return False
    if np.array_equal(inside_outline(*a, shape=shape), inside_outline(*b, shape=shape)):
        return True
    from scipy.spatial import cKDTree

    return all(cKDTree(to.T).query(of.T)[0].max() <= SAME_PIXELS for of, to in ((a, b), (b, a)))


def inside_outline(
    rows: NDArray[np.float64], columns: NDArray[np.float64], *, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Pixels whose centers a closed outline encloses an odd number of times.

    Every edge toggles the pixels behind its crossing with each row; an edge owns its lower end alone, so that
    outlines that share an edge share no pixel.

    Args:
        rows: `(P)` of the corners; pixel centers have whole numbers.
        columns: `(P)` likewise.
        shape: rows and columns of the result.
    """
    ends = np.roll(rows, -1), np.roll(columns, -1)
    first = np.clip(np.ceil(np.minimum(rows, ends[0])), 0, shape[0]).astype(np.intp)
    last = np.clip(np.ceil(np.maximum(rows, ends[0])), 0, shape[0]).astype(np.intp)
    count = last - first
    edge = np.repeat(np.arange(len(rows)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (row - rows[edge]) / (ends[0] - rows)[edge]  # from 0 to 1
    crossing = np.ceil(columns[edge] + along * (ends[1] - columns)[edge])
    toggles = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(toggles, (row, np.clip(crossing, 0, shape[1]).astype(np.intp)), 1)
    return np.asarray(toggles.cumsum(1)[:, :-1] % 2 == 1)
