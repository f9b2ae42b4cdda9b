"""DICOM series as volumes: exact where they are a grid, refused with numbers where they are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.imaging import Volume, read, write_like
from latentseg.phantom.dicom import save_slices, slice_datasets

pytest.importorskip("pydicom")

AFFINE = np.array([[-0.7, 0, 0, 91.5], [0, -0.8, 0, 77.25], [0, 0, 2.5, -120], [0, 0, 0, 1]])


def volume_of(shape: tuple[int, int, int] = (12, 10, 7), modality: str = "CT", affine=AFFINE) -> Volume:
    values = np.random.default_rng(0).integers(-1000, 1500, shape).astype(np.int16)
    if modality != "CT":
        values -= values.min()
    return Volume(array=values, affine_ras_mm=affine, modality=modality)


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_a_clean_series_is_read_exactly(tmp_path: Path, modality: str) -> None:
    volume = volume_of(modality=modality)
    datasets = slice_datasets(volume)
    save_slices(datasets[::-1], tmp_path / "scan")
    again = ls.read(tmp_path / "scan")
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.affine_ras_mm, AFFINE, atol=1e-9)
    assert (again.modality, again.name, again.array.dtype) == (modality, "scan", np.int16)


def test_results_are_nifti_on_the_grid_of_the_series(tmp_path: Path) -> None:
    save_slices(slice_datasets(volume_of()), tmp_path / "scan")
    scan = read(tmp_path / "scan")
    path = write_like(scan.array > 0, like=scan, path=tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(read(path).affine_ras_mm, scan.affine_ras_mm, atol=1e-4)
