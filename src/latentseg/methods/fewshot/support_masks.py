"""Images and masks of examples, as they are read: one label of several, on the grid of the scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import Volume, read_labels
from latentseg.imaging.files import RASTER_FORMATS, SUFFIXES, header_file, suffix_of
from latentseg.imaging.formats import as_volume, kind_of
from latentseg.imaging.geometry import onto_grid
from latentseg.imaging.intensity import Modality
from latentseg.imaging.label_names import Label, described, members
from latentseg.imaging.orientation import warn_of_orientation


def read_example(image: Any, *, modality: Modality | None = None, orientation: str | None = None) -> Volume:
    """Read the scan of an example, and warn where its header surely has the axes wrong."""
    scan = as_volume(image, modality=modality, orientation=orientation)
    if orientation is None and not isinstance(image, Volume):
        warn_of_orientation(scan)
    return scan


def masks_shown(
    mask: Any, labels: Mapping[str, Label | None], *, like: Volume
) -> Iterator[tuple[str, Volume]]:
    """The targets that a mask shows, each with its mask; a label map is read once for all of them.

    Args:
        mask: As in :func:`read_mask`.
        labels: The label of each target; None of one that is read by its name.
        like: Its scan.
    """
    label_map = cache(partial(read_mask, mask, like=like))
    for name, label in labels.items():
        volume = read_mask(mask, like=like, name=name) if label is None else label_map()
        if label is None or np.isin(volume.array, members(label)).any():
            yield name, volume


def read_mask(mask: Any, *, like: Volume, name: str | None = None) -> Volume:
    """Read a mask, and say it plainly when it is flat and the scan is not.

    Args:
        mask: A path, or an image in memory as in :func:`latentseg.read`; of a DICOM RTSTRUCT or SEG and of
            Slicer's ``.seg.nrrd`` the structure of that ``name`` is read.
        like: Its scan.
        name: What the target is called.

    Raises:
        GeometryError: The voxels of the mask do not lie on those of the scan.
    """
    described = isinstance(mask, str | Path) and kind_of(header_file(Path(mask))) != "DICOM"
    # Contours have no grid of their own, and arrays none that is known.
    on_own_grid = described or isinstance(mask, Volume)
    labels = read_labels(mask, like=None if on_own_grid else like, orientation=like.orientation, name=name)
    if (is_flat(labels) and like.shape[2] > 1) or (labels.shape[2] > 1 and like.shape[2] == 1):
        flat, deep = ("image", "mask") if like.shape[2] == 1 else ("mask", "image")
        raise GeometryError(
            f"the {flat} is a single slice and the {deep} a volume ({like.shape} against {labels.shape})",
            where=f"{like.source or 'image'} and {labels.source or 'mask'}",
            fix="give an image and a mask of the same slices",
        )
    return onto_grid(labels, like)


def marked(labels: NDArray[Any], *, label: Label | None, where: str) -> NDArray[np.bool_]:
    """Where a label map shows the target: one label, or several where it is a region.

    Raises:
        InputError: The map is empty, or does not hold the label.
        UsageError: The map holds several labels and none was chosen, or this is no label.
    """
    if label is not None and not all(isinstance(one, int | np.integer) for one in members(label)):
        raise UsageError(f"{label!r} is no label", where=where, fix="give label=, a number of the mask")
    present = [int(v) for v in np.unique(labels) if v != 0]
    if not present:
        raise InputError(
            "the support mask is empty", where=where, fix="give a mask in which the target is marked"
        )
    if label is None and len(present) > 1:
        raise UsageError(
            f"the mask holds {len(present)} labels ({_listing(present)})",
            where=where,
            fix="say which with label=, or name them in labels.json",
        )
    wanted = members(present[0] if label is None else label)
    if not set(wanted) & set(present):
        raise InputError(
            f"the mask lacks {described(wanted)} (it holds {_listing(present)})",
            where=where,
            fix="choose one of those",
        )
    return np.isin(labels, wanted)


def is_flat(volume: Volume) -> bool:
    """Whether a volume was read from a 2-D image: one picture, or a file whose header has two axes."""
    source, header = volume.source, volume.header
    if volume.shape[2] != 1 or hasattr(header, "series"):
        return False
    if source and (SUFFIXES.get(suffix_of(source)) in RASTER_FORMATS or source.is_dir()):
        return True
    return header is not None and int(getattr(header, "dimensions", 0) or header["dim"][0]) < 3


def _listing(values: Sequence[int], most: int = 12) -> str:
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
