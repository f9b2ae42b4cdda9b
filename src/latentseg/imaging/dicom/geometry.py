"""The audit of a DICOM series: do its slices make one evenly spaced, right-angled grid?

Libraries that assemble series answer by assuming it. Here every slice's stored position is compared with the
grid, and a series that is none is refused with the numbers measured. Two kinds can be resampled on demand:
slices with gaps and slices of a tilted gantry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError
from latentseg.imaging.affine import LPS_TO_RAS, MAX_SHEAR_COSINE

MAX_ANGLE_DEGREES = 0.1
"""Largest angle between two slices of one series; headers are rounded to about 0.001 degrees."""

MAX_OFF_GRID_MM = 0.105
"""How far a slice may lie off the grid between the first and the last, all of them rounded to 0.1 mm."""

MAX_OFF_GRID_STEPS = 0.02
MAX_TILT_DEGREES = 45.0
MAX_REFINEMENT = 8
"""A series is not resampled to more than this many times its own slices."""


@dataclass(frozen=True, eq=False)
class Planes:
    """Where slices lie, in DICOM's LPS millimeters.

    Attributes:
        positions_lps_mm: `(N, 3)` centers of the first pixels.
        directions: `(N, 2, 3)` unit vectors along which columns and rows are counted (I and J of a volume).
        spacing_mm: `(N, 2)` along I and J.
        thickness_mm: of the slices; the step between slices where there is only one.
        names: `(N)` what to call each in a message.
    """

    positions_lps_mm: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    thickness_mm: float
    names: tuple[str, ...]

    def take(self, order: NDArray[np.intp]) -> Planes:
        """Some of the planes, in another order."""
        return Planes(
            self.positions_lps_mm[order],
            self.directions[order],
            self.spacing_mm[order],
            self.thickness_mm,
            tuple(self.names[n] for n in order),
        )

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector from slice to slice, from the first plane's directions."""
        normal = np.cross(*self.directions[0])
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def distances_mm(self) -> NDArray[np.float64]:
        """`(N)` positions along the normal."""
        return np.asarray(self.positions_lps_mm @ self.normal)

    def affines_ras_mm(self) -> NDArray[np.float64]:
        """`(N, 4, 4)` pixel (I, J, 0) of each plane to RAS; the third column is the unit normal."""
        affines = np.tile(np.eye(4), (len(self.names), 1, 1))
        affines[:, :3, 0] = self.directions[:, 0] * self.spacing_mm[:, :1]
        affines[:, :3, 1] = self.directions[:, 1] * self.spacing_mm[:, 1:]
        affines[:, :3, 2] = self.normal
        affines[:, :3, 3] = self.positions_lps_mm
        return np.asarray(LPS_TO_RAS @ affines)


@dataclass(frozen=True, eq=False)
class Stack:
    """A grid for the slices of a series.

    Attributes:
        planes: the slices, in order along the normal.
        order: `(N)` the position of each in the input.
        affine_ras_mm: `(4, 4)` of the grid.
        shape: `(I, J, K)` of the grid.
        marks: what was resampled, in words; empty where the grid's slices are the series' own.
    """

    planes: Planes
    order: NDArray[np.intp]
    affine_ras_mm: NDArray[np.float64]
    shape: tuple[int, int, int]
    marks: tuple[str, ...] = ()

    def resample(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Bring the slices `(I, J, N)` onto the grid, linearly; outside of them is their smallest value."""
        outside = np.float32(array.min())
        out = np.empty(self.shape, np.float32)
        affines, normal = self.planes.affines_ras_mm(), self.planes.normal
        along = (LPS_TO_RAS[:3, :3] @ normal) @ self.affine_ras_mm[:3, 2]
        start = (LPS_TO_RAS[:3, :3] @ normal) @ self.affine_ras_mm[:3, 3]
        distances = self.planes.distances_mm
        for k in range(self.shape[2]):
            at = np.interp(start + k * along, distances, np.arange(len(distances)))
            below = min(int(at), len(distances) - 1)
            above, weight = min(below + 1, len(distances) - 1), np.float32(at - int(at))
            slices = []
            for n in {below, above} if weight > 1e-6 else {below}:
                origin = self.affine_ras_mm[:3, 3] + k * self.affine_ras_mm[:3, 2]
                shift = np.linalg.solve(affines[n][:3, :3], origin - affines[n][:3, 3])[:2]
                share = weight if n == above and above != below else 1 - weight
                slices.append(share * _shifted(array[:, :, n], shift, self.shape[:2], outside))
            out[:, :, k] = np.sum(slices, axis=0)
        return out

    def index_of(self, points_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixel and nearest slice `(i, j, n)` of points `(3, P)`; n keeps what it is off as a fraction."""
        points = LPS_TO_RAS[:3, :3] @ points_ras_mm
        distances, along = self.planes.distances_mm, self.planes.normal @ points
        nearest = np.abs(along[:, None] - distances).argmin(1)
        step = float(np.median(np.diff(distances))) if len(distances) > 1 else self.planes.thickness_mm
        beside = points - self.planes.positions_lps_mm[nearest].T
        axes = self.planes.affines_ras_mm()[0]
        inverse = np.linalg.inv(LPS_TO_RAS[:3, :3] @ axes[:3, :3])
        index = inverse @ beside
        index[2] = nearest + (along - distances[nearest]) / step
        return np.asarray(index)

    def onto_slices(self, array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
        """Bring a mask on the grid to the series' own slices `(I, J, N)`, each voxel from its nearest."""
        inverse = np.linalg.inv(self.affine_ras_mm)
        out = np.zeros((*size, len(self.planes.names)), array.dtype)
        for n, affine in enumerate(self.planes.affines_ras_mm()):
            i, j, k = np.rint((inverse @ affine[:, 3])[:3] + 1e-6).astype(int)
            out[:, :, n] = _cut(array[:, :, np.clip(k, 0, array.shape[2] - 1)], (i, j), size)
        return out

    def onto_grid(self, array: NDArray[Any]) -> NDArray[Any]:
        """Bring a mask on the series' slices `(I, J, N)` to the grid, each voxel from its nearest slice."""
        out = np.zeros(self.shape, array.dtype)
        for k in range(self.shape[2]):
            corner = self.affine_ras_mm @ [0, 0, k, 1]
            i, j, n = np.rint(self.index_of(corner[:3, None])[:, 0] + 1e-6).astype(int)
            out[:, :, k] = _cut(array[:, :, np.clip(n, 0, array.shape[2] - 1)], (i, j), self.shape[:2])
        return out


def audit(
    planes: Planes,
    size: tuple[int, int],
    *,
    allow_gaps: bool = False,
    resample_tilt: bool = False,
    where: str,
) -> Stack:
    """Find the grid of the slices of a series.

    Args:
        planes: the slices, in any order.
        size: columns and rows of each.
        allow_gaps: resample unevenly spaced slices to the smallest gap.
        resample_tilt: resample a sheared stack to a right-angled grid that holds all of it.
        where: the series, for messages.

    Raises:
        GeometryError: orientations or pixel spacings that differ, positions that coincide, a stack that is
            sheared, unevenly spaced or not straight; with the numbers measured.
    """
    _check_directions(planes, where)
    _check_spacing(planes, where)
    order = np.argsort(planes.distances_mm, kind="stable")
    planes = planes.take(order)
    if len(planes.names) == 1:
        return _single(planes, order, size)
    _check_apart(planes, where)
    slope = _slope(planes, where)
    tilt = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    tilted = float(np.linalg.norm(slope)) > MAX_SHEAR_COSINE
    if tilted and not resample_tilt:
        what = f"the slices are sheared by a gantry tilt of {tilt:.1f} degrees"
        fix = "Pass resample_tilt=True to resample to a right-angled grid (outputs are marked approximate)"
        raise GeometryError(what, where=where, fix=fix)
    gaps = _gaps(planes)
    _check_resampling(planes, tilt, where)
    if gaps and not allow_gaps:
        fix = "Export the series again, or pass allow_gaps=True to resample (outputs are marked approximate)"
        raise GeometryError(gaps, where=where, fix=fix)
    marks = (f"gantry tilt of {tilt:.1f} degrees resampled",) * tilted + (f"resampled: {gaps}",) * bool(gaps)
    return _resampled(planes, order, size, marks) if marks else _regular(planes, order, size)


def _check_resampling(planes: Planes, tilt: float, where: str) -> None:
    """Refuse what would be resampled to nothing sensible."""
    gaps = np.diff(planes.distances_mm)
    if gaps.sum() / gaps.min() + 1 > MAX_REFINEMENT * len(planes.names) or tilt > MAX_TILT_DEGREES:
        spread = f"{gaps.min():.3g} to {gaps.max():.4g} mm apart, tilted by {tilt:.0f} degrees"
        what = f"the slices make no volume: they lie {spread}"
        raise GeometryError(what, where=where, fix="Separate the acquisitions into folders of their own")


def _single(planes: Planes, order: NDArray[np.intp], size: tuple[int, int]) -> Stack:
    affine = planes.affines_ras_mm()[0]
    affine[:3, 2] *= planes.thickness_mm
    return Stack(planes, order, affine, (*size, 1))


def _regular(planes: Planes, order: NDArray[np.intp], size: tuple[int, int]) -> Stack:
    count = len(planes.names)
    affine = planes.affines_ras_mm()[0]
    step = (planes.positions_lps_mm[-1] - planes.positions_lps_mm[0]) / (count - 1)
    affine[:3, 2] = LPS_TO_RAS[:3, :3] @ step
    return Stack(planes, order, affine, (*size, count))


def _resampled(
    planes: Planes, order: NDArray[np.intp], size: tuple[int, int], marks: tuple[str, ...]
) -> Stack:
    """A right-angled grid over all slices: as wide as they spread, as fine as the smallest gap."""
    distances = planes.distances_mm - planes.distances_mm[0]
    count = round(distances[-1] / np.diff(distances).min()) + 1
    affine = planes.affines_ras_mm()[0]
    inverse = np.linalg.inv(affine)
    origins = (inverse[:3] @ planes.affines_ras_mm()[:, :, 3].T)[:2]  # (2, N) in pixels of the first slice
    low, high = np.floor(origins.min(1) + 1e-3), np.ceil(origins.max(1) - 1e-3)
    affine[:3, 3] += affine[:3, :2] @ low
    affine[:3, 2] *= distances[-1] / (count - 1)
    extra = (high - low).astype(int)
    return Stack(planes, order, affine, (size[0] + int(extra[0]), size[1] + int(extra[1]), count), marks)


def _check_directions(planes: Planes, where: str) -> None:
    lengths = np.linalg.norm(planes.directions, axis=2)
    skew = np.abs(np.einsum("na,na->n", planes.directions[:, 0], planes.directions[:, 1]))
    bad = np.flatnonzero((np.abs(lengths - 1).max(1) > 1e-2) | (skew > 1e-2))
    if bad.size:
        n = int(bad[0])
        numbers = ", ".join(f"{value:.4g}" for value in planes.directions[n].ravel())
        what = f"the orientation of {planes.names[n]} is no pair of right-angled unit vectors ({numbers})"
        raise GeometryError(what, where=where, fix="Repair ImageOrientationPatient, or export it again")
    unit = planes.directions / lengths[..., None]
    chord = np.linalg.norm(unit - unit[0], axis=2).max(1)
    angles = np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1)))
    if angles.max() > MAX_ANGLE_DEGREES:
        turned = int(np.count_nonzero(angles > MAX_ANGLE_DEGREES))
        what = (
            f"the slices have mixed orientations: {turned} of {len(angles)} are turned by up to "
            f"{angles.max():.1f} degrees, such as {planes.names[int(angles.argmax())]}"
        )
        raise GeometryError(what, where=where, fix="Separate the orientations into folders of their own")


def _check_spacing(planes: Planes, where: str) -> None:
    spread = np.abs(planes.spacing_mm - planes.spacing_mm[0]).max(1)
    if spread.max() > 1e-4 * planes.spacing_mm[0].max():
        other = planes.spacing_mm[int(spread.argmax())]
        what = (
            f"the pixel spacing changes within the series: {planes.spacing_mm[0][0]:.6g} x "
            f"{planes.spacing_mm[0][1]:.6g} mm and {other[0]:.6g} x {other[1]:.6g} mm"
        )
        raise GeometryError(what, where=where, fix="Separate the acquisitions into folders of their own")


def _check_apart(planes: Planes, where: str) -> None:
    gaps = np.diff(planes.distances_mm)
    n = int(gaps.argmin())
    if gaps[n] < 1e-3:
        what = f"{planes.names[n]} and {planes.names[n + 1]} lie {gaps[n]:.2g} mm apart"
        raise GeometryError(what, where=where, fix="Separate the acquisitions into folders of their own")


def _slope(planes: Planes, where: str) -> NDArray[np.float64]:
    """Sideways millimeters per millimeter along the normal; refuses stacks that are not straight."""
    distances = planes.distances_mm - planes.distances_mm[0]
    sideways = planes.positions_lps_mm - planes.positions_lps_mm[0] - distances[:, None] * planes.normal
    slope = np.asarray(sideways[-1] / distances[-1])
    off = np.linalg.norm(sideways - distances[:, None] * slope, axis=1)
    n = int(off.argmax())
    if off[n] > _tolerance_mm(distances):
        what = f"the slices are not in a straight stack: {planes.names[n]} is {off[n]:.3g} mm beside it"
        raise GeometryError(what, where=where, fix="Separate the acquisitions into folders of their own")
    return slope


def _gaps(planes: Planes) -> str:
    """What is uneven about the distances between slices, in words; empty where nothing is."""
    distances = planes.distances_mm - planes.distances_mm[0]
    even = np.linspace(0, distances[-1], len(distances))
    if np.abs(distances - even).max() <= _tolerance_mm(distances):
        return ""
    gaps = np.diff(distances)
    usual = float(np.median(gaps))
    n = int(np.abs(gaps - usual).argmax())
    what = (
        f"the slices are not evenly spaced: a gap of {gaps[n]:.4g} mm after {planes.names[n]} "
        f"(expected {usual:.4g})"
    )
    missing = np.rint(gaps / usual) - 1
    if missing.max() >= 1 and np.abs(gaps / usual - np.rint(gaps / usual)).max() < 0.1:
        count = int(missing.sum())
        return f"{what}; {count} {'slice looks' if count == 1 else 'slices look'} missing"
    return f"{what}; gaps range from {gaps.min():.4g} to {gaps.max():.4g} mm"


def _tolerance_mm(distances: NDArray[np.float64]) -> float:
    step = float(np.median(np.diff(distances)))
    return min(max(MAX_OFF_GRID_MM, MAX_OFF_GRID_STEPS * step), step / 4)


def _shifted(
    image: NDArray[Any], shift: NDArray[np.float64], shape: tuple[int, int], outside: np.float32
) -> NDArray[np.float32]:
    """Sample `image` at pixel `(i, j) + shift`, bilinearly, for all pixels of `shape`."""
    i, di = _taps(float(shift[0]))
    j, dj = _taps(float(shift[1]))
    low = (min(int(i), 0), min(int(j), 0))
    pad = [(-low[a], max(0, at + shape[a] + 1 - image.shape[a])) for a, at in enumerate((int(i), int(j)))]
    padded = np.pad(image.astype(np.float32), pad, constant_values=outside)
    a, b = int(i) - low[0], int(j) - low[1]
    rows = (1 - di) * padded[a : a + shape[0]] + di * padded[a + 1 : a + 1 + shape[0]]
    out = (1 - dj) * rows[:, b : b + shape[1]] + dj * rows[:, b + 1 : b + 1 + shape[1]]
    return np.asarray(out, np.float32)


def _cut(image: NDArray[Any], start: tuple[int, int], shape: tuple[int, int]) -> NDArray[Any]:
    """The part of `image` from pixel `start` on, 0 where there is none."""
    out = np.zeros(shape, image.dtype)
    low = [max(0, -at) for at in start]
    high = [min(n, have - at) for n, have, at in zip(shape, image.shape, start, strict=True)]
    if high[0] > low[0] and high[1] > low[1]:
        source = tuple(slice(a + at, b + at) for a, b, at in zip(low, high, start, strict=True))
        out[low[0] : high[0], low[1] : high[1]] = image[source]
    return out


def _taps(shift: float) -> tuple[int, np.float32]:
    """Whole pixels and the rest, which is 0 where it is only rounding."""
    near = round(shift)
    if abs(shift - near) < 1e-3:
        return near, np.float32(0)
    whole = int(np.floor(shift))
    return whole, np.float32(shift - whole)
