"""Display windows: which intensities are drawn black and white, depending on the target.

They are for pictures only; the windows of the networks are in :mod:`latentseg.imaging.intensity`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.geometry import to_canonical
from latentseg.imaging.intensity import AIR_HU, SOFT_TISSUE_WINDOW_HU, is_windowed
from latentseg.imaging.volume import Volume


class Window(NamedTuple):
    """Intensities that are drawn black and white, in the units of the scan.

    Attributes:
        name: What it is called in radiology.
        low: Drawn black.
        high: Drawn white.
    """

    name: str
    low: float
    high: float


SOFT_TISSUE = Window("soft tissue", *SOFT_TISSUE_WINDOW_HU)
LUNG = Window("lung", -1350.0, 150.0)
BONE = Window("bone", -500.0, 1300.0)
BRAIN = Window("brain", 0.0, 80.0)
CT_WINDOWS = (SOFT_TISSUE, LUNG, BONE, BRAIN)
"""Level and width 75/400, -600/1500, 400/1800 and 40/80 HU."""

_LUNG_WORDS = re.compile(r"\b(lungs?|pulmonary|NSCLC|SCLC|bronch\w*|emphysema)\b", re.IGNORECASE)
_LUNG_HU = (-980.0, -500.0)  # air in the lungs, and not around the body
_BESIDE = 8  # voxels around a mask that are looked at, along each axis in the plane
_LUNG_SHARE = 0.4  # of lung in the box around a mask, from which it lies in a lung


def in_hounsfield(volume: Volume) -> bool:
    """Whether intensities are Hounsfield units: a CT that is not stored in 0 to 255."""
    return volume.modality == "CT" and not is_windowed(volume.array)


def display_windows(
    volume: Volume, *, target: str = "", mask: NDArray[np.bool_] | None = None
) -> tuple[Window, ...]:
    """Windows in which a scan is worth a look, the one for the target first.

    Args:
        volume: The scan.
        target: Name of what is looked at; the lungs are looked at in the lung window.
        mask: ``(I, J, K)``; what lies in a lung is looked at in the lung window whatever its name.

    Returns:
        The windows of radiology for a CT in HU; for all else one that spans the scan's percentiles.
    """
    if not in_hounsfield(volume):
        return (_whole_range(volume),)
    if _LUNG_WORDS.search(target.replace("_", " ")) or (mask is not None and _lies_in_a_lung(volume, mask)):
        return (LUNG, *(window for window in CT_WINDOWS if window is not LUNG))
    return CT_WINDOWS


def _whole_range(volume: Volume) -> Window:
    """0.5 and 99.5 percentile of what is neither padding nor 0, as in :func:`latentseg.imaging.normalize`."""
    array, padding = volume.array, volume.padding
    shown = np.isfinite(array) & (array != 0)
    inside = array[shown if padding is None else shown & ~padding]
    low, high = (float(edge) for edge in np.percentile(inside, (0.5, 99.5))) if inside.size else (0.0, 1.0)
    return Window("whole range", low, high if high > low else low + 1.0)


def _lies_in_a_lung(volume: Volume, mask: NDArray[np.bool_]) -> bool:
    """Whether much of the box around a mask, in the slice that holds most of it, is lung."""
    canonical = to_canonical(volume)
    inside = canonical.apply(mask)
    counts = inside.sum((1, 2))
    if not counts.any():
        return False
    k = int(counts.argmax())
    held = [np.flatnonzero(inside[k].any(axis)) for axis in (1, 0)]
    box = tuple(slice(max(0, at[0] - _BESIDE), at[-1] + _BESIDE + 1) for at in held)
    values = canonical.slices[k][box]
    lung = (values > _LUNG_HU[0]) & (values < min(AIR_HU, _LUNG_HU[1]))
    return float(lung.mean()) >= _LUNG_SHARE
