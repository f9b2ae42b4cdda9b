"""Warnings about files that can be read but are probably not what the user thinks they are."""

from __future__ import annotations

import numpy as np

from latentseg.errors import caution
from latentseg.imaging.files import RASTER_FORMATS, SUFFIXES, suffix_of
from latentseg.imaging.objects import ArrayHeader
from latentseg.imaging.volume import Volume

SMALLEST_BODY_MM = 5.0
LARGEST_BODY_MM = 3000.0
FEW_VALUES = 8
"""A scan has more values than this, even one of 8 bit."""

MOST_LABELS = 300
SAME_NEIGHBORS = 0.8
"""Share of the voxels of a label map that are as their neighbor; of a scan it is far lower."""


def warn_about_contents(volume: Volume, *, where: str) -> None:
    """Warn of a size that no part of a body has, and of a label map in the place of a scan."""
    _warn_about_size(volume, where)
    values = label_count(volume)
    if values:
        caution(
            f"{where} holds {values} different values: is it a mask in the place of a scan?", stacklevel=4
        )


def label_count(volume: Volume) -> int:
    """How many values an image holds that looks like a label map; 0 for one that does not."""
    array = volume.array
    if array.dtype.kind not in "ui" or array.size <= FEW_VALUES:
        return 0
    if array.min() != 0 or not 0 < array.max() <= np.iinfo(np.uint16).max:
        return 0
    if np.unique(array.ravel()[:: max(1, array.size // 4096)]).size > MOST_LABELS:
        return 0
    count = int(np.count_nonzero(np.bincount(array.ravel())))
    if count <= FEW_VALUES:
        return count
    here, beside = array[:-1], array[1:]
    inside = here > 0
    same = np.count_nonzero((here == beside) & inside)
    return count if count <= MOST_LABELS and same >= SAME_NEIGHBORS * np.count_nonzero(inside) > 0 else 0


def _warn_about_size(volume: Volume, where: str) -> None:
    if is_picture(volume):
        return
    length = longest_mm(volume)
    if not length or SMALLEST_BODY_MM <= length <= LARGEST_BODY_MM:
        return
    size = " x ".join(f"{count * mm:.4g}" for count, mm in zip(volume.shape, volume.spacing_mm, strict=True))
    message = (
        f"{where} measures {size} mm, which is no body's size: check the unit and the spacing of its header"
    )
    caution(message, stacklevel=4)


def longest_mm(volume: Volume) -> float:
    """Length of the longest axis that has more than one voxel; 0 where none has."""
    extents = [count * mm for count, mm in zip(volume.shape, volume.spacing_mm, strict=True) if count > 1]
    return max(extents, default=0.0)


def is_picture(volume: Volume) -> bool:
    """Whether size and orientation are not known, because pictures carry neither."""
    source, header = volume.source, volume.header
    if hasattr(header, "series"):  # DICOM
        return False
    if isinstance(header, ArrayHeader) and header.dimensions == 2:
        return True
    return source is not None and (SUFFIXES.get(suffix_of(source)) in RASTER_FORMATS or source.is_dir())
