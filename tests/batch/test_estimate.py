"""What a dry run says of scans: sizes of those that can be read, and the reason of all others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from latentseg.batch.cases import Case
from latentseg.batch.estimate import Cost, estimate_cases, grid_of
from latentseg.imaging import read

COST = Cost(per_slice_s=1.0, per_voxel_s=0.001, base_bytes=1e6, per_voxel_bytes=10.0)
VALUES = np.random.default_rng(0).integers(-1000, 500, (20, 16, 6)).astype(np.int16)


def save(path: Path, array: Any = VALUES, *, affine: Any = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 5, 1]) if affine is None else affine), path)
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -len(path.read_bytes()) // 3])


def with_nan(path: Path) -> None:
    save(path, np.where(VALUES > 0, np.nan, VALUES).astype(np.float32))


def four_axes(path: Path) -> None:
    save(path, np.stack([VALUES] * 2, -1))


def no_image(path: Path) -> None:
    path.write_bytes(b"hello")


def sheared(path: Path) -> None:
    save(path, affine=np.array([[2.0, 0.5, 0, 0], [0, 2, 0, 0], [0, 0, 5, 0], [0, 0, 0, 1]]))


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (cut, "truncated or damaged|expected|Expected"),
        (with_nan, "NaN"),
        (four_axes, "4 axes"),
        (no_image, "the content is no NIfTI"),
        (sheared, "sheared"),
        (Path.unlink, "no such file"),
    ],
)
def test_what_cannot_be_read_is_not_estimated(name: str, spoil: Any, text: str, tmp_path: Path) -> None:
    spoil(save(tmp_path / name))
    good = Case("good", save(tmp_path / "good.nii.gz"))
    bad, fine = estimate_cases([Case("bad", tmp_path / name), good], COST)
    assert (bad.grid, bad.seconds, bad.memory_bytes) == (None, 0, 0)
    assert re.search(text, bad.problem), bad.problem
    assert fine.seconds == pytest.approx(6 + 0.001 * VALUES.size)


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_the_header_says_what_reading_says(name: str, dtype: Any, tmp_path: Path) -> None:
    path = save(tmp_path / name, VALUES.clip(0, 200).astype(dtype))
    scan, grid = read(path), grid_of(Case("a", path))
    assert (grid.shape, grid.bytes, grid.slices) == (scan.shape, scan.array.nbytes, 6)
    assert grid_of(Case("a", path, orientation="SAL")).slices == 20


def test_scaled_voxels_are_larger_in_memory(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, np.diag([2.0, 2, 5, 1]))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    assert grid_of(Case("a", tmp_path / "a.nii.gz")).bytes == read(tmp_path / "a.nii.gz").array.nbytes


def test_other_formats_and_bytes_behind_the_image(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"behind the image")
    with pytest.warns(match="behind the compressed image"):
        assert grid_of(Case("a", path)).shape == VALUES.shape
    nib.save(nib.Nifti1Pair(VALUES, np.diag([2.0, 2, 5, 1])), str(tmp_path / "pair.img"))
    assert grid_of(Case("a", tmp_path / "pair.hdr")).shape == VALUES.shape
    (tmp_path / "pair.img").unlink()
    (problem,) = estimate_cases([Case("a", tmp_path / "pair.hdr")], COST)
    assert "no .img beside it" in problem.problem
