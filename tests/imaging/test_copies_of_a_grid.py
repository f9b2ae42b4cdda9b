"""Masks on flipped, permuted and cropped copies of the scan's grid: accepted exactly, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import grids
from latentseg.errors import GeometryError
from latentseg.imaging import Volume, read, read_labels, write_like
from latentseg.imaging.geometry import onto_grid


def turned(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels at the same places, stored in another order."""
    array, affine = volume.array.transpose(order), volume.affine_ras_mm[:, [*order, 3]].copy()
    for axis, flip in enumerate(flips):
        if flip:
            affine[:, 3] += affine[:, axis] * (array.shape[axis] - 1)
            affine[:, axis] *= -1
            array = np.flip(array, axis)
    return replace(volume, array=np.ascontiguousarray(array), affine_ras_mm=affine, header=None)


def cropped(volume: Volume, box: tuple[slice, ...]) -> Volume:
    affine = volume.affine_ras_mm.copy()
    affine[:3, 3] = (affine @ [*(part.start for part in box), 1])[:3]
    return replace(volume, array=np.ascontiguousarray(volume.array[box]), affine_ras_mm=affine, header=None)


def placed(affine: Any) -> Any:
    """Somewhere in the patient: an affine that is no stand-in."""
    moved = affine.copy()
    moved[:3, 3] += 7.5
    return moved


@given(
    grids.affines(),
    grids.SHAPES,
    st.permutations(range(3)),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
    st.data(),
)
def test_copies_of_the_grid_are_brought_back(
    affine: Any, shape: tuple[int, int, int], order: Any, flips: tuple[bool, ...], data: Any
) -> None:
    """Every axis order and direction of every box that holds the labels."""
    image = Volume(array=np.zeros(shape, np.int16), affine_ras_mm=placed(affine))
    box = []
    for count in shape:
        start = data.draw(st.integers(0, count - 1))
        box.append(slice(start, data.draw(st.integers(start + 1, count))))
    labels = np.zeros(shape, np.uint8)
    labels[tuple(box)] = grids.voxels(labels[tuple(box)].shape, np.uint8) % 5
    mask = turned(cropped(image.with_array(labels), tuple(box)), tuple(order), flips)
    found = onto_grid(mask, image)
    np.testing.assert_array_equal(found.array, labels)
    np.testing.assert_allclose(found.affine_ras_mm, image.affine_ras_mm, atol=0.05)


AFFINE = np.array([[0.8, 0, 0, -90], [0, 0.8, 0, -80], [0, 0, 5, 300], [0, 0, 0, 1.0]])
IMAGE = Volume(array=np.zeros((12, 11, 6), np.int16), affine_ras_mm=AFFINE)


def labels_on(affine: Any, shape: tuple[int, int, int] = (12, 11, 6)) -> Volume:
    return Volume(array=np.ones(shape, np.uint8), affine_ras_mm=affine)


@pytest.mark.parametrize(
    "step",
    [
        np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),  # half a voxel beside
        np.diag([2.0, 2, 1, 1]),
        np.diag([1.0, 1, 1.02, 1]),  # drifts off along the slices
        np.array([[1, 0, 0, 0.1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),  # 0.08 mm
    ],
)
def test_voxels_beside_those_of_the_scan_are_refused(step: Any) -> None:
    with pytest.raises(GeometryError, match=r"different grids: 12x11x6 RAS.*against"):
        onto_grid(labels_on(AFFINE @ step, (5, 5, 4)), IMAGE)


@pytest.mark.parametrize("shift", [(-3, 0, 0), (0, 40, 0), (0, 0, 2)])
def test_labels_outside_of_the_scan_are_refused(shift: tuple[int, int, int]) -> None:
    step = np.eye(4)
    step[:3, 3] = shift
    with pytest.raises(
        GeometryError, match=r"\d+ labelled voxels lie outside of the image: 12x11x6.*against"
    ):
        onto_grid(labels_on(AFFINE @ step), IMAGE)


def test_a_padded_mask_with_its_labels_inside_is_taken() -> None:
    step = np.eye(4)
    step[:3, 3] = -4
    mask = labels_on(AFFINE @ step, (20, 19, 14))
    kept = np.zeros(mask.shape, np.uint8)
    kept[5:9, 6:12, 4:10] = 2
    np.testing.assert_array_equal(onto_grid(mask.with_array(kept), IMAGE).array, kept[4:16, 4:15, 4:10])


def test_grids_without_a_position_must_be_the_same(tmp_path: Path) -> None:
    """Pictures, and files with the affine of nothing, cannot be a part of each other."""
    image = Volume(array=np.zeros((12, 11, 6), np.int16), affine_ras_mm=np.eye(4))
    with pytest.raises(GeometryError, match="different grids"):
        onto_grid(labels_on(np.eye(4), (5, 5, 4)), image)
    Image.fromarray(grids.voxels((20, 30), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.ones((10, 30), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(GeometryError, match="different grids"):
        read_labels(tmp_path / "m.png", like=read(tmp_path / "a.png"))
    import nibabel as nib

    for name, shape in (("image", (12, 10, 6)), ("mask", (10, 8, 4))):
        file = nib.Nifti1Image(grids.voxels(shape, np.uint8) % 3, None)
        file.header["pixdim"][1:4] = 2  # both codes are 0: the middle of the image stands for its place
        nib.save(file, tmp_path / f"{name}.nii.gz")
    with pytest.raises(GeometryError, match="different grids"):
        read_labels(tmp_path / "mask.nii.gz", like=read(tmp_path / "image.nii.gz"))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_files_on_a_mirrored_grid(suffix: str, tmp_path: Path) -> None:
    image = read(write_like(grids.voxels((12, 11, 6)), like=IMAGE, path=tmp_path / "a.nii.gz", kind="image"))
    labels = (grids.voxels((12, 11, 6), np.uint8) % 4).astype(np.uint8)
    other = turned(IMAGE.with_array(labels), (2, 0, 1), (True, False, True))
    path = write_like(other.array, like=other, path=tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(read_labels(path, like=image).array, labels)
