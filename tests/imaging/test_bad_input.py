"""Bad input: one sentence that says what was seen, where, and how to fix it; nothing half-written."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from PIL import Image

from latentseg.errors import GeometryError, InputError, LatentsegError, LatentsegWarning
from latentseg.imaging import Volume, read, read_labels, write_like

RNG = np.random.default_rng(0)
VALUES = RNG.integers(0, 250, (6, 7, 8)).astype(np.int16)
NOISE = RNG.integers(-999, 999, (40, 40, 40)).astype(np.int16)
SCAN = Volume(array=VALUES, affine_ras_mm=np.eye(4))


def _save(path: Path, array: Any = VALUES, affine: Any = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def _cut(path: Path, keep: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def _damaged(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    path.write_bytes(data)
    return path


def _text(path: Path, content: bytes = b"hello, I am not an image\n" * 20) -> Path:
    path.write_bytes(content)
    return path


def _with_nan(value: float) -> Any:
    array = VALUES.astype(np.float32)
    array[1, 2, 3] = value
    return array


def _vector(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 4, 5, 2), np.float32), isVector=True), str(path))
    return path


def _rgb_nifti(path: Path) -> Path:
    voxels = np.zeros((3, 3, 3), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    return _save(path, voxels)


def _color(path: Path) -> Path:
    Image.fromarray(RNG.integers(0, 255, (8, 9, 3)).astype(np.uint8)).save(path)
    return path


def _see_through(path: Path) -> Path:
    Image.fromarray(np.full((8, 9, 4), 7, np.uint8)).save(path)
    return path


def _animated(path: Path) -> Path:
    frames = [Image.fromarray(np.full((8, 9), n, np.uint8)) for n in (1, 2)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return path


def _hyperstack(path: Path) -> Path:
    tifffile.imwrite(
        path, np.zeros((2, 3, 8, 9), np.uint8), photometric="minisblack", metadata={"axes": "TZYX"}
    )
    return path


def _dicom(path: Path) -> Path:
    return _text(path, b"\0" * 128 + b"DICM" + b"\0" * 100)


def _folder(path: Path, *fill: Callable[[Path], Any]) -> Path:
    path.mkdir()
    for number, make in enumerate(fill):
        make(path / f"f{number}")
    return path


def _grey(path: Path, size: int = 8) -> Path:
    Image.fromarray(np.full((size, 9), 7, np.uint8)).save(path.with_suffix(".png"))
    return path


def _ring(path: Path) -> Path:
    """A TIFF whose second page is followed by itself."""
    tifffile.imwrite(path, np.zeros((2, 8, 9), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, second = (page.offset for page in tiff.pages)
        count = len(tiff.pages[1].tags)
    data = bytearray(path.read_bytes())
    at = second + 2 + 12 * count
    data[at : at + 4] = second.to_bytes(4, "little")
    assert first < second
    return _text(path, bytes(data))


def _header(path: Path, **fields: Any) -> Path:
    image = nib.Nifti1Image(VALUES, np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    path.write_bytes(image.header.binaryblock + b"\0" * 4 + VALUES.tobytes(order="F"))
    return path


SHEARED = np.array([[1, 0.4, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])

BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "no.nii.gz", "no such file"),
    "unknown suffix": (lambda d: _text(d / "a.docx"), r"unknown file type '\.docx'"),
    "no suffix": (lambda d: _text(d / "scan"), "unknown file type ''"),
    "empty": (lambda d: _text(d / "a.nii.gz", b""), r"empty \(0 bytes\)"),
    "text as nii.gz": (lambda d: _text(d / "a.nii.gz"), "no NIfTI image, whatever the suffix"),
    "text as png": (lambda d: _text(d / "a.png"), "no PNG image, whatever the suffix"),
    "gzip of text": (lambda d: _text(d / "a.nii.gz", gzip.compress(b"hello " * 100)), "no NIfTI image"),
    "png as nii": (lambda d: _grey(d / "a") and (d / "a.png").rename(d / "a.nii"), "content is PNG"),
    "nii as nii.gz": (lambda d: _save(d / "a.nii").rename(d / "a.nii.gz"), "content is NIfTI"),
    "nii.gz as nii": (lambda d: _save(d / "a.nii.gz").rename(d / "a.nii"), "content is gzip"),
    "cut nii.gz": (lambda d: _cut(_save(d / "a.nii.gz"), 0.6), "truncated or damaged"),
    "cut nii.gz header": (lambda d: _cut(_save(d / "a.nii.gz"), 0.05), "truncated or damaged"),
    "cut large nii.gz": (
        lambda d: _cut(_save(d / "a.nii.gz", NOISE), 0.6),
        "truncated or damaged .*ended before",
    ),
    "flipped bits": (lambda d: _damaged(_save(d / "a.nii.gz", NOISE)), "truncated or damaged"),
    "cut nii": (lambda d: _cut(_save(d / "a.nii"), 0.7), "truncated or damaged"),
    "cut nrrd": (
        lambda d: _cut(write_like(VALUES, like=SCAN, path=d / "a.nrrd"), 0.6),
        "truncated or damaged",
    ),
    "absurd mha": (
        lambda d: _text(
            d / "a.mha", b"ObjectType = Image\nNDims = -1e9\nDimSize = 3 3 3\nElementDataFile = LOCAL\n"
        ),
        r"truncated or damaged .NDims is '-1e9'",
    ),
    "cut png": (lambda d: _cut(_grey(d / "a").with_suffix(".png"), 0.5), "truncated or damaged"),
    "cut tif": (lambda d: _cut(write_like(VALUES, like=SCAN, path=d / "a.tif"), 0.5), "truncated or damaged"),
    "4-D": (
        lambda d: _save(d / "a.nii.gz", np.zeros((3, 3, 3, 2))),
        r"has 4 axes \(3, 3, 3, 2\), expected 3",
    ),
    "1-D": (lambda d: _save(d / "a.nii.gz", np.zeros(3)), "expected 3 axes"),
    "NaN": (lambda d: _save(d / "a.nii.gz", _with_nan(np.nan)), r"1 voxels are NaN .* index \(1, 2, 3\)"),
    "infinite": (lambda d: _save(d / "a.nii.gz", _with_nan(np.inf)), r"1 voxels are NaN or infinite"),
    "complex": (lambda d: _save(d / "a.nii.gz", VALUES.astype(np.complex64)), "complex"),
    "RGB NIfTI": (lambda d: _rgb_nifti(d / "a.nii.gz"), "RGB color"),
    "channels": (lambda d: _vector(d / "a.nrrd"), "2 channels"),
    "color PNG": (lambda d: _color(d / "a.png"), "in color .red, green and blue differ"),
    "color TIFF": (lambda d: _color(d / "a.tif"), "in color"),
    "color JPEG": (lambda d: _color(d / "a.jpg"), "in color"),
    "transparent": (lambda d: _see_through(d / "a.png"), "transparent"),
    "animated": (lambda d: _animated(d / "a.png"), "animated"),
    "hyperstack": (lambda d: _hyperstack(d / "a.tif"), "expected a stack"),
    "empty folder": (lambda d: _folder(d / "f"), "holds no slices"),
    "folder of volumes": (
        lambda d: _folder(d / "f", lambda p: _save(p.with_suffix(".nii"))),
        "holds 1 volumes",
    ),
    "folder of DICOM": (lambda d: _folder(d / "f", _dicom), "none of 1 DICOM files can be read"),
    "DICOM": (lambda d: _dicom(d / "a.dcm"), "DICOM"),
    "odd stack": (lambda d: _folder(d / "f", _grey, lambda p: _grey(p, 5)), "do not form a stack"),
    "sheared": (lambda d: _save(d / "a.nii.gz", affine=SHEARED), r"sheared by 21\.8 degrees"),
    "flat affine": (lambda d: _header(d / "a.nii", sform_code=1, srow_x=[0, 0, 0, 0]), "cannot be inverted"),
    "NaN affine": (
        lambda d: _header(d / "a.nii", sform_code=1, srow_x=[np.nan, 0, 0, 0]),
        "not a finite 4x4",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    text = str(caught.value)
    assert str(tmp_path) in text, "says where"
    assert caught.value.fix, "says how to fix it"
    assert caught.value.exit_code == 3
    assert "\n" not in text
    assert len(text) < 420


def test_a_ring_of_pages_comes_to_an_end(tmp_path: Path) -> None:
    assert read(_ring(tmp_path / "a.tif")).shape == (9, 8, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (VALUES / 7.0, "whole numbers, but 0.142857|whole numbers, but"),
        (VALUES - 300, "0..65535, but -"),
        (VALUES.astype(np.int32) + 70000, "0..65535, but 7"),
        (_with_nan(np.nan), "NaN"),
    ],
)
def test_bad_labels(tmp_path: Path, values: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_labels(_save(tmp_path / "m.nii.gz", values))
    assert str(tmp_path) in str(caught.value)


def test_labels_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(InputError, match="cannot hold labels"):
        read_labels(tmp_path / "m.jpg")


def test_image_and_mask_on_different_grids(tmp_path: Path) -> None:
    image = read(_save(tmp_path / "a.nii.gz"))
    with pytest.raises(GeometryError, match=r"6x7x8 RAS.*against 6x7x1 RAS"):
        read_labels(_save(tmp_path / "m.nii.gz", VALUES[:, :, :1]), like=image)
    Image.fromarray(np.zeros((7, 6), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(GeometryError, match=r"6x7x8 RAS.*against 6x7x1 LPS"):
        read_labels(tmp_path / "m.png", like=image)


def test_disagreeing_forms_warn(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, np.eye(4))
    image.set_sform(np.eye(4), code=1)
    image.set_qform(np.diag([-1, 1, 1, 1.0]), code=1)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.warns(LatentsegWarning, match="sform and qform of .* disagree by 12 mm: the sform is used"):
        scan = read(tmp_path / "a.nii.gz")
    assert scan.axis_codes == "RAS"


def test_missing_orientation_warns(tmp_path: Path) -> None:
    with pytest.warns(LatentsegWarning, match="says nothing about orientation"):
        read(_header(tmp_path / "a.nii", sform_code=0, qform_code=0))


def test_good_files_do_not_warn(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(_save(tmp_path / "a.nii.gz"))


WRONG_OUTPUT: dict[str, tuple[str, Any, str, str]] = {
    "suffix": ("m.docx", VALUES, "mask", "unknown file type"),
    "shape": ("m.nii.gz", VALUES[:2], "mask", "does not fit the grid"),
    "fraction": ("m.nii.gz", VALUES / 7.0, "mask", "whole numbers"),
    "nan": ("m.nii.gz", _with_nan(np.nan), "probability", "NaN"),
    "complex": ("m.nii.gz", VALUES.astype(np.complex64), "image", "complex64 cannot be written"),
    "jpeg": ("m.jpg", VALUES, "mask", "cannot be a JPEG"),
    "volume as png": ("m.png", VALUES, "mask", "one slice of 8 or 16 bit, not 8 of uint8"),
    "detached": ("m.nhdr", VALUES, "mask", r"not written as \.nhdr"),
    "under a file": ("file/m.nii.gz", VALUES, "mask", "cannot write the result .its folder is a file"),
    "on a folder": ("folder.nii.gz", VALUES, "mask", "a folder of this name is in the way"),
}


@pytest.mark.parametrize("case", WRONG_OUTPUT)
def test_failed_writes_leave_nothing(case: str, tmp_path: Path) -> None:
    name, array, kind, message = WRONG_OUTPUT[case]
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(InputError, match=message) as caught:
        write_like(array, like=SCAN, path=tmp_path / name, kind=kind)  # type: ignore[arg-type]
    assert caught.value.fix
    if case != "shape":
        assert str(tmp_path / name) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.nii.gz"]


def test_no_write_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot write the result .Permission denied"):
        write_like(VALUES, like=SCAN, path=tmp_path / "m.nii.gz")
    assert not list(tmp_path.iterdir())


def test_read_only_folder(own_folder: Path) -> None:
    own_folder.chmod(0o500)
    with pytest.raises(InputError, match="Permission denied"):
        write_like(VALUES, like=SCAN, path=own_folder / "m.nii.gz")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_keeps_the_older_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = write_like(VALUES > 9, like=SCAN, path=tmp_path / "m.nii.gz")
    before = path.read_bytes()

    def half(_: Any, to: Path) -> None:
        Path(to).write_bytes(before[:50])
        raise error

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises((LatentsegError, KeyboardInterrupt)):
        write_like(VALUES > 99, like=SCAN, path=path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.nii.gz"]
