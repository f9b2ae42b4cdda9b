"""Warnings about scans that can be read and are hardly what they are taken for."""

from __future__ import annotations

import numpy as np

from latentseg.errors import caution
from latentseg.imaging.files import RASTER_FORMATS, SUFFIXES, suffix_of
from latentseg.imaging.objects import ArrayHeader
from latentseg.imaging.volume import Volume

SMALLEST_BODY_MM = 5.0
LARGEST_BODY_MM = 3000.0
FEW_VALUES = 32
"""A label map has fewer values than this; a scan of 8 bit has many more."""


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
    low, high = int(array.min()), int(array.max())
    if low != 0 or not 0 < high <= np.iinfo(np.uint16).max:
        return 0
    if np.unique(array.ravel()[:: max(1, array.size // 4096)]).size > FEW_VALUES:
        return 0
    count = np.count_nonzero(np.bincount(array.ravel(), minlength=high + 1))
    return int(count) if count <= FEW_VALUES else 0


def _warn_about_size(volume: Volume, where: str) -> None:
    if _is_picture(volume):
        return
    extents = [count * mm for count, mm in zip(volume.shape, volume.spacing_mm, strict=True) if count > 1]
    if not extents or SMALLEST_BODY_MM <= max(extents) <= LARGEST_BODY_MM:
        return
    size = " x ".join(f"{count * mm:.4g}" for count, mm in zip(volume.shape, volume.spacing_mm, strict=True))
    message = (
        f"{where} measures {size} mm, which is no body's size: check the unit and the spacing of its header"
    )
    caution(message, stacklevel=4)


def _is_picture(volume: Volume) -> bool:
    """Whether a size is not known, because pictures carry none."""
    source, header = volume.source, volume.header
    if hasattr(header, "series"):  # DICOM
        return False
    if isinstance(header, ArrayHeader) and header.dimensions == 2:
        return True
    return source is not None and (SUFFIXES.get(suffix_of(source)) in RASTER_FORMATS or source.is_dir())
