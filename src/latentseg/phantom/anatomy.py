"""The tissues of a procedural upper abdomen, painted from simple shapes in patient millimeters.

Coordinates are LPS-like: `x` to the patient's left, `y` to the back, `z` to the head, the origin at the
middle of the body near the renal vessels. Shapes are painted in order, the later over the earlier, each
inside the part of the body that may hold it; a smooth random warp of the coordinates makes every seed another
patient.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]
Window = tuple[slice, slice, slice]

HEIGHT_MM = 205.0
"""Mean height of the field of view: from the dome of the liver to below the kidneys."""


class Tissue(IntEnum):
    """What a voxel is made of."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    VISCERAL_FAT = 4
    LUNG = 5
    HEART = 6
    BONE = 7
    MARROW = 8
    DISC = 9
    CANAL = 10
    LIVER = 11
    LIVER_VESSEL = 12
    GALLBLADDER = 13
    SPLEEN = 14
    KIDNEY_CORTEX_RIGHT = 15
    KIDNEY_MEDULLA_RIGHT = 16
    KIDNEY_CORTEX_LEFT = 17
    KIDNEY_MEDULLA_LEFT = 18
    STOMACH_WALL = 19
    STOMACH_FLUID = 20
    GAS = 21
    STOMACH_GAS = 22
    AORTA = 23
    VENA_CAVA = 24
    PORTAL_VEIN = 25
    PANCREAS = 26
    BOWEL_WALL = 27
    BOWEL_FLUID = 28
    BOWEL_CONTRAST = 29
    STOOL = 30
    TABLE = 31
    RIB = 32
    LESION = 33
    RENAL_VEIN = 34
    ESOPHAGUS = 35
    SMALL_VESSEL = 36


@dataclass(frozen=True)
class Patient:
    """Sizes in millimeters that differ between patients."""

    half_width: float
    half_depth: float
    squareness: float
    fat: float
    wall: float
    spine_y: float
    liver: float
    spleen: float
    kidney: float
    dome_right: float
    dome_left: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """Draw one adult."""
        fat = float(rng.gamma(3.0, 5.0) + 6.0)
        core = float(rng.normal(128.0, 9.0))
        half_depth = core * float(rng.uniform(0.64, 0.76)) + fat * 0.8
        return cls(
            half_width=min(core + fat, 178.0),
            half_depth=min(half_depth, 140.0),
            squareness=float(rng.uniform(2.1, 2.7)),
            fat=min(fat, 40.0),
            wall=float(rng.uniform(7.0, 13.0)),
            spine_y=core * float(rng.uniform(0.26, 0.34)),
            liver=float(rng.normal(1.0, 0.09)),
            spleen=float(np.clip(rng.normal(1.0, 0.17), 0.65, 1.5)),
            kidney=float(rng.normal(1.0, 0.08)),
            dome_right=float(rng.uniform(72.0, 98.0)),
            dome_left=float(rng.uniform(62.0, 90.0)),
        )


class Canvas:
    """A tissue map `(S, H, W)` in canonical order, with the warped patient coordinates of its voxels."""

    def __init__(self, shape: tuple[int, int, int], width_mm: float, rng: np.random.Generator) -> None:
        """Lay out the grid, `width_mm` wide, and draw the warp."""
        in_plane = width_mm / max(shape[1:])
        self.shape = shape
        self.rng = rng
        self.spacing_mm = (HEIGHT_MM * float(rng.uniform(0.95, 1.15)) / shape[0], in_plane, in_plane)
        self.tissue = np.zeros(shape, np.uint8)
        shift = (float(rng.uniform(-12, 12)), float(rng.uniform(-6, 14)), float(rng.uniform(-8, 8)))
        self.axes = [
            ((np.arange(n) - (n - 1) / 2) * mm + offset).astype(np.float32)
            for n, mm, offset in zip(shape, self.spacing_mm, shift, strict=True)
        ]
        z, y, x = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.z: Array = z + smooth_field(shape, (3, 4, 4), rng) * np.float32(4.0)
        self.y: Array = y + smooth_field(shape, (4, 6, 6), rng) * np.float32(4.5)
        self.x: Array = x + smooth_field(shape, (4, 6, 6), rng) * np.float32(4.5)

    def window(self, center: Point, reach: Point, margin: float = 16.0) -> Window:
        """Index ranges `(S, H, W)` that hold every voxel within `reach` of `center`, both `(x, y, z)`."""
        limits = []
        for axis, middle, radius in zip(self.axes, center[::-1], reach[::-1], strict=True):
            low, high = np.searchsorted(axis, [middle - radius - margin, middle + radius + margin])
            limits.append(slice(int(low), int(high)))
        return limits[0], limits[1], limits[2]

    def ellipsoid(self, center: Point, radii: Point, tilt: float = 0.0) -> tuple[Window, Array]:
        """Squared radius (1 on the surface) round `center`; `tilt` shifts `x` per millimeter of `z`."""
        window = self.window(center, (radii[0] + abs(tilt) * radii[2], radii[1], radii[2]))
        z = self.z[window] - np.float32(center[2])
        x = (self.x[window] - np.float32(center[0]) - np.float32(tilt) * z) / np.float32(radii[0])
        y = (self.y[window] - np.float32(center[1])) / np.float32(radii[1])
        z = z / np.float32(radii[2])
        return window, np.asarray(x * x + y * y + z * z, np.float32)

    def paint(self, window: Window, inside: NDArray[np.bool_], tissue: Tissue, *over: Tissue) -> None:
        """Set `tissue` where `inside`, restricted to voxels that are one of `over` (all by default)."""
        part = self.tissue[window]
        if over:
            allowed = np.zeros(256, np.bool_)
            allowed[list(over)] = True
            inside = inside & allowed[part]
        part[inside] = tissue

    def tube(
        self, points: Iterable[Point], radii: tuple[float, float], tissue: Tissue, *over: Tissue
    ) -> None:
        """Paint a tube along a polyline, its radius going from the first to the second of `radii`."""
        path = np.asarray(list(points), np.float32)
        widths = np.linspace(*radii, len(path))
        for start, end, width in zip(path[:-1], path[1:], widths[:-1], strict=True):
            middle, half = (start + end) / 2, np.abs(end - start) / 2 + width
            window = self.window(tuple(middle), tuple(half), margin=14.0)
            step = end - start
            x, y, z = (c[window] - s for c, s in zip((self.x, self.y, self.z), start, strict=True))
            along = np.clip((x * step[0] + y * step[1] + z * step[2]) / max(float(step @ step), 1e-6), 0, 1)
            gap = (x - along * step[0]) ** 2 + (y - along * step[1]) ** 2 + (z - along * step[2]) ** 2
            self.paint(window, gap < width**2, tissue, *over)


def smooth_field(shape: tuple[int, int, int], knots: tuple[int, int, int], rng: np.random.Generator) -> Array:
    """Smooth noise of unit variance at the knots, interpolated with a raised cosine along each axis."""
    field: Any = rng.standard_normal(knots, dtype=np.float32)
    for axis, (count, knot) in enumerate(zip(shape, knots, strict=True)):
        distance = np.abs(np.linspace(0, knot - 1, count)[:, None] - np.arange(knot)[None])
        basis = np.where(distance < 1, 0.5 + 0.5 * np.cos(np.pi * distance), 0).astype(np.float32)
        field = np.moveaxis(np.tensordot(basis, field, (1, axis)), 0, axis)
    return np.ascontiguousarray(field, np.float32)
