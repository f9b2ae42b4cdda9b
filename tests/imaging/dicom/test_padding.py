"""Padding that a DICOM header declares: told from the patient, whatever its value and sign."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.errors import LatentsegWarning
from latentseg.imaging import Volume, normalize, read

pydicom = pytest.importorskip("pydicom")

SHAPE = (32, 30, 4)
OUTSIDE = np.zeros(SHAPE, bool)
OUTSIDE[:9] = OUTSIDE[:, -4:] = True


def truth_of(modality: Any) -> Volume:
    rng = np.random.default_rng(0)
    values = rng.integers(-1000, 400, SHAPE) if modality == "CT" else rng.integers(0, 900, SHAPE)
    return Volume(values.astype(np.int16), np.diag([-1.0, -1, 3, 1]), modality=modality)


def padded(
    truth: Volume, stored: list[int], *, signed: bool, folder: Path, header: tuple[int, ...] | None = None
) -> Path:
    """Save a scan whose pixels outside hold stored values in turn."""
    slices = slice_datasets(truth)
    for k, one in enumerate(slices):
        offset = int(one.get("RescaleIntercept") or 0) if not signed else 0
        pixels = truth.array[:, :, k].astype(np.int32) - offset
        pixels[OUTSIDE[:, :, k]] = np.resize(stored, OUTSIDE[:, :, k].sum())
        one.PixelRepresentation = int(signed)
        if signed:
            one.RescaleIntercept = 0
        one.PixelData = np.ascontiguousarray(pixels.T.astype("<i2" if signed else "<u2")).tobytes()
        ends = header if header is not None else (min(stored), max(stored))[: len(set(stored))]
        for name, value in zip(("PixelPaddingValue", "PixelPaddingRangeLimit"), ends, strict=False):
            one.add_new(name, "SS" if value < 0 else "US", value)
    save_slices(slices, folder)
    return folder


@pytest.mark.parametrize(
    ("stored", "signed", "header"),
    [
        ([-32768], True, None),
        ([-2000], True, None),
        ([-2000, -1990, -1500], True, None),
        ([5000], True, None),
        ([65535], False, None),
        ([60000, 65535], False, (65535, 60000)),
        ([-2000], True, (63536,)),
        ([65535], False, (-1,)),
    ],
)
def test_an_mr_is_the_same_with_and_without_padding(
    stored: list[int], signed: bool, header: Any, tmp_path: Path
) -> None:
    truth = truth_of("MR")
    scan = read(padded(truth, stored, signed=signed, folder=tmp_path, header=header))
    assert scan.modality == "MR"
    np.testing.assert_array_equal(scan.padding, OUTSIDE)
    plain = np.where(OUTSIDE, 0, truth.array)
    np.testing.assert_array_equal(scan.array, plain)
    np.testing.assert_array_equal(normalize(scan.array, modality="MR"), normalize(plain, modality="MR"))


@pytest.mark.parametrize(("stored", "signed"), [([-2000], True), ([65535], False), ([3000, 3071], True)])
@pytest.mark.parametrize("modality", ["CT", "OT"])
def test_padding_of_a_ct_is_air(stored: list[int], signed: bool, modality: str, tmp_path: Path) -> None:
    truth = truth_of("CT")
    folder = padded(truth, stored, signed=signed, folder=tmp_path)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Modality = modality
        dataset.save_as(path)
    scan = read(folder)
    assert scan.modality == "CT"
    np.testing.assert_array_equal(scan.array[~OUTSIDE], truth.array[~OUTSIDE])
    assert scan.array[OUTSIDE].max() <= -1000
    np.testing.assert_array_equal(scan.padding, OUTSIDE)


def test_negative_values_stay_apart_from_padding(tmp_path: Path) -> None:
    truth = truth_of("MR")
    truth = Volume((truth.array - 400).astype(np.int16), truth.affine_ras_mm, modality="MR")
    scan = read(padded(truth, [0], signed=True, folder=tmp_path))
    values, inside = normalize(scan.array, modality="MR"), truth.array[~OUTSIDE & (truth.array != 0)]
    low, high = np.percentile(inside, (0.5, 99.5))
    expected = np.clip((truth.array - low) * 2 / (high - low) - 1, -1, 1)
    told = ~OUTSIDE & (truth.array != 0)
    np.testing.assert_allclose(values[told], expected[told], atol=1e-5)
    assert (values[OUTSIDE] == -1).all()


def test_a_scan_that_is_all_padding_is_not_believed(tmp_path: Path) -> None:
    truth = truth_of("MR")
    folder = padded(truth, [7], signed=True, folder=tmp_path, header=(-10, 2000))
    with pytest.warns(LatentsegWarning, match="every pixel is called padding"):
        scan = read(folder)
    np.testing.assert_array_equal(scan.array[~OUTSIDE], truth.array[~OUTSIDE])


@pytest.mark.parametrize("value", [b"", "x"])
def test_a_padding_value_that_is_no_number_is_none(value: Any, tmp_path: Path) -> None:
    from latentseg.imaging.dicom.pixels import _as_stored

    assert _as_stored(value, np.dtype(np.int16)) == []
    assert _as_stored(b"\x00\x80", np.dtype(np.int16)) == [-32768.0]
    assert _as_stored(-1.5, np.dtype(np.float32)) == [-1.5]


def test_a_mask_holds_no_padding(tmp_path: Path) -> None:
    from latentseg.methods.results import Segmentation

    scan = read(padded(truth_of("MR"), [-32768], signed=True, folder=tmp_path))
    found = Segmentation("liver", scan, np.ones(SHAPE, bool), np.ones(SHAPE, np.float32), 1.0)
    np.testing.assert_array_equal(found.mask, ~OUTSIDE)


def test_padding_follows_a_resampled_stack(tmp_path: Path) -> None:
    from latentseg.imaging.dicom.series import DicomOptions

    folder = padded(truth_of("MR"), [-32768], signed=True, folder=tmp_path)
    (folder / "slice_0002.dcm").unlink()
    with pytest.warns(LatentsegWarning, match="approximate"):
        scan = read(folder, dicom=DicomOptions(allow_gaps=True))
    np.testing.assert_array_equal(scan.padding, OUTSIDE)
