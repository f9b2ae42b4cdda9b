"""Where in the body a scan lies: a height in millimeters for every axial slice, read from the picture.

The height is measured along the body, upwards from the middle of the kidneys, in millimeters of an average
adult. The same anatomy has about the same height in every patient, in CT and MR and for any field of view. A
small network estimates the height of each slice; as the distance of the slices is known, a straight line is
fitted to its estimates.

```python
from latentseg.imaging import read
from latentseg.imaging.body import locate

position = locate(read("scan.nii.gz"))
position.height_mm[0]  # of the lowest slice, for example -180
position.describe()  # "pelvis to lower chest"
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import BodyNetwork, embedded_network
from latentseg.imaging.geometry import to_canonical

if TYPE_CHECKING:
    from latentseg.imaging.volume import Volume

Array = NDArray[np.float32]

MOST_LAYERS = 96
STRETCH = (0.8, 1.25)
"""Smallest and largest height of a patient, relative to the average adult's."""

CLEAR_MM = 60.0
"""Median expected error of slices from which on the place of a scan is not clear: 14 to 31 mm in trunks of
patients that the network had not learned, 122 mm in a thigh."""

PARTS: tuple[tuple[str, float], ...] = (
    ("legs", -330.0),
    ("pelvis", -110.0),
    ("abdomen", 90.0),
    ("lower chest", 190.0),
    ("upper chest", 330.0),
    ("neck", 430.0),
    ("head", np.inf),
)
"""Parts of the body from below, each with the height where it ends."""


@dataclass(frozen=True, eq=False)
class BodyPosition:
    """Where in the body the axial slices of a scan lie.

    Attributes:
        height_mm: `(S,)` for the canonical slices (:func:`latentseg.imaging.to_canonical`, inferior to
            superior): height above the middle of the kidneys in millimeters of an average adult.
        read_mm: `(S,)` the same as read from each slice by itself, without the line through all of them.
        spread_mm: `(S,)` expected absolute error of ``read_mm``.
        error_mm: expected absolute error of ``height_mm``; large where the readings contradict each other,
            as in a scan of a part of the body that was not learned.
    """

    height_mm: Array
    read_mm: Array
    spread_mm: Array
    error_mm: float

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts of the body that the scan shows, from below."""
        names = [part_at(float(height)) for height in (self.height_mm.min(), self.height_mm.max())]
        order = [name for name, _ in PARTS]
        return tuple(order[order.index(names[0]) : order.index(names[1]) + 1])

    @property
    def is_clear(self) -> bool:
        """Whether the slices look like what was learned: trunks do, limbs and heads mostly do not."""
        return float(np.median(self.spread_mm)) < CLEAR_MM

    def describe(self) -> str:
        """What the scan shows, for people: ``"pelvis to lower chest"``, ``"not clear"``."""
        if not self.is_clear:
            return "not clear"
        parts = self.parts
        return parts[0] if len(parts) == 1 else f"{parts[0]} to {parts[-1]}"

    def slices_between(self, low_mm: float, high_mm: float) -> NDArray[np.bool_]:
        """Which slices lie between two heights, `(S,)`; none where that part of the body is out of view."""
        return np.asarray((self.height_mm >= low_mm) & (self.height_mm <= high_mm))


def part_at(height_mm: float) -> str:
    """The part of the body at a height."""
    return next(name for name, end in PARTS if height_mm < end)


def locate(volume: Volume, *, network: BodyNetwork | None = None) -> BodyPosition:
    """Find where in the body the axial slices of a scan lie.

    The scan's own orientation is believed (``volume.orientation`` where it is given); see
    :func:`latentseg.imaging.orientation.check_orientation` for those that are wrong.

    Args:
        volume: CT or MR, of any field of view.
        network: weights other than those that ship with the package.

    Raises:
        InputError: values that are no numbers.
    """
    canonical = to_canonical(volume)
    cells = Cells.of(canonical.slices, canonical.spacing_mm, modality=volume.modality)
    count = len(cells.values)
    layers = np.unique(np.linspace(0, count - 1, min(count, MOST_LAYERS)).round().astype(int))
    reading = (network or embedded_network())(cells.pictures(0, layers.tolist()))
    slices = len(canonical.slices)
    at = (np.arange(slices) + 0.5) * count / slices - 0.5
    read_mm = np.interp(at, layers, reading.height_mm).astype(np.float32)
    spread_mm = np.interp(at, layers, reading.spread_mm).astype(np.float32)
    along_mm = (np.arange(slices) * canonical.spacing_mm[0]).astype(np.float32)
    line, error = fit_line(along_mm, read_mm, spread_mm)
    return BodyPosition(line, read_mm, spread_mm, error)


def fit_line(along_mm: Array, read_mm: Array, spread_mm: Array) -> tuple[Array, float]:
    """Fit a line to the estimates of the slices, robustly.

    Args:
        along_mm: `(S,)` where the slices are.
        read_mm: `(S,)` heights read from each.
        spread_mm: `(S,)` expected absolute errors of the readings.

    Returns:
        The line at ``along_mm``, its slope within `STRETCH`, and the weighted mean distance of the readings
        from it.
    """
    weight = 1 / np.maximum(spread_mm, 5.0)
    slope, offset = 1.0, float(np.median(read_mm - along_mm))
    for _ in range(8):
        distance = np.abs(read_mm - slope * along_mm - offset)
        w = weight / np.maximum(distance, 10.0)
        w = w / w.sum()
        middle, level = float(w @ along_mm), float(w @ read_mm)
        variance = float(w @ (along_mm - middle) ** 2)
        # A short scan says little of the patient's size: the slope is drawn to 1 as by 60 mm of evidence.
        covariance = float(w @ ((along_mm - middle) * (read_mm - level)))
        slope = float(np.clip((covariance + 60.0**2) / (variance + 60.0**2), *STRETCH))
        offset = level - slope * middle
    line = (slope * along_mm + offset).astype(np.float32)
    error = float((weight * np.abs(read_mm - line)).sum() / weight.sum())
    return line, error
