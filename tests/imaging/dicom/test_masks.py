"""RTSTRUCT contours on the grid of their scan: filled by pixel centers, holes kept, other scans refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.errors import GeometryError, InputError, LatentsegWarning
from latentseg.imaging import Volume, read, read_labels, write_like
from latentseg.imaging.dicom.contours import inside_outline
from latentseg.imaging.dicom.masks import read_masks, structure_names
from latentseg.imaging.dicom.series import DicomOptions
from latentseg.methods.fewshot.support import Support

pydicom = pytest.importorskip("pydicom")

AFFINE = np.array([[-1.0, 0, 0, 20], [0, -1, 0, 10], [0, 0, 2.5, -30], [0, 0, 0, 1]])
SHAPE = (30, 24, 8)
SQUARE = np.array([[4.6, 5.6], [12.4, 5.6], [12.4, 15.4], [4.6, 15.4]])  # pixels 5..12 and 6..15


def scan_of(folder: Path, affine: np.ndarray = AFFINE) -> Volume:
    values = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    save_slices(slice_datasets(Volume(values, affine, modality="CT")), folder)
    return read(folder)


def contour_of(scan: Volume, points: np.ndarray, k: float, axis: int = 2) -> list[str]:
    """Index coordinates on slice k as LPS millimeters."""
    index = np.insert(points, axis, k, axis=1)
    world = scan.affine_ras_mm[:3, :3] @ index.T + scan.affine_ras_mm[:3, 3:]
    return [f"{value:.4f}" for value in (world.T * (-1, -1, 1)).ravel()]


def save_rtstruct(path: Path, rois: dict[str, list[list[str]]], frame: str = "") -> Path:
    dataset = slice_datasets(Volume(np.zeros((2, 2, 1), np.int16), np.eye(4)))[0]
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    names, drawings = [], []
    for number, (name, outlines) in enumerate(rois.items(), start=3):
        roi, drawing = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        drawing.ReferencedROINumber, drawing.ContourSequence = number, []
        for outline in outlines:
            contour = pydicom.Dataset()
            contour.ContourGeometricType, contour.ContourData = "CLOSED_PLANAR", outline
            drawing.ContourSequence.append(contour)
        names.append(roi)
        drawings.append(drawing)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = names, drawings
    return save_slices([dataset], path.parent, name=path.name)[0]


def square_mask(*slices: int) -> Any:
    mask = np.zeros(SHAPE, bool)
    mask[5:13, 6:16, list(slices)] = True
    return mask


def test_outlines_are_filled_on_their_slices(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    outlines = [contour_of(scan, SQUARE, k) for k in (2, 3)]
    path = save_rtstruct(tmp_path / "rt.dcm", {"GTV": outlines, "empty": []}, scan.header.frame_of_reference)
    masks = read_masks(path, like=scan)
    np.testing.assert_array_equal(masks["GTV"], square_mask(2, 3))
    assert not masks["empty"].any()
    labels = read_labels(path, like=scan)
    assert labels.header.names == {"GTV": 1, "empty": 2}
    np.testing.assert_array_equal(labels.array, square_mask(2, 3))


def test_an_outline_inside_another_is_a_hole(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    hole = np.array([[7.5, 8.5], [9.5, 8.5], [9.5, 10.5], [7.5, 10.5]])
    rois = {"ring": [contour_of(scan, SQUARE, 4), contour_of(scan, hole, 4)]}
    expected = square_mask(4)
    expected[8:10, 9:11, 4] = False
    np.testing.assert_array_equal(
        read_masks(save_rtstruct(tmp_path / "r", rois), like=scan)["ring"], expected
    )


def test_sagittal_outlines_are_understood(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    square = np.array([[3.5, 1.5], [8.5, 1.5], [8.5, 5.5], [3.5, 5.5]])
    path = save_rtstruct(tmp_path / "r", {"a": [contour_of(scan, square, 7, axis=0)]})
    expected = np.zeros(SHAPE, bool)
    expected[7, 4:9, 2:6] = True
    np.testing.assert_array_equal(read_masks(path, like=scan)["a"], expected)


def test_contours_are_read_on_a_nifti_of_the_scan(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    path = save_rtstruct(tmp_path / "r.dcm", {"a": [contour_of(scan, SQUARE, 2)]})
    nifti = read(write_like(scan.array, like=scan, path=tmp_path / "scan.nii.gz", kind="image"))
    np.testing.assert_array_equal(read_masks(path, like=nifti)["a"], square_mask(2))


def test_contours_on_a_series_with_a_gap(tmp_path: Path) -> None:
    scan_of(tmp_path / "scan")
    (tmp_path / "scan" / "slice_0004.dcm").unlink()
    with pytest.warns(LatentsegWarning, match="approximate"):
        scan = read(tmp_path / "scan", dicom=DicomOptions(allow_gaps=True))
    outlines = [contour_of(scan, SQUARE, k) for k in (1, 2, 4, 5)]
    mask = read_masks(save_rtstruct(tmp_path / "r", {"a": outlines}), like=scan)["a"]
    np.testing.assert_array_equal(mask, square_mask(1, 2, 3, 4, 5))


def test_a_support_is_shown_by_one_structure_of_several(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    outlines = [contour_of(scan, SQUARE, k) for k in (2, 3)]
    path = save_rtstruct(tmp_path / "rt.dcm", {"Lung-Left": outlines, "GTV-1": outlines[:1]})
    support = Support.from_files([(tmp_path / "scan", path)], name="gtv 1")
    assert len(support) == 1
    with pytest.raises(InputError, match="'GTV-1' and 'Lung-Left' overlap in 80 voxels"):
        read_labels(path, like=scan)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda scan: contour_of(scan, SQUARE + 100, 2),
            "1 of 1 contours of 'a' .* beside the pixels of slice 2",
        ),
        (lambda scan: contour_of(scan, SQUARE, 2.4), r"0.40 slices beside the nearest slice \(2\)"),
        (lambda scan: contour_of(scan, SQUARE, 11), "on slice 11 of a scan of 8 slices"),
        (lambda scan: contour_of(scan, SQUARE, 2)[:-1], "truncated or damaged"),
    ],
)
def test_contours_of_another_scan_are_refused(make: Any, message: str, tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    path = save_rtstruct(tmp_path / "rt.dcm", {"a": [make(scan)]})
    with pytest.raises(InputError, match=message):
        read_masks(path, like=scan)


def test_only_the_structure_that_is_asked_for_is_drawn(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    stray = {"EXTERNAL": [contour_of(scan, SQUARE, 11)], "GTV_MR": [contour_of(scan, SQUARE, 2.4)]}
    path = save_rtstruct(tmp_path / "rt.dcm", {**stray, "liver": [contour_of(scan, SQUARE, 2)]})
    dataset = pydicom.dcmread(path)
    dataset.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.3.4"
    dataset.StructureSetROISequence[2].ReferencedFrameOfReferenceUID = scan.header.frame_of_reference
    dataset.save_as(path)
    np.testing.assert_array_equal(read_masks(path, like=scan, names=["liver"])["liver"], square_mask(2))
    np.testing.assert_array_equal(read_labels(path, like=scan, name="LIVER").array, square_mask(2))
    assert structure_names(path) == ["EXTERNAL", "GTV_MR", "liver"]
    with pytest.raises(GeometryError, match=r"another frame of reference \(1.2.3.4\)"):
        read_labels(path, like=scan, name="GTV_MR")
    with pytest.raises(GeometryError, match="contours of 'EXTERNAL' lie outside of the scan, on slice 11"):
        read_masks(path, like=scan, names=["EXTERNAL"])


@pytest.mark.parametrize(
    "again",
    [
        lambda square: square,
        lambda square: np.roll(square, 2, axis=0)[::-1],
        lambda square: square + 0.01,
        lambda square: np.repeat(square, 2, axis=0),
    ],
)
def test_an_outline_that_is_stored_twice_is_drawn_once(again: Any, tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    twice = [contour_of(scan, points, 2) for points in (SQUARE, again(SQUARE))]
    path = save_rtstruct(tmp_path / "rt.dcm", {"liver": [*twice, contour_of(scan, SQUARE, 3)]})
    with pytest.warns(LatentsegWarning, match="1 contours of 'liver' are stored twice and drawn once"):
        labels = read_labels(path, like=scan, name="liver")
    np.testing.assert_array_equal(labels.array, square_mask(2, 3))


@pytest.mark.parametrize("k", [-1, 8])
def test_a_contour_one_slice_outside_is_left_out_with_a_warning(k: int, tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    near = 0 if k < 0 else 7
    path = save_rtstruct(tmp_path / "rt.dcm", {"liver": [contour_of(scan, SQUARE, at) for at in (near, k)]})
    said = f"1 of 2 contours of 'liver' lie outside of the scan, on slice {k} of a scan of 8 slices"
    with pytest.warns(LatentsegWarning, match=said):
        masks = read_masks(path, like=scan)
    np.testing.assert_array_equal(masks["liver"], square_mask(near))


def test_what_cannot_be_placed_is_refused(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    path = save_rtstruct(tmp_path / "rt" / "rt.dcm", {"a": [contour_of(scan, SQUARE, 2)]}, "1.2.3.4")
    with pytest.raises(GeometryError, match=r"another frame of reference \(1.2.3.4\)"):
        read_masks(path, like=scan)
    with pytest.raises(InputError, match="contours have no voxels of their own"):
        read_labels(path)
    save_rtstruct(tmp_path / "rt" / "again.dcm", {"a": []})
    with pytest.raises(InputError, match=r"there are 2 RTSTRUCT or SEG files \(again.dcm, rt.dcm\)"):
        read_masks(tmp_path / "rt", like=scan)


hundredths = st.integers(-400, 1600).map(lambda n: n / 100)
coordinates = st.lists(st.tuples(hundredths, hundredths), min_size=3, max_size=9)


@given(coordinates)
def test_fill_counts_crossings(corners: list[tuple[float, float]]) -> None:
    rows, columns = np.array(corners).T
    inside = inside_outline(rows, columns, shape=(10, 12))
    for row, column in [(0, 0), (3, 7), (9, 11), (5, 5), (8, 2)]:
        crossings = 0
        for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
            if min(a[0], b[0]) <= row < max(a[0], b[0]):
                crossings += a[1] + (row - a[0]) / (b[0] - a[0]) * (b[1] - a[1]) <= column
        assert inside[row, column] == (crossings % 2 == 1)


def test_neighbors_share_no_pixel() -> None:
    left = inside_outline(np.array([0.0, 8, 8, 0]), np.array([0.0, 0, 5, 5]), shape=(10, 10))
    right = inside_outline(np.array([0.0, 8, 8, 0]), np.array([5.0, 5, 9, 9]), shape=(10, 10))
    assert not (left & right).any()
    assert (left | right).sum() == 8 * 9
