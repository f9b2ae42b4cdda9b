"""Images in memory: numpy, nibabel and SimpleITK give what their files give; all else gets a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given
from hypothesis import strategies as st

import latentseg as ls
from helpers import grids
from latentseg.errors import GeometryError, InputError, LatentsegError, LatentsegWarning, UsageError
from latentseg.imaging import Volume, read, read_labels, to_canonical, write_like
from latentseg.imaging.formats import as_volume

VALUES = (grids.voxels((12, 10, 8), np.int16) * 6 - 900).astype(np.int16)
AFFINE = np.array([[-0.8, 0, 0, 90], [0, 0.9, 0, -80], [0, 0, 5, 300], [0, 0, 0, 1.0]])
SCAN = Volume(array=VALUES, affine_ras_mm=AFFINE)


def test_every_library_gives_the_same_volume(tmp_path: Path) -> None:
    path = write_like(VALUES, like=SCAN, path=tmp_path / "ct.nii.gz", kind="image")
    scan = read(path)
    for image in (nib.load(path), sitk.ReadImage(str(path)), str(path), path, scan):
        found = as_volume(image)
        np.testing.assert_array_equal(found.array, VALUES)
        np.testing.assert_allclose(found.affine_ras_mm, scan.affine_ras_mm, atol=1e-5)
        assert found.modality == "CT"
    assert as_volume(nib.load(path)).name == "ct"
    assert as_volume(scan).affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()
    mask = write_like(VALUES > 0, like=as_volume(nib.load(path)), path=tmp_path / "mask.nii.gz")
    assert nib.load(mask).affine.tobytes() == nib.load(path).affine.tobytes()
    itk = write_like(VALUES > 0, like=as_volume(sitk.ReadImage(str(path))), path=tmp_path / "mask.nrrd")
    np.testing.assert_array_equal(read_labels(itk, like=scan).array, VALUES > 0)


def test_nibabel_images_count_in_their_unit() -> None:
    image = nib.Nifti1Image(VALUES, np.diag([1e-3, 1e-3, 1e-3, 1]) @ AFFINE)
    image.header.set_xyzt_units("meter")
    np.testing.assert_allclose(read(image).affine_ras_mm, AFFINE, rtol=1e-6)
    other = nib.MGHImage(VALUES.astype(np.float32), AFFINE)
    np.testing.assert_allclose(read(other).affine_ras_mm, AFFINE, rtol=1e-6)


@given(st.permutations(["RL", "AP", "SI"]), st.tuples(*[st.integers(0, 1)] * 3))
def test_arrays_lie_as_they_are_said_to(pairs: list[str], ends: tuple[int, ...]) -> None:
    codes = "".join(pair[end] for pair, end in zip(pairs, ends, strict=True))
    scan = read(VALUES, spacing_mm=(0.8, 0.9, 5.0), orientation=codes)
    assert (scan.axis_codes, scan.orientation) == (codes, None)
    np.testing.assert_allclose(scan.spacing_mm, (0.8, 0.9, 5.0))
    again = read(VALUES, affine_ras_mm=scan.affine_ras_mm)
    np.testing.assert_array_equal(to_canonical(again).slices, to_canonical(scan).slices)


def test_an_array_without_its_orientation_is_a_guess() -> None:
    with pytest.warns(LatentsegWarning, match=r"where the array lies: .*\(LPS\); give orientation="):
        assert read(VALUES, spacing_mm=(1, 1, 5)).axis_codes == "LPS"


def test_auto_is_no_orientation_of_its_own() -> None:
    """What is in memory can be asked, too; a block of noise contradicts no affine."""
    scan = read(VALUES, affine_ras_mm=AFFINE, orientation="auto")
    assert (scan.orientation, scan.axis_codes) == (None, "LAS")
    assert as_volume(scan, orientation="auto").orientation is None
    with pytest.warns(LatentsegWarning, match="where the array lies"):
        assert read(VALUES, spacing_mm=(1, 1, 5), orientation="auto").axis_codes == "LPS"
    assert as_volume(scan, modality="MR", orientation="RAS").orientation == "RAS"


def test_a_plane_is_a_picture() -> None:
    picture = grids.voxels((20, 30), np.uint8)
    scan = read(picture)
    assert (scan.shape, scan.axis_codes, scan.spacing_mm) == ((30, 20, 1), "LPS", (1, 1, 1))
    np.testing.assert_array_equal(to_canonical(scan).slices[0], picture)
    np.testing.assert_array_equal(read_labels(picture > 9, like=scan).array[:, :, 0].T, picture > 9)
    assert read(picture, spacing_mm=(0.5, 0.25)).spacing_mm == (0.25, 0.5, 1.0)


def test_tensors_and_bools_are_arrays() -> None:
    import torch

    scan = read(torch.from_numpy(VALUES).requires_grad_(False), affine_ras_mm=AFFINE)
    np.testing.assert_array_equal(scan.array, VALUES)
    assert read_labels(VALUES > 0, like=scan).array.dtype == np.uint8


def test_labels_in_memory(tmp_path: Path) -> None:
    labels = (grids.voxels((12, 10, 8), np.uint8) % 4).astype(np.uint8)
    flipped = nib.Nifti1Image(labels[::-1], AFFINE @ np.array([[-1, 0, 0, 11], *np.eye(4)[1:]]))
    for image in (labels, flipped, SCAN.with_array(labels)):
        np.testing.assert_array_equal(read_labels(image, like=SCAN).array, labels)
    with pytest.raises(UsageError, match=r"nothing says where the array of labels lies.*like="):
        read_labels(labels)
    with pytest.raises(GeometryError, match=r"array of shape \(3, 3, 3\) does not fit the grid"):
        read_labels(np.zeros((3, 3, 3), int), like=SCAN)


@pytest.mark.parametrize(
    "thing", [None, 3, ["a.nii.gz"], ("a", "b"), {"a": 1}, b"a.nii.gz", object(), np, Path, lambda: 0]
)
def test_what_is_no_image_gets_a_sentence(thing: Any) -> None:
    for reader in (ls.read, read_labels, as_volume):
        with pytest.raises(UsageError, match=r"is no image\. Give a path, a numpy array"):
            reader(thing)


@pytest.mark.parametrize(
    ("array", "arguments", "text"),
    [
        (
            VALUES,
            {},
            r"how large the voxels of the array of shape \(12, 10, 8\) are.*spacing_mm=",
        ),
        (VALUES, {"spacing_mm": (1, 1), "orientation": "RAS"}, "not one positive number"),
        (VALUES, {"spacing_mm": (1, 1, -1), "orientation": "RAS"}, "not one positive number"),
        (VALUES, {"spacing_mm": (1, 1, 1), "orientation": "RAX"}, "'RAX' is no orientation"),
        (VALUES, {"affine_ras_mm": np.eye(3)}, r"affine of shape \(3, 3\)"),
        (VALUES.astype(complex), {"affine_ras_mm": AFFINE}, "complex128"),
        (np.array(["a"]), {"affine_ras_mm": AFFINE}, "no real numbers"),
        (np.stack([VALUES] * 2), {"affine_ras_mm": AFFINE}, "4 axes"),
        (np.where(VALUES > 0, np.nan, 1.0), {"affine_ras_mm": AFFINE}, "NaN"),
        ("ct.nii.gz", {"spacing_mm": (1, 1, 1)}, "a spacing or an affine was given for a file"),
        (nib.Nifti1Image(np.stack([VALUES] * 2, -1), AFFINE), {}, "4 axes"),
        (sitk.Image(4, 4, 4, sitk.sitkVectorUInt8), {}, "channels"),
    ],
)
def test_bad_images_in_memory(array: Any, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(LatentsegError, match=text):
        read(array, **arguments)


def test_an_object_that_only_claims_to_be_an_array() -> None:
    class Claims:
        def __array__(self) -> Any:
            raise RuntimeError("not today")

    with pytest.raises(UsageError, match=r"does not become an array \(not today\)"):
        read(Claims(), affine_ras_mm=AFFINE)


def test_repr_is_one_line_and_html_shows_it(tmp_path: Path) -> None:
    scan = read(VALUES, affine_ras_mm=AFFINE)
    assert repr(scan) == "Volume(volume: 12x10x8 LAS, 0.8x0.9x5 mm, int16, CT)"
    html = scan._repr_html_()
    assert html.startswith("<figure")
    assert "data:image/png;base64," in html
    assert "12x10x8 LAS" in html
    for odd in (VALUES[:, :1, :1], VALUES[:1], np.zeros((5, 6, 7), np.uint8)):
        assert "<img" in Volume(array=odd, affine_ras_mm=AFFINE)._repr_html_()
    named = Volume(array=VALUES, affine_ras_mm=AFFINE, source=Path("<b>.nii"))
    assert "<b>" not in named._repr_html_()


def test_values_are_checked_wherever_they_come_from() -> None:
    with pytest.raises(InputError, match="whole numbers"):
        read_labels(VALUES + 0.5, like=SCAN)
