"""Siemens mosaics: unpacked to the slices they were made of, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dicom_files import csa_header, mosaic, save_slices, slice_datasets
from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.mosaic import Mosaic, mosaic_of
from latentseg.imaging.dicom.series import DicomOptions

pydicom = pytest.importorskip("pydicom")


def turned(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ [[1, 0, 0], [0, c, -s], [0, s, c]] @ np.diag([2.0, 2.5, 4.0])
    affine[:3, 3] = 30, -20, 10
    return affine


def scan_of(count: int, angle: float = 0.3) -> Volume:
    values = np.random.default_rng(count).integers(0, 1000, (12, 10, count)).astype(np.int16)
    return Volume(values, turned(angle), modality="MR")


@settings(max_examples=12, deadline=None)
@given(count=st.integers(2, 17), angle=st.floats(0, 3), reverse=st.booleans())
def test_slices_come_back_at_their_places(
    count: int, angle: float, reverse: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    truth = scan_of(count, angle)
    slices = slice_datasets(truth)
    path = save_slices([mosaic(slices[::-1] if reverse else slices)], tmp_path_factory.mktemp("mosaic"))[0]
    scan = read(path)
    np.testing.assert_array_equal(scan.array, truth.array)
    np.testing.assert_allclose(scan.affine_ras_mm, truth.affine_ras_mm, atol=1e-4)
    assert scan.modality == "MR"


def test_without_a_csa_header_the_order_of_the_slices_is_assumed_with_a_warning(tmp_path: Path) -> None:
    truth = scan_of(5)
    path = save_slices([mosaic(slice_datasets(truth), csa=False)], tmp_path)[0]
    with pytest.warns(LatentsegWarning, match="does not say from which side its slices are counted"):
        scan = read(path)
    np.testing.assert_array_equal(scan.array, truth.array)
    np.testing.assert_allclose(scan.affine_ras_mm, truth.affine_ras_mm, atol=1e-4)


def test_a_series_of_mosaics_is_one_volume_per_file(tmp_path: Path) -> None:
    truth = scan_of(6)
    times = []
    for n in range(3):
        slices = slice_datasets(replace(truth, array=truth.array + n))
        times.append(mosaic(slices))
        times[-1].AcquisitionNumber, times[-1].InstanceNumber = n + 1, n + 1
        times[-1].SeriesInstanceUID = times[0].SeriesInstanceUID
        times[-1].FrameOfReferenceUID = times[0].FrameOfReferenceUID
    save_slices(times, tmp_path)
    with pytest.raises(
        InputError, match=r"18 images lie at 6 positions; 3 at .* AcquisitionNumber \(1, 2, 3\)"
    ):
        read(tmp_path)
    for n in range(3):
        scan = read(tmp_path, dicom=DicomOptions(volume=n + 1))
        np.testing.assert_array_equal(scan.array, truth.array + n)


def test_tiles_after_the_last_slice_are_left_out() -> None:
    picture = np.arange(6 * 6).reshape(1, 6, 6)
    slices = Mosaic(5, 3).slices(picture)
    assert slices.shape == (5, 2, 2)
    np.testing.assert_array_equal(slices[4], picture[0, 2:4, 2:4])


def no_count(picture: Any) -> None:
    del picture[0x0029, 0x1010]


def empty_count(picture: Any) -> None:
    picture[0x0029, 0x1010].value = csa_header({"NumberOfImagesInMosaic": []})


def odd_size(picture: Any) -> None:
    picture[0x0029, 0x1010].value = csa_header({"NumberOfImagesInMosaic": ["27"]})


def no_step(picture: Any) -> None:
    del picture.SpacingBetweenSlices, picture.SliceThickness


def damaged(picture: Any) -> None:
    picture[0x0029, 0x1010].value = picture[0x0029, 0x1010].value[:90]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_count, "Siemens mosaic .* does not say of how many slices.*dcm2niix"),
        (empty_count, "Siemens mosaic .* does not say of how many slices"),
        (odd_size, "Siemens mosaic of 27 slices, which 36 x 30 pixels"),
        (no_step, "Siemens mosaic.* how far its slices lie apart"),
        (damaged, "truncated or damaged"),
    ],
)
def test_what_the_header_does_not_say_is_refused_by_name(spoil: Any, message: str, tmp_path: Path) -> None:
    picture = mosaic(slice_datasets(scan_of(8)))
    spoil(picture)
    if spoil is odd_size:
        picture.Columns = 37
    with pytest.raises(InputError, match=message.replace("36 x 30", "37 x 30")):
        read(save_slices([picture], tmp_path)[0])


def test_the_number_of_slices_is_found_without_the_name_of_its_block(tmp_path: Path) -> None:
    picture = mosaic(slice_datasets(scan_of(4)), csa=False)
    del picture[0x0019, 0x0010]
    found = mosaic_of(picture, "")
    assert found is not None
    assert (found.count, found.side) == (4, 2)
    picture.ImageType = ["ORIGINAL", "PRIMARY", "M"]  # another maker's element may have that number
    assert mosaic_of(picture, "") is None


def test_the_number_of_slices_is_told_by_their_times() -> None:
    picture = mosaic(slice_datasets(scan_of(4)), csa=False)
    block = picture.private_block(0x0019, "SIEMENS MR HEADER")
    del block[0x0A]
    block.add_new(0x29, "FD", [0.0, 10.0, 20.0, 30.0])
    found = mosaic_of(picture, "")
    assert found is not None
    assert found.count == 4


def test_a_csa_header_of_a_single_slice_is_no_mosaic() -> None:
    one = slice_datasets(scan_of(2))[0]
    block = one.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa_header({"NumberOfImagesInMosaic": []}))
    assert mosaic_of(one, "") is None
    block[0x10].value = b"no CSA header"
    assert mosaic_of(one, "") is None


def test_a_seg_cannot_refer_to_tiles(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from latentseg.imaging.dicom.seg import Segment, seg_dataset
    from latentseg.text.codes import segment_code

    scan = read(save_slices([mosaic(slice_datasets(scan_of(4)))], tmp_path)[0])
    with pytest.raises(InputError, match="cannot refer to the tiles of a mosaic"):
        seg_dataset([Segment("a", scan.array > 0, segment_code("a"))], like=scan)
