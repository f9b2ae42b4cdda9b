"""DICOM series as volumes: exact where they are a grid, refused with numbers where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import latentseg as ls
from helpers.dicom_files import save_slices, slice_datasets
from latentseg.errors import GeometryError, LatentsegWarning
from latentseg.imaging import Volume, read, write_like

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


def changed(folder: Path, modality: str = "CT", **values: Any) -> Path:
    """A series with other attributes; None takes one away."""
    slices = slice_datasets(volume_of(modality=modality))
    for one in slices:
        for name, value in values.items():
            if value is None:
                del one[name]
            else:
                setattr(one, name, value)
    save_slices(slices, folder)
    return folder


SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


@pytest.mark.parametrize(
    ("stored", "values", "modality"),
    [
        ("CT", {"Modality": "OT"}, "CT"),
        ("CT", {"Modality": None}, "CT"),
        ("CT", {"Modality": ""}, "CT"),
        ("CT", {"Modality": "OT", "SOPClassUID": SECONDARY_CAPTURE}, "CT"),
        ("CT", {"Modality": None, "SOPClassUID": SECONDARY_CAPTURE}, "CT"),
        ("CT", {"Modality": "ct"}, "CT"),
        ("MR", {"Modality": "OT", "SOPClassUID": SECONDARY_CAPTURE}, "MR"),
        ("MR", {"Modality": None}, "MR"),
        ("MR", {"Modality": "PT"}, "unknown"),
        ("CT", {"Modality": "XA"}, "unknown"),
    ],
)
def test_the_modality_is_told_by_the_values_where_the_header_does_not(
    stored: str, values: dict[str, Any], modality: str, tmp_path: Path
) -> None:
    scan = read(changed(tmp_path / "scan", modality=stored, **values))
    assert scan.modality == modality
    np.testing.assert_array_equal(scan.array, volume_of(modality=stored).array)


@pytest.mark.parametrize("name", ["NominalScannedPixelSpacing", "ImagerPixelSpacing"])
def test_pixel_spacing_is_taken_from_elsewhere_and_said(name: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / "scan", PixelSpacing=None, **{name: ["0.8", "0.7"]})
    with pytest.warns(LatentsegWarning, match=f"no PixelSpacing; the size of a pixel is taken from {name}"):
        scan = read(folder)
    np.testing.assert_allclose(scan.affine_ras_mm, AFFINE, atol=1e-9)


def test_the_scanned_size_goes_before_that_at_the_detector(tmp_path: Path) -> None:
    sizes = {"ImagerPixelSpacing": ["9", "9"], "NominalScannedPixelSpacing": ["0.8", "0.7"]}
    with pytest.warns(LatentsegWarning, match="NominalScannedPixelSpacing"):
        scan = read(changed(tmp_path / "a", PixelSpacing=None, **sizes))
    np.testing.assert_allclose(scan.spacing_mm, (0.7, 0.8, 2.5))


def test_pixel_spacing_that_is_no_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="ImagerPixelSpacing is 0, 1"):
        read(changed(tmp_path / "a", PixelSpacing=None, ImagerPixelSpacing=["0", "1"]))
    with pytest.raises(GeometryError, match="PixelSpacing is missing"):
        read(changed(tmp_path / "b", PixelSpacing=None))
