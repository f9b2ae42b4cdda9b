"""Real DICOM: a chest CT with its RTSTRUCT and an oblique MR, where the data folder is present."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.dicom.files import Entry
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.text.codes import segment_code

pydicom = pytest.importorskip("pydicom")
DATA = Path(os.environ.get("LATENTSEG_DATA") or "../shared/data") / "dicom"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA} (set LATENTSEG_DATA)")


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / name) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def sarcoma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("STS_001_MR_T2.tar.xz", tmp_path_factory.mktemp("mr")) / "STS_001" / "MR_T2"


@pytest.fixture(scope="module")
def chest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("LUNG1-001.tar.xz", tmp_path_factory.mktemp("ct")) / "LUNG1-001"


def contour_volumes_ml(path: Path, slice_mm: float) -> dict[str, float]:
    """Volumes by the areas of the polygons alone, for structures without holes."""
    dataset = Entry(path).read()
    names = {int(roi.ROINumber): str(roi.ROIName) for roi in dataset.StructureSetROISequence}
    volumes = {}
    for structure in dataset.ROIContourSequence:
        area = 0.0
        for contour in structure.ContourSequence:
            points = np.asarray(contour.ContourData, float).reshape(-1, 3)
            area += np.linalg.norm(np.cross(points, np.roll(points, -1, 0)).sum(0)) / 2
        volumes[names[int(structure.ReferencedROINumber)]] = area * slice_mm / 1000
    return volumes


def check(scan: Volume, rtstruct: Path, out: Path, holes: set[str]) -> None:
    masks = read_masks(rtstruct, like=scan)
    for name, expected in contour_volumes_ml(rtstruct, scan.spacing_mm[2]).items():
        measured = masks[name].sum() * scan.voxel_volume_ml
        assert measured == pytest.approx(expected, rel=0.02) or name in holes, name
    segments = [Segment(name, mask, segment_code(name)) for name, mask in masks.items()]
    again = read_masks(write_seg(segments, like=scan, path=out), like=scan)
    for name, mask in masks.items():
        np.testing.assert_array_equal(again[name], mask)


def test_oblique_mr_with_its_structures(sarcoma: Path, tmp_path: Path) -> None:
    scan = read(sarcoma / "image")
    assert (scan.shape, scan.modality, scan.axis_codes) == ((384, 384, 40), "MR", "LPS")
    assert scan.spacing_mm == pytest.approx((0.5234375, 0.5234375, 5.2), abs=1e-4)
    check(scan, sarcoma / "mask" / "1-1.dcm", tmp_path / "seg.dcm", set())
    mass = read_labels(sarcoma / "mask", like=scan, name="gtv mass").array > 0
    assert scan.array[mass].mean() > 1.5 * scan.array.mean()


def test_chest_ct_with_its_structures(chest: Path, tmp_path: Path) -> None:
    scan = read(chest)  # image and RTSTRUCT side by side
    assert (scan.shape, scan.modality, scan.axis_codes) == ((512, 512, 134), "CT", "LPS")
    assert scan.array.min() == -1024
    check(scan, chest / "mask_rtstruct" / "1-1.dcm", tmp_path / "seg.dcm", {"Lung-Left", "Lung-Right"})
    for name in ("Lung-Left", "Lung-Right"):
        lung = read_labels(chest / "mask_rtstruct", like=scan, name=name).array > 0
        assert np.median(scan.array[lung]) < -700


def test_itk_agrees_on_clean_series(sarcoma: Path) -> None:
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(sarcoma / "image")))
    theirs = reader.Execute()
    ours = read(sarcoma / "image")
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), ours.array)
    for corner in ((0, 0, 0), (383, 383, 39)):
        point = ours.affine_ras_mm @ [*corner, 1] * (-1, -1, 1, 1)
        np.testing.assert_allclose(theirs.TransformIndexToPhysicalPoint(corner), point[:3], atol=1e-3)
