"""NIfTI as hospitals have it: units other than millimeters, pairs, odd scales, bytes behind the image."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from helpers import grids
from latentseg.errors import InputError, LatentsegWarning, noted
from latentseg.imaging import Volume, read, write_like
from latentseg.imaging.nifti import GEOMETRY_FIELDS, facts_of

VALUES = grids.voxels((12, 10, 8), np.int16)
AFFINE_MM = np.array([[-5.6, 0, 0, 20], [0, -5.6, 0, 30], [0, 0, 10.0, -40], [0, 0, 0, 1]])
UNITS = {"meter": 1000.0, "micron": 0.001, "mm": 1.0, "unknown": 1.0}


def save(path: Path, array: Any = VALUES, *, unit: str = "mm", kind: Any = nib.Nifti1Image) -> Path:
    """A file whose header counts in a unit; its voxels are always 5.6 x 5.6 x 10 mm large."""
    image = kind(array, np.diag([*[1 / UNITS[unit]] * 3, 1]) @ AFFINE_MM)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("forms", [(1, 0), (0, 1)])
def test_units_become_millimeters(unit: str, kind: Any, forms: tuple[int, int], tmp_path: Path) -> None:
    image = nib.load(save(tmp_path / "a.nii.gz", unit=unit, kind=kind))
    affine = image.affine.copy()
    image.set_sform(affine, code=forms[0])
    image.set_qform(affine, code=forms[1])
    nib.save(image, tmp_path / "b.nii.gz")
    with noted([]) as notes:
        scan = read(tmp_path / "b.nii.gz")
    assert notes == []
    np.testing.assert_allclose(scan.affine_ras_mm, AFFINE_MM, atol=1e-4)
    if kind is nib.Nifti1Image:  # ITK reads no version 2
        itk = sitk.ReadImage(str(tmp_path / "b.nii.gz"))
        np.testing.assert_allclose(scan.spacing_mm, itk.GetSpacing(), rtol=1e-5)
    ours, theirs = (
        nib.load(write_like(scan.array > 9, like=scan, path=tmp_path / "mask.nii.gz")),
        nib.load(tmp_path / "b.nii.gz"),
    )
    for field in (*GEOMETRY_FIELDS, "xyzt_units"):
        assert ours.header[field].tobytes() == theirs.header[field].tobytes(), field
    assert ours.header["pixdim"][:4].tobytes() == theirs.header["pixdim"][:4].tobytes()
    assert read(tmp_path / "mask.nii.gz").affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()
    other = read(write_like(scan.array, like=scan, path=tmp_path / "mask.nrrd", kind="image"))
    np.testing.assert_allclose(other.affine_ras_mm, AFFINE_MM, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "scale"), [("unknown", 0.001), ("mm", 1000.0), ("meter", 1.0), ("micron", 1.0)]
)
def test_sizes_that_are_no_bodys_are_said(said: str, scale: float, tmp_path: Path) -> None:
    """A header that counts in another unit than it says."""
    image = nib.Nifti1Image(VALUES, np.diag([scale, scale, scale, 1]) @ AFFINE_MM)
    image.header.set_xyzt_units(said)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(LatentsegWarning, match=r"a\.nii\.gz measures .* mm, which is no body's size"):
        read(tmp_path / "a.nii.gz")


def trailing(path: Path, tail: bytes) -> Path:
    path.write_bytes(save(path).read_bytes() + tail)
    return path


@pytest.mark.parametrize("tail", [b"x", bytes(range(1, 81)), b"\r\n", bytes(range(256)) * 600])
def test_bytes_behind_the_compressed_image(tail: bytes, tmp_path: Path) -> None:
    with pytest.warns(
        LatentsegWarning, match=r"a\.nii\.gz: the bytes behind the compressed image are left out"
    ):
        scan = read(trailing(tmp_path / "a.nii.gz", tail))
    np.testing.assert_array_equal(scan.array, VALUES)


def test_two_gzip_members_and_zeros_are_no_surprise(tmp_path: Path) -> None:
    content = save(tmp_path / "a.nii").read_bytes()
    packed = gzip.compress(content[:400]) + gzip.compress(content[400:]) + bytes(512)
    (tmp_path / "b.nii.gz").write_bytes(packed)
    with noted([]) as notes:
        np.testing.assert_array_equal(read(tmp_path / "b.nii.gz").array, VALUES)
    assert notes == []


def test_a_wrong_checksum_is_damage(tmp_path: Path) -> None:
    content = bytearray(save(tmp_path / "a.nii.gz").read_bytes())
    content[-8] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(InputError, match="CRC"):
        read(tmp_path / "a.nii.gz")


def with_scale(path: Path, slope: float, intercept: float) -> Path:
    save(path)
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([slope, intercept], "<f4").tobytes()
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_intercept_that_is_no_number(bad: float, tmp_path: Path) -> None:
    with pytest.warns(LatentsegWarning, match=r"the intercept of the values of .*a\.nii is (nan|inf)"):
        scan = read(with_scale(tmp_path / "a.nii", 2.0, bad))
    np.testing.assert_array_equal(scan.array, VALUES * 2)


def test_a_slope_that_is_no_number(tmp_path: Path) -> None:
    with pytest.warns(LatentsegWarning, match=r"the slope of the values of .*a\.nii is nan"):
        np.testing.assert_array_equal(read(with_scale(tmp_path / "a.nii", np.nan, 5.0)).array, VALUES)


@pytest.mark.parametrize(("slope", "intercept"), [(np.nan, np.nan), (0.0, np.nan), (1.0, 0.0)])
def test_no_scale_is_no_surprise(slope: float, intercept: float, tmp_path: Path) -> None:
    with noted([]) as notes:
        np.testing.assert_array_equal(read(with_scale(tmp_path / "a.nii", slope, intercept)).array, VALUES)
    assert notes == []


@pytest.mark.parametrize("kind", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pairs(kind: Any, suffix: str, tmp_path: Path) -> None:
    image = kind(VALUES, AFFINE_MM)
    image.header.set_xyzt_units("mm")
    nib.save(image, str(tmp_path / f"pair.img{suffix}"))
    for end in ("hdr", "img"):
        scan = read(tmp_path / f"pair.{end}{suffix}")
        np.testing.assert_array_equal(scan.array, VALUES)
        np.testing.assert_allclose(scan.affine_ras_mm, AFFINE_MM, atol=1e-5)
        assert scan.name == "pair"
    written = write_like(VALUES > 9, like=scan, path=tmp_path / "mask.nii.gz")
    assert nib.load(written).affine.tobytes() == nib.load(tmp_path / f"pair.img{suffix}").affine.tobytes()
    (tmp_path / f"pair.img{suffix}").rename(tmp_path / "away")
    with pytest.raises(InputError, match=r"has no \.img beside it.*pair\.hdr.*Copy both files"):
        read(tmp_path / f"pair.hdr{suffix}")
    (tmp_path / f"pair.hdr{suffix}").unlink()
    shutil.move(tmp_path / "away", tmp_path / f"pair.img{suffix}")
    with pytest.raises(InputError, match=r"no \.hdr lies beside them.*pair\.img"):
        read(tmp_path / f"pair.img{suffix}")


def test_analyze_does_not_say_left_and_right(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(VALUES, AFFINE_MM), str(tmp_path / "old.img"))
    with pytest.raises(
        InputError, match=r"Analyze 7\.5, which does not say where left and right are.*old\.hdr"
    ):
        read(tmp_path / "old.img")


def test_the_header_alone_tells_the_size_of_a_whole_file(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.nii.gz")
    facts = facts_of(whole)
    assert facts is not None
    assert (facts.shape, facts.dtype) == ((12, 10, 8), np.int16)
    np.testing.assert_allclose(facts.affine_ras_mm, AFFINE_MM, atol=1e-4)
    assert facts_of(save(tmp_path / "b.nii.gz", VALUES.astype(np.float32))) is None  # may hold NaN
    plain = save(tmp_path / "c.nii")
    assert facts_of(plain) is not None
    for path in (whole, plain):
        path.write_bytes(path.read_bytes()[:-40])
        assert facts_of(path) is None
    with pytest.raises(InputError, match="4 axes"):
        facts_of(save(tmp_path / "d.nii.gz", np.stack([VALUES] * 2, -1)))


def test_a_file_of_one_value_more_is_not_whole_and_still_read(tmp_path: Path) -> None:
    packed = trailing(tmp_path / "a.nii.gz", b"behind it")
    assert facts_of(packed) is None
    with noted([]):
        assert isinstance(read(packed), Volume)
