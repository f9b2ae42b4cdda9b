"""From a data set as it is downloaded to the image and label files of the few-shot literature.

The steps are those of the published notebooks: clip, resample to one spacing, crop or pad to one size.
Affines are kept correct in all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.datasets.base import Dataset, Pair
from latentseg.imaging import Volume, check_same_grid, write_like
from latentseg.imaging.affine import orientation_from, orientation_of


def prepare_originals(dataset: Dataset, *, original: Path, folder: Path) -> Iterator[str]:
    """Write the pairs of every case that is not there yet; yields each case id when it is.

    Args:
        dataset: What to make.
        original: Folder of the download, unpacked.
        folder: Where the pairs go.

    Raises:
        UsageError: The data set has no original of its own.
        InputError: No case is found, or one cannot be read.
        GeometryError: Image and labels of a case are on different grids.
    """
    if dataset.find_originals is None:
        fix = "its files are read as they are"
        raise UsageError("there is nothing to prepare", where=dataset.name, fix=fix)
    found = dataset.find_originals(original)
    if not found:
        what = f"no case of {dataset.name} as downloaded"
        raise InputError(what, where=str(original), fix="give the folder that the archive was unpacked to")
    for case, read_pair in found:
        image_path = folder / dataset.image_file.format(case=case)
        label_path = folder / dataset.label_file.format(case=case)
        if not (image_path.exists() and label_path.exists()):
            image, labels = read_pair()
            check_same_grid(image, labels)
            write_like(labels.array, like=labels, path=label_path)
            write_like(image.array.astype(np.float32), like=image, path=image_path, kind="image")
        yield case


def clip_top(volume: Volume, *, percentile: float = 99.5) -> Volume:
    """Cut off the brightest values, as MR has outliers at the top only."""
    return volume.with_array(np.minimum(volume.array, np.percentile(volume.array, percentile)))


def resample_pair(image: Volume, labels: Volume, *, spacing_mm: tuple[float, float, float]) -> Pair:
    """Bring both to one spacing: the image linearly, each label as the rounded linear share of it.

    The center of the first voxel stays where it is.
    """
    factors = np.divide(spacing_mm, image.spacing_mm)
    resampled = _resample(image.array.astype(np.float32), factors)
    out = np.zeros(resampled.shape, labels.array.dtype)
    for label in np.unique(labels.array[labels.array > 0]):
        out[_resample((labels.array == label).astype(np.float32), factors) >= 0.5] = label
    return _regridded(image, resampled, scale=factors), _regridded(labels, out, scale=factors)


def fit_in_plane(volume: Volume, size: tuple[int, int], *, value: float) -> Volume:
    """Crop or pad the first two axes around their center to `size`."""
    array = volume.array
    starts = [(array.shape[axis] - size[axis]) // 2 for axis in (0, 1)]
    for axis, start in enumerate(starts):
        before, after = max(-start, 0), max(size[axis] + start - array.shape[axis], 0)
        widths = [(before, after) if a == axis else (0, 0) for a in range(3)]
        array = np.pad(array, widths, constant_values=value)
        array = array.take(range(max(start, 0), max(start, 0) + size[axis]), axis=axis)
    return _regridded(volume, array, start=np.array([*starts, 0]))


def reorient(volume: Volume, codes: str) -> Volume:
    """Permute and flip the axes so that they point to `codes`, such as `"LAS"`; the affine stays true."""
    (axes, positive), (to_axes, to_positive) = orientation_of(volume.affine_ras_mm), orientation_from(codes)
    source = [axes[to_axes.index(axis)] for axis in range(3)]
    array, to_old = np.transpose(volume.array, source), np.zeros((4, 4))
    to_old[3, 3] = 1
    for axis, old in enumerate(source):
        world = to_axes.index(axis)
        flip = positive[world] != to_positive[world]
        array = np.flip(array, axis) if flip else array
        to_old[old, axis] = -1 if flip else 1
        to_old[old, 3] = volume.shape[old] - 1 if flip else 0
    affine = volume.affine_ras_mm @ to_old
    return replace(volume, array=np.ascontiguousarray(array), affine_ras_mm=affine, header=None)


def _resample(array: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.float32]:
    from scipy import ndimage

    shape = tuple(max(1, round(n / f)) for n, f in zip(array.shape, factors, strict=True))
    return np.asarray(
        ndimage.affine_transform(array, factors, output_shape=shape, order=1, mode="nearest"), np.float32
    )


def _regridded(
    volume: Volume, array: NDArray[Any], *, scale: Any = (1.0, 1.0, 1.0), start: Any = (0, 0, 0)
) -> Volume:
    """Another array whose voxel 0 was voxel `start`, and whose voxels are `scale` times as large."""
    affine = volume.affine_ras_mm.copy()
    affine[:3, 3] += affine[:3, :3] @ np.asarray(start, float)
    affine[:3, :3] *= np.asarray(scale, float)
    return replace(volume, array=array, affine_ras_mm=affine, header=None)
