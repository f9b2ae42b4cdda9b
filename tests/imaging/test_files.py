"""Write, read again: every format gives back values and grid, bit for bit."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import grids
from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, default_suffix, read, read_labels, to_canonical, write_like
from latentseg.imaging.nifti import GEOMETRY_FIELDS


def _nifti(path: Path, array: Any, affine: Any, kind: Any = nib.Nifti1Image, **codes: int) -> Path:
    image = kind(array, affine)
    image.set_sform(affine, code=codes.get("sform", 1))
    image.set_qform(affine, code=codes.get("qform", 1))
    nib.save(image, path)
    return path


@given(
    grids.affines(),
    grids.SHAPES,
    st.sampled_from([np.uint8, np.int16, np.float32, np.float64]),
    st.sampled_from([nib.Nifti1Image, nib.Nifti2Image]),
    st.sampled_from([(1, 1), (2, 0), (0, 1), (0, 0)]),
)
def test_a_mask_returns_on_the_nifti_grid_bit_for_bit(
    affine: Any, shape: tuple[int, int, int], dtype: Any, kind: Any, forms: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)
        source = _nifti(
            Path(folder, "a.nii.gz"), grids.voxels(shape, dtype), affine, kind, sform=forms[0], qform=forms[1]
        )
        scan = read(source)
        np.testing.assert_array_equal(scan.array, grids.voxels(shape, dtype))
        assert scan.array.dtype == dtype
        canonical = to_canonical(scan)
        mask = canonical.restore(canonical.slices > 100)
        written = write_like(mask, like=scan, path=Path(folder, "out", "mask.nii.gz"))
        labels = read_labels(written, like=scan)
        np.testing.assert_array_equal(labels.array, scan.array > 100)
        ours, theirs = nib.load(written), nib.load(source)
    assert labels.affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()
    assert ours.affine.tobytes() == theirs.affine.tobytes()
    assert type(ours) is type(theirs)
    assert ours.get_data_dtype() == np.uint8
    for field in (*GEOMETRY_FIELDS, "xyzt_units"):
        assert ours.header[field].tobytes() == theirs.header[field].tobytes(), field
    assert ours.header["pixdim"][:4].tobytes() == theirs.header["pixdim"][:4].tobytes()


@given(
    grids.affines(),
    grids.SHAPES,
    st.sampled_from([".nrrd", ".mha"]),
    st.sampled_from([np.uint8, np.int16, np.float32]),
)
def test_a_mask_returns_on_the_itk_grid_bit_for_bit(
    affine: Any, shape: tuple[int, int, int], suffix: str, dtype: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        values = grids.voxels(shape, dtype)
        first = Volume(array=values, affine_ras_mm=affine)
        scan = read(write_like(values, like=first, path=Path(folder, "a" + suffix), kind="image"))
        labels = read_labels(
            write_like(scan.array > 100, like=scan, path=Path(folder, "b" + suffix)), like=scan
        )
    np.testing.assert_array_equal(scan.array, values)
    np.testing.assert_allclose(scan.affine_ras_mm, affine, atol=1e-5)
    np.testing.assert_array_equal(labels.array, values > 100)
    assert labels.affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()


@given(grids.affines(), grids.SHAPES, st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]))
def test_formats_agree_on_the_world(affine: Any, shape: tuple[int, int, int], suffix: str) -> None:
    """The same voxels at the same place, whichever format carries them; float32 headers cost their bits."""
    volume = Volume(array=grids.voxels(shape, np.float32), affine_ras_mm=affine)
    with tempfile.TemporaryDirectory() as folder:
        again = read(
            write_like(volume.array, like=volume, path=Path(folder, "a" + suffix), kind="probability")
        )
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine_ras_mm, affine, atol=2e-4)
    np.testing.assert_array_equal(to_canonical(again).slices, to_canonical(volume).slices)


def test_itk_and_nibabel_see_the_same_world(tmp_path: Path) -> None:
    affine = np.diag([-0.7, -0.7, 3.0, 1.0])
    affine[:3, 3] = (100, 120, -50)
    volume = Volume(array=grids.voxels((4, 5, 6)), affine_ras_mm=affine)
    image = sitk.ReadImage(str(write_like(volume.array, like=volume, path=tmp_path / "a.nii", kind="image")))
    sitk.WriteImage(image, str(tmp_path / "b.nrrd"))
    again = read(tmp_path / "b.nrrd")
    np.testing.assert_allclose(again.affine_ras_mm, affine, atol=1e-5)
    np.testing.assert_array_equal(again.array, volume.array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_picture_frame_is_radiological(tmp_path: Path, suffix: str, dtype: Any) -> None:
    pixels = grids.voxels((20, 30), dtype) * (200 if dtype == np.uint16 else 1)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    scan = read(tmp_path / f"a{suffix}")
    assert (scan.shape, scan.axis_codes, scan.spacing_mm) == ((30, 20, 1), "LPS", (1, 1, 1))
    assert scan.array.dtype == dtype
    np.testing.assert_array_equal(to_canonical(scan).slices[0], pixels)
    written = write_like(scan.array > 9, like=scan, path=tmp_path / f"mask{suffix}")
    np.testing.assert_array_equal(np.asarray(Image.open(written)), pixels > 9)
    np.testing.assert_array_equal(read_labels(written, like=scan).array, scan.array > 9)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_grey_in_color_clothes_is_accepted(tmp_path: Path, mode: str) -> None:
    pixels = (
        grids.voxels((8, 9), np.uint8)
        if mode != "1"
        else (grids.voxels((8, 9), np.uint8) > 99) * np.uint8(255)
    )
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    expected = pixels > 0 if mode == "1" else pixels
    np.testing.assert_array_equal(read(tmp_path / "a.png").array[:, :, 0].T, expected)


def test_grey_jpeg_and_rgb_tiff(tmp_path: Path) -> None:
    pixels = np.tile(np.arange(64, dtype=np.uint8)[:, None] * 3, (1, 64))
    Image.fromarray(pixels).convert("RGB").save(tmp_path / "a.jpg")
    assert np.abs(read(tmp_path / "a.jpg").array[:, :, 0].T.astype(int) - pixels).max() < 12
    tifffile.imwrite(tmp_path / "a.tif", np.repeat(pixels[..., None], 3, -1), photometric="rgb")
    np.testing.assert_array_equal(read(tmp_path / "a.tif").array[:, :, 0].T, pixels)


def test_palette_indices_are_the_labels(tmp_path: Path) -> None:
    labels = grids.voxels((8, 9), np.uint8) % 3
    picture = Image.fromarray(labels).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata(labels.ravel().tolist())
    picture.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "a.png").array[:, :, 0].T, labels)
    with pytest.raises(InputError, match="in color"):
        read(tmp_path / "a.png")


def test_stack_of_pictures_in_natural_order(tmp_path: Path) -> None:
    slices = grids.voxels((12, 6, 7), np.uint8)
    folder = tmp_path / "stack"
    folder.mkdir()
    for number, pixels in enumerate(slices):
        Image.fromarray(pixels).save(folder / f"slice_{number}.png")
    scan = read(folder)
    np.testing.assert_array_equal(to_canonical(scan).slices, slices)
    assert (scan.name, default_suffix(scan)) == ("stack", ".tif")
    written = write_like(scan.array > 50, like=scan, path=tmp_path / "mask.tif")
    labels = read_labels(written, like=scan)
    np.testing.assert_array_equal(labels.array, scan.array > 50)
    assert labels.affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".tif"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_probabilities_round_trip(tmp_path: Path, suffix: str, count: int) -> None:
    volume = Volume(array=np.zeros((5, 4, count)), affine_ras_mm=np.diag([-1, -1, 1, 1.0]))
    values = np.random.default_rng(0).random(volume.shape).astype(np.float16)
    again = read(write_like(values, like=volume, path=tmp_path / f"p{suffix}", kind="probability"))
    assert again.array.dtype == np.float32
    np.testing.assert_array_equal(again.array, values.astype(np.float32))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".tif", ".png"])
def test_labels_above_255_need_16_bit(tmp_path: Path, suffix: str) -> None:
    volume = Volume(array=np.zeros((5, 4, 1)), affine_ras_mm=np.diag([-1, -1, 1, 1.0]))
    labels = np.arange(20).reshape(volume.shape) * 100
    again = read_labels(write_like(labels, like=volume, path=tmp_path / f"m{suffix}"), like=volume)
    assert again.array.dtype == np.uint16
    np.testing.assert_array_equal(again.array, labels)


def test_trailing_axes_of_one_and_two_dimensional_nifti(tmp_path: Path) -> None:
    path = _nifti(tmp_path / "a.nii", grids.voxels((4, 5, 6, 1, 1)), np.eye(4))
    assert read(path).shape == (4, 5, 6)
    path = _nifti(tmp_path / "b.nii", grids.voxels((4, 5)), np.eye(4))
    assert read(path).shape == (4, 5, 1)
    sitk.WriteImage(sitk.GetImageFromArray(grids.voxels((5, 4))), str(tmp_path / "c.nrrd"))
    flat = read(tmp_path / "c.nrrd")
    assert flat.shape == (4, 5, 1)
    written = write_like(flat.array > 9, like=flat, path=tmp_path / "d.nrrd")
    assert read_labels(written, like=flat).shape == (4, 5, 1)


def test_scaled_nifti_gives_the_scaled_values(tmp_path: Path) -> None:
    image = nib.Nifti1Image(grids.voxels((3, 3, 3)), np.eye(4))
    image.header.set_slope_inter(2.0, -1024.0)
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read(tmp_path / "a.nii.gz").array, nib.load(tmp_path / "a.nii.gz").get_fdata())


def test_an_edited_affine_is_not_overruled_by_the_old_header(tmp_path: Path) -> None:
    scan = read(_nifti(tmp_path / "a.nii.gz", grids.voxels((3, 3, 3)), np.eye(4)))
    moved = Volume(array=scan.array, affine_ras_mm=np.diag([2.0, 2, 2, 1]), header=scan.header)
    again = read_labels(write_like(moved.array > 9, like=moved, path=tmp_path / "b.nii.gz"))
    np.testing.assert_array_equal(again.affine_ras_mm, moved.affine_ras_mm)


def test_labels_stored_as_floats_become_integers(tmp_path: Path) -> None:
    path = _nifti(tmp_path / "a.nii.gz", (grids.voxels((4, 4, 4)) % 4).astype(np.float64), np.eye(4))
    assert read_labels(path).array.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii", ".nii.gz"),
        ("a.jpg", ".png"),
        ("a.mhd", ".mha"),
        ("a.nhdr", ".nrrd"),
        ("a.tiff", ".tif"),
        ("", ".nii.gz"),
    ],
)
def test_default_suffix(name: str, suffix: str) -> None:
    source = Path(name) if name else None
    assert default_suffix(Volume(array=np.zeros((2, 2, 1)), affine_ras_mm=np.eye(4), source=source)) == suffix


def test_a_result_replaces_an_older_one(tmp_path: Path) -> None:
    volume = Volume(array=np.zeros((2, 2, 2)), affine_ras_mm=np.eye(4))
    for value in (1, 2):
        path = write_like(np.full(volume.shape, value), like=volume, path=tmp_path / "a.nii.gz")
    assert read_labels(path).array.max() == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_grid_that_is_right_angled_but_for_rounding(tmp_path: Path, suffix: str) -> None:
    """What ITK calls "non-orthonormal direction cosines" is read, and written in every format."""
    affine = np.diag([0.7, 0.7, 5.0, 1.0])
    affine[:3, :3] = grids.rotation((0.1, 0.2, 0.3)) @ affine[:3, :3]
    affine[0, 1] += 0.003
    image = nib.Nifti1Image(grids.voxels((4, 5, 6)), affine)
    image.set_sform(affine, code=1)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read(tmp_path / "a.nii.gz")
    labels = read_labels(write_like(scan.array > 99, like=scan, path=tmp_path / f"m{suffix}"), like=scan)
    np.testing.assert_array_equal(labels.array, scan.array > 99)
