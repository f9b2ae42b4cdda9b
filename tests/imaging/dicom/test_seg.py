"""DICOM SEG: what is written is read back pixel by pixel, refers to its source, and is coded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.errors import GeometryError, InputError, LatentsegWarning, UsageError
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import SegKind, Segment, seg_dataset, write_seg
from latentseg.imaging.dicom.series import DicomOptions
from latentseg.text.codes import segment_code

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

LETTERS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
NAMED = {
    "axial": "LPS",
    "flipped": "LPI",
    "mirrored": "RPS",
    "prone": "RAS",
    "coronal": "LIP",
    "sagittal": "PIL",
}
SHAPE = (9, 8, 5)


def affine_of(codes: str, degrees: float = 0.0) -> np.ndarray:
    """Axes along the patient's, turned within the slices."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = np.array([LETTERS[code] for code in codes]).T @ turn * (0.75, 0.5, 2.5)
    affine[:3, 3] = (-12.5, 31.25, 7.0)
    return affine


def series(folder: Path, affine: Any = None, shape: tuple[int, int, int] = SHAPE) -> Volume:
    values = np.random.default_rng(3).integers(-1000, 1000, shape).astype(np.int16)
    volume = Volume(values, affine_of("LPS") if affine is None else affine, modality="CT")
    save_slices(slice_datasets(volume), folder)
    return read(folder)


def masks_of(shape: tuple[int, int, int], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(shape) < share for name, share in (("liver", 0.4), ("liver tumor", 0.1))}


def segments_of(masks: dict[str, Any]) -> list[Segment]:
    return [Segment(name, mask, segment_code(name)) for name, mask in masks.items()]


def check_round_trip(scan: Volume, path: Path, kind: SegKind, masks: dict[str, Any]) -> None:
    write_seg(segments_of(masks), like=scan, path=path, kind=kind)
    again = read_masks(path, like=scan)
    assert list(again) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(again[name], mask > 0)


AFFINES = {
    **{name: affine_of(codes) for name, codes in NAMED.items()},
    "rotated in plane": affine_of("LPS", 23.0),
}


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
@pytest.mark.parametrize("affine", AFFINES.values(), ids=AFFINES)
def test_round_trip_is_exact(affine: np.ndarray, kind: SegKind, tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", affine)
    masks = masks_of(scan.shape)
    if kind == "labelmap":
        masks["liver"] &= ~masks["liver tumor"]
    check_round_trip(scan, tmp_path / "seg.dcm", kind, masks)


@settings(max_examples=15)
@given(st.floats(-180, 180), st.sampled_from(list(NAMED.values())), st.integers(0, 99))
def test_round_trip_property(
    tmp_path_factory: pytest.TempPathFactory, degrees: float, codes: str, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("seg")
    scan = series(folder / "scan", affine_of(codes, degrees))
    check_round_trip(scan, folder / "seg.dcm", "binary", masks_of(scan.shape, seed))


@pytest.mark.parametrize("codes", NAMED.values(), ids=NAMED)
def test_another_reader_finds_every_voxel_where_it_was(codes: str, tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", affine_of(codes))
    mask = masks_of(scan.shape)["liver"]
    path = write_seg(segments_of({"liver": mask}), like=scan, path=tmp_path / "seg.dcm")
    theirs = highdicom.seg.segread(path).get_volume(combine_segments=True)
    to_lps = np.diag([-1.0, -1, 1, 1])

    def places(array: Any, affine: Any) -> set[tuple[float, ...]]:
        world = affine[:3, :3] @ np.argwhere(array).T + affine[:3, 3:]
        return set(map(tuple, np.round(world.T, 2) + 0.0))

    assert places(theirs.array, theirs.affine) == places(mask, to_lps @ scan.affine_ras_mm)


def test_the_source_and_the_codes_are_named(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan")
    masks = {name: np.ones(SHAPE, bool) for name in ("left kidney", "hepatic tumor", "thing")}
    dataset = seg_dataset(segments_of(masks), like=scan)
    source = pydicom.dcmread(tmp_path / "scan" / "slice_0001.dcm")
    for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID"):
        assert dataset[name].value == source[name].value
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5
    kidney, tumor, thing = dataset.SegmentSequence
    kind = kidney.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("64033007", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Neoplasm"
    assert tumor.AnatomicRegionSequence[0].CodeMeaning == "Liver"
    assert thing.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99LATENTSEG"
    assert thing.SegmentLabel == "thing"


def test_an_empty_mask_is_a_segment(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan")
    check_round_trip(scan, tmp_path / "seg.dcm", "binary", {"liver": np.zeros(SHAPE, bool)})


def test_probabilities_survive_in_steps_of_a_255th(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan")
    soft = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    kept = soft.copy()
    path = write_seg(segments_of({"liver": soft}), like=scan, path=tmp_path / "s.dcm", kind="fractional")
    np.testing.assert_array_equal(soft, kept)
    theirs = highdicom.seg.segread(path).get_volume(combine_segments=False, rescale_fractional=True)
    upwards = theirs.array[:: int(np.sign(theirs.affine[2, 0])), ..., 0]
    np.testing.assert_allclose(upwards.transpose(2, 1, 0), soft, atol=0.003)


def test_a_multi_frame_source_is_referred_to(tmp_path: Path) -> None:
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    series(tmp_path / "scan")
    slices = [pydicom.dcmread(path) for path in sorted((tmp_path / "scan").iterdir())][::-1]
    for one in slices:
        one.PatientBirthDate = one.StudyDate = "20200101"
        one.StudyTime, one.Manufacturer, one.AcquisitionDateTime = "120000", "", "20200101"
        one.BodyPartExamined, one.PatientPosition, one.SliceLocation = "ABDOMEN", "HFS", 0
    whole = LegacyConvertedEnhancedCTImage(
        legacy_datasets=slices,
        series_instance_uid=pydicom.uid.generate_uid(),
        series_number=2,
        sop_instance_uid=pydicom.uid.generate_uid(),
        instance_number=1,
    )
    (tmp_path / "whole").mkdir()
    whole.save_as(tmp_path / "whole" / "one.dcm")
    scan = read(tmp_path / "whole")
    np.testing.assert_array_equal(scan.array, read(tmp_path / "scan").array)
    check_round_trip(scan, tmp_path / "seg.dcm", "binary", masks_of(SHAPE))


def test_a_resampled_scan_gets_its_mask_on_the_series_own_slices(tmp_path: Path) -> None:
    volume = Volume(np.zeros((9, 8, 9), np.int16), affine_of("LPS"), modality="CT")
    slices = slice_datasets(volume)
    save_slices([one for n, one in enumerate(slices) if n not in (3, 4)], tmp_path / "scan")
    with pytest.warns(LatentsegWarning, match="approximate"):
        scan = read(tmp_path / "scan", dicom=DicomOptions(allow_gaps=True))
    assert scan.shape == (9, 8, 9)
    mask = np.zeros(scan.shape, bool)
    mask[2:5, 1:7, :] = True
    mask[2, 1, 6] = False
    path = write_seg(segments_of({"liver": mask}), like=scan, path=tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(path)
    assert (dataset.NumberOfFrames, dataset.SeriesDescription[-24:]) == (7, "(approximate: resampled)")
    np.testing.assert_array_equal(read_masks(path, like=scan)["liver"], mask)


def test_a_tilted_scan_gets_its_mask_on_the_series_own_slices(tmp_path: Path) -> None:
    slices = slice_datasets(Volume(np.zeros((9, 8, 6), np.int16), affine_of("LPS"), modality="CT"))
    for n, one in enumerate(slices):
        x, y, z = map(float, one.ImagePositionPatient)
        one.ImagePositionPatient = [x, y + n * 1.0, z]  # two pixels of 0.5 mm per slice: 21.8 degrees
    save_slices(slices, tmp_path / "scan")
    with pytest.warns(LatentsegWarning, match="gantry tilt of 21.8 degrees"):
        scan = read(tmp_path / "scan", dicom=DicomOptions(resample_tilt=True))
    assert scan.shape == (9, 18, 6)
    mask = np.zeros(scan.shape, bool)
    for n in range(6):
        mask[3:5, 2 * n + 1 : 2 * n + 4, n] = True
    path = write_seg(segments_of({"liver": mask}), like=scan, path=tmp_path / "seg.dcm")
    stored = pydicom.dcmread(path).pixel_array
    assert all(np.array_equal(np.argwhere(one), np.argwhere(stored[0])) for one in stored)
    np.testing.assert_array_equal(read_masks(path, like=scan)["liver"], mask)


def test_read_labels_numbers_the_segments(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan")
    masks = masks_of(SHAPE)
    masks["liver"] &= ~masks["liver tumor"]
    path = write_seg(segments_of(masks), like=scan, path=tmp_path / "seg.dcm")
    labels = read_labels(path, like=scan)
    assert labels.header.names == {"liver": 1, "liver tumor": 2}
    np.testing.assert_array_equal(labels.array, masks["liver"] + 2 * masks["liver tumor"])
    tumor = read_labels(path, like=scan, name="Liver_Tumor")
    np.testing.assert_array_equal(tumor.array, masks["liver tumor"])


def test_without_the_scan_a_seg_has_a_grid_of_its_own(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan", affine_of("LPI"))
    mask = np.zeros(SHAPE, bool)
    mask[2:4, 3:5, 1:4] = True
    own = read_labels(write_seg(segments_of({"liver": mask}), like=scan, path=tmp_path / "seg.dcm"))
    assert own.shape == (9, 8, 3)
    np.testing.assert_array_equal(own.array, mask[:, :, 1:4])
    expected = scan.affine_ras_mm @ [0, 0, 1, 1]
    np.testing.assert_allclose(own.affine_ras_mm[:, 3], expected, atol=1e-4)


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    scan = series(tmp_path / "scan")
    masks = masks_of(SHAPE)
    with pytest.raises(InputError, match="belong to more than one segment"):
        seg_dataset(segments_of(masks), like=scan, kind="labelmap")
    with pytest.raises(InputError, match="refers to a DICOM series"):
        seg_dataset(segments_of(masks), like=Volume(scan.array, scan.affine_ras_mm))
    with pytest.raises(GeometryError, match="does not fit the grid"):
        seg_dataset([Segment("liver", np.ones((2, 2, 2)), segment_code("liver"))], like=scan)
    path = write_seg(segments_of(masks), like=scan, path=tmp_path / "seg.dcm")
    with pytest.raises(InputError, match=r"'liver tumor' and 'liver' overlap in \d+ voxels"):
        read_labels(path, like=scan)
    with pytest.raises(InputError, match=r"10 x segmentation"):
        read(path)
    with pytest.raises(UsageError, match=r"no structure is called 'spleen'.*Choose from liver, liver tumor"):
        read_labels(path, like=scan, name="spleen")
    for codes, message in (("RAS", "another frame of reference"), ("LPS", "another frame of reference")):
        with pytest.raises(GeometryError, match=message):
            read_labels(path, like=series(tmp_path / codes, affine_of(codes)))
    moved = scan.affine_ras_mm.copy()
    moved[0, 3] += 0.3
    with pytest.raises(GeometryError, match=r"lie up to 0.40 voxels beside those of the scan"):
        read_masks(path, like=Volume(scan.array, moved))
    coarse = Volume(scan.array, scan.affine_ras_mm @ np.diag([2, 2, 1, 1]))
    with pytest.raises(GeometryError, match=r"its pixels measure 0.5 x 0.5 voxels"):
        read_masks(path, like=coarse)
    small = Volume(scan.array[:4], scan.affine_ras_mm)
    with pytest.raises(GeometryError, match=r"\d+ of its voxels lie outside"):
        read_masks(path, like=small)


@pytest.mark.parametrize("tag", ["FrameOfReferenceUID", "SOPInstanceUID"])
def test_a_source_without_identity_cannot_be_referred_to(tag: str, tmp_path: Path) -> None:
    volume = Volume(np.zeros(SHAPE, np.int16), affine_of("LPS"), modality="CT")
    slices = slice_datasets(volume)
    for one in slices:
        setattr(one, tag, "")
    for n, one in enumerate(slices):
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            one.SOPClassUID,
            "1.2",
        )
        pydicom.dcmwrite(tmp_path / f"{n}", one)
    with pytest.raises(InputError, match=f"cannot refer to it without {tag}"):
        seg_dataset(segments_of(masks_of(SHAPE)), like=read(tmp_path))


def test_what_an_anonymizer_took_away_is_left_empty(tmp_path: Path) -> None:
    slices = slice_datasets(Volume(np.zeros(SHAPE, np.int16), affine_of("LPS"), modality="CT"))
    for one in slices:
        for tag in (
            "PatientID",
            "PatientName",
            "PatientBirthDate",
            "StudyDate",
            "StudyID",
            "AccessionNumber",
        ):
            del one[tag]
    save_slices(slices, tmp_path)
    scan = read(tmp_path)
    assert seg_dataset(segments_of(masks_of(SHAPE)), like=scan).PatientID == ""


def test_a_fixed_time_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = series(tmp_path / "scan")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1600000000")
    paths = [
        write_seg(segments_of(masks_of(SHAPE)), like=scan, path=tmp_path / name)
        for name in ("a.dcm", "b.dcm")
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
