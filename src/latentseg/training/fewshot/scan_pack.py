"""A pack of every scan of a benchmark, from which each fold and setting takes its slices.

Unlike :func:`~latentseg.training.pack.pack` it keeps all slices, so that position ``n`` is canonical slice
``n``; and supervoxels are kept scan by scan, so that a stopped computation goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, fit_square, normalize, to_canonical
from latentseg.training.fewshot.supervoxels import BODY_GREY, body_mask, supervoxels
from latentseg.training.pack import Pack, PackWriter, save_array

SMALLEST = {"MS-CMRSeg": 1000}  # voxels of a supervoxel; hearts have thin walls
SMALLEST_ELSEWHERE = 5000


class LabelledScan(NamedTuple):
    """A scan, its label map on the same grid, and what the labels are called."""

    case: str
    image: Volume
    labels: Volume
    names: dict[int, str]


def pack_scans(
    scans: Iterable[LabelledScan], *, source: str, folder: Path, size: int = 256, whole_range: bool = False
) -> Pack:
    """Write a pack, unless it is there.

    Args:
        scans: In the published order; read only when they are needed.
        source: Name of the data set.
        folder: Of the pack.
        size: Edge of the slices.
        whole_range: See :func:`latentseg.imaging.normalize`.

    Raises:
        InputError: There is no scan, or the folder cannot be written.
    """
    if (folder / "pack.json").exists():
        return Pack(folder)
    writer = PackWriter(folder)
    for scan in scans:
        stacks = _slices(scan, size, whole_range=whole_range)
        modality = scan.image.modality
        writer.add(*stacks, source=source, case=scan.case, modality=modality, labels=scan.names)
    if not writer.scans:
        raise InputError("no scan to pack", where=source, fix="set LATENTSEG_DATA to the folder of the data")
    return writer.finish()


def pack_supervoxels(packed: Pack, *, smallest: int) -> Iterator[str]:
    """Compute the supervoxels that are missing, scan by scan; yields each case when it is there.

    Args:
        packed: From :func:`pack_scans`.
        smallest: Fewest voxels of a supervoxel.

    Raises:
        UsageError: The package numba is not installed.
    """
    if packed.supervoxels is not None:
        return
    out = np.zeros(packed.images.shape, np.uint16)
    for scan in packed.scans:
        at = slice(scan.first, scan.first + scan.count)
        path = packed.folder / "supervoxels" / f"{scan.case}-{smallest}.npy"
        if not path.exists():
            image = packed.images[at]
            ids = supervoxels(image, spacing_mm=scan.spacing_mm, min_size=smallest)
            inside = body_mask(image, above=BODY_GREY)
            save_array(path, np.where(inside, ids + 1, 0).astype(np.uint16))
        out[at] = np.load(path)
        yield scan.case
    save_array(packed.folder / "supervoxels.npy", out)


def smallest_of(dataset: str) -> int:
    """Fewest voxels of a supervoxel of a data set, as in published code."""
    return SMALLEST.get(dataset, SMALLEST_ELSEWHERE)


def _slices(
    scan: LabelledScan, size: int, *, whole_range: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, float, float]]:
    canonical = to_canonical(scan.image)
    pixel_mm = canonical.spacing_mm[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)
        values = normalize(canonical.slices, modality=scan.image.modality, whole_range=whole_range)
    image, _ = fit_square(values, size, pixel_mm=pixel_mm)
    label, _ = fit_square(canonical.apply(scan.labels.array), size, kind="mask", pixel_mm=pixel_mm)
    packed = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return packed, label.astype(np.uint8), canonical.spacing_mm
