"""Intensities: CT in Hounsfield units through a window, MR through the percentiles of its foreground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution

Modality = Literal["CT", "MR", "unknown"]

AIR_HU = -500
"""A CT of a patient has voxels below this: air around the body, in the lungs or in the bowel."""

HU_REACH = (-20000.0, 20000.0)
"""No scanner gives Hounsfield units beyond."""

SOFT_TISSUE_WINDOW_HU = (-125.0, 275.0)
"""The abdominal window of the few-shot literature (level 75, width 400)."""


TISSUE_FLOOR = -0.7
"""Normalized value above which there is no air and little fat."""

TISSUE_LEVEL = -0.17
"""Median of what is above it, over abdominal CT scans in that window (SABS 7-18)."""

STRONGEST_STRETCH = 2.5

FEWEST_PADDED = 8
LEAST_GAP = 0.1
HIGH_GAP = 1.0
"""Least distance of padding below and above all other voxels, as a share of their range."""

LARGEST = (32767, 65535)
"""The largest numbers of 16 bits, which are padding at the border of a picture at any distance."""

LEAST_SURFACE = 0.02
"""Share of the surface of a volume that padding above all other values covers at least."""

MOST_MIXED = 0.02
"""Share of negative voxels in a positive picture that interpolation next to padding may leave."""


def guess_modality(array: NDArray[Any]) -> Modality:
    """Guess CT or MR from the values alone.

    Air below -500 and nothing beyond the reach of Hounsfield units is CT; non-negative values above the 8-bit
    range are MR; all else, such as an 8-bit picture, is ``"unknown"``. Padding does not count; a constant
    background below -500 in a scan that is otherwise positive is padding of a resampled MR.
    """
    if array.size == 0:
        return "unknown"
    padding = padding_of(array)
    inside = array if padding is None else array[~padding]
    low, high = float(inside.min()), float(inside.max())
    air = low if padding is None else float(array.min())
    if HU_REACH[0] <= air < AIR_HU and high > 0 and not _is_padded_mr(inside, padding):
        return "CT"
    if HU_REACH[0] <= low < AIR_HU and high > 0:
        return "CT"
    return "MR" if low >= 0 and high > 255 else "unknown"


def padding_of(array: NDArray[Any], *, modality: Modality = "unknown") -> NDArray[np.bool_] | None:
    """Voxels that are no part of the picture: a constant value far away from all others, or None.

    Such are what a resampling program puts where it has no data (-1024, -2000, -32768), which lies below all
    other values, and 65535 or the like at the corners and borders, which lies above them. What lies between a
    value below zero and zero, where a picture is positive otherwise, is mixed with it. A background of 0
    needs no telling, and in a CT nothing is padding that can be Hounsfield units.

    Args:
        array: any shape.
        modality: what its values mean.
    """
    if array.size == 0:
        return None
    low, high = array.min(), array.max()
    masks = [
        mask
        for mask in (_padding_below(array, low, modality), _padding_above(array, high, modality))
        if mask is not None
    ]
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] | masks[1]


def _padding_below(array: NDArray[Any], value: Any, modality: Modality) -> NDArray[np.bool_] | None:
    if value == 0 or (modality == "CT" and value >= HU_REACH[0]):
        return None
    mask = np.asarray(array == value)
    if np.count_nonzero(mask) < FEWEST_PADDED or mask.all():
        return None
    low, high = np.percentile(array[~mask], (5, 99.5))
    if not (high > low and float(low) - float(value) >= LEAST_GAP * (high - low)):
        return None
    if value < 0 and modality != "CT":
        mixed = (array < 0) & ~mask
        if np.count_nonzero(mixed) <= MOST_MIXED * (array.size - np.count_nonzero(mask)):
            mask |= mixed
    return mask


def _padding_above(array: NDArray[Any], value: Any, modality: Modality) -> NDArray[np.bool_] | None:
    if modality == "CT" and value <= HU_REACH[1]:
        return None
    corners = array[np.ix_(*[(0, -1)] * array.ndim)]
    if not (corners == value).any():
        return None
    mask = np.asarray(array == value)
    if np.count_nonzero(mask) < FEWEST_PADDED or mask.all():
        return None
    low, high = np.percentile(array[~mask], (0.5, 99.5))
    gap = 0.0 if value in LARGEST else HIGH_GAP
    if not (high > low and float(value) - float(high) >= gap * (high - low)):
        return None
    return mask if _share_of_surface(mask) >= LEAST_SURFACE else None


def _share_of_surface(mask: NDArray[np.bool_]) -> float:
    faces = [mask.take(end, axis) for axis in range(mask.ndim) if mask.shape[axis] > 1 for end in (0, -1)]
    return sum(int(face.sum()) for face in faces) / max(1, sum(face.size for face in faces))


def _is_padded_mr(inside: NDArray[Any], padding: NDArray[np.bool_] | None) -> bool:
    """Whether voxels beside padding are those of an MR: positive, and larger than a CT of the brain alone."""
    if padding is None:
        return False
    negative = int(np.count_nonzero(inside < 0))
    return negative <= MOST_MIXED * inside.size and float(np.percentile(inside, 99.5)) > 255


def check_finite(array: NDArray[Any], *, where: str = "") -> None:
    """Require every voxel to be a number.

    Raises:
        InputError: with the count of NaN and infinite voxels and the index of the first.
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    bad = int(finite.size - np.count_nonzero(finite))
    first = tuple(int(n) for n in np.unravel_index(int(np.argmin(finite)), array.shape))
    what = f"{bad} voxels are NaN or infinite, the first at index {first}"
    raise InputError(what, where=where, fix="Replace them, for example by the value of air or by 0")


def normalize(
    array: NDArray[Any],
    *,
    modality: Modality,
    window: tuple[float, float] = SOFT_TISSUE_WINDOW_HU,
    where: str = "",
    whole_range: bool = False,
    only: Sequence[int] | None = None,
) -> NDArray[np.float32]:
    """Map intensities to [-1, 1], from the statistics of the whole volume.

    Args:
        array: any shape.
        modality: ``"CT"`` maps the window in HU; a CT already stored in 0..255 or 0..1 is mapped over that
            range with a warning. ``"MR"`` and ``"unknown"`` map the 0.5 and 99.5 percentiles of the nonzero
            voxels. Padding counts in neither, and becomes -1.
        window: lower and upper HU for CT.
        where: name of the image, for messages.
        whole_range: map the smallest and the largest voxel instead, padding aside, whatever the modality.
        only: these slices alone, along the first axis.

    Raises:
        InputError: NaN or infinite voxels, or an image of a single value.
    """
    check_finite(array, where=where)
    if array.size == 0 or array.min() == array.max():
        value = "no voxels" if array.size == 0 else f"the single value {float(array.flat[0]):g}"
        raise InputError(f"the image is constant ({value})", where=where, fix="Check how it was exported")
    padding = padding_of(array, modality=modality)
    inside = array if padding is None else array[~padding]
    if whole_range:
        low, high = float(inside.min()), float(inside.max())
    else:
        low, high = _ct_range(inside, window, where) if modality == "CT" else _foreground_range(inside)
    some = slice(None) if only is None else list(only)
    out: NDArray[np.float32] = array[some].astype(np.float32)
    out -= np.float32(low)
    out *= np.float32(2.0 / (high - low))
    out -= np.float32(1.0)
    np.clip(out, -1.0, 1.0, out=out)
    if padding is not None:
        out[padding[some]] = -1.0
    return out


def brightened(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch a CT that was stored in some wide window so that its tissue is as bright as in the usual one.

    Args:
        values: any shape, in [-1, 1], -1 being air.

    Returns:
        The same, stretched from -1 by 1 to 2.5 so that the median of tissue comes to that of abdominal CT.
    """
    tissue = values[values > TISSUE_FLOOR]
    level = float(np.median(tissue)) if tissue.size else TISSUE_LEVEL
    stretch = min(max((1 + TISSUE_LEVEL) / (1 + level), 1.0), STRONGEST_STRETCH)
    return np.asarray(((values + 1) * np.float32(stretch) - 1).clip(-1, 1), np.float32)


def is_windowed(array: NDArray[Any]) -> bool:
    """Whether a CT is stored in 0 to 255, or 0 to 1, and not in HU; padding does not count."""
    padding = padding_of(array, modality="CT")
    inside = array if padding is None else array[~padding]
    return float(inside.min()) >= 0 and float(inside.max()) <= 255


def _ct_range(array: NDArray[Any], window: tuple[float, float], where: str) -> tuple[float, float]:
    low, high = float(array.min()), float(array.max())
    name = f" ({where})" if where else ""
    if is_windowed(array):
        top = 255.0 if high > 1 else 1.0
        message = f"This CT{name} spans {low:g} to {high:g}, not HU: taken as already windowed, 0 to {top:g}"
        caution(message, stacklevel=3)
        return 0.0, top
    if low > AIR_HU:
        message = f"This CT{name} has no air (minimum {low:g} HU): check that its values are Hounsfield units"
        caution(message, stacklevel=3)
    if not window[0] < window[1]:
        raise InputError(f"the CT window {window} is empty", where=where, fix="Give (lower, upper) in HU")
    return window


def _foreground_range(array: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(p) for p in np.percentile(array[array != 0], (0.5, 99.5)))
    return (low, high) if high > low else (float(array.min()), float(array.max()))


def scan_noise(image: NDArray[np.float32]) -> float:
    """Standard deviation of what changes from pixel to pixel, outside of air; robust against borders."""
    from scipy import ndimage

    rough = image - ndimage.gaussian_filter(image, 1.5)
    tissue = rough[image > -0.95]
    return 1.4826 * float(np.median(np.abs(tissue))) if tissue.size else 0.0
