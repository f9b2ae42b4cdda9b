"""SEG and report of series whose headers bend the standard: always written, and readable by others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_files import multi_frame, save_slices, slice_datasets
from latentseg.errors import InputError
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.imaging.dicom.sr import write_sr
from latentseg.text.codes import segment_code

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

SHAPE = (24, 20, 5)
AFFINE = np.diag([-0.8, -0.9, 2.5, 1.0])


def scan_with(folder: Path, *, frames: bool = False, **values: Any) -> Volume:
    """A CT with attributes as raw text, unchecked as a file would hold them, or None to take them away."""
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    slices = slice_datasets(Volume(array, AFFINE, modality="CT"))
    if frames:
        slices = [multi_frame(slices)]
        inside = slices[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    for one in slices:
        for name, value in values.items():
            put(inside if frames and name == "SliceThickness" else one, name, value)
    save_slices(slices, folder)
    return read(folder)


def put(dataset: Any, name: str, value: Any) -> None:
    tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(name))
    if value is None:
        dataset.pop(tag, None)
        return
    kind = pydicom.datadict.dictionary_VR(tag)
    if kind == "PN" or isinstance(value, list):
        setattr(dataset, name, value)
        return
    content = value if isinstance(value, bytes) else value.encode()
    content += b" " * (len(content) % 2)
    dataset[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(content), content, 0, False, True, True)


def written(scan: Volume, folder: Path, names: tuple[str, ...] = ("liver", "spleen")) -> Any:
    """SEG and report of random masks, after every reader has opened them."""
    masks = [np.random.default_rng(n).random(SHAPE) < 0.3 for n in range(len(names))]
    segments = [Segment(name, mask, segment_code(name)) for name, mask in zip(names, masks, strict=True)]
    path = write_seg(segments, like=scan, path=folder / "out" / "seg.dcm")
    for name, mask in zip(names, masks, strict=True):
        np.testing.assert_array_equal(read_masks(path, like=scan)[name], mask)
    volume = highdicom.seg.segread(path).get_volume()
    np.testing.assert_allclose(volume.spacing, (2.5, 0.9, 0.8))
    report = write_sr(path, volumes_ml=[1.0] * len(names), like=scan, path=folder / "out" / "sr.dcm")
    assert names[0] in str(pydicom.dcmread(report))
    return pydicom.dcmread(path)


def thickness_of(seg: Any) -> float:
    return float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness)


@pytest.mark.parametrize("frames", [False, True])
@pytest.mark.parametrize("value", [None, "", "0", "0.0", "-2", "none"])
def test_slice_thickness_comes_from_the_positions(value: Any, frames: bool, tmp_path: Path) -> None:
    scan = scan_with(tmp_path / "scan", frames=frames, SliceThickness=value)
    assert thickness_of(written(scan, tmp_path)) == pytest.approx(2.5)


def test_a_slice_thickness_that_is_one_stays(tmp_path: Path) -> None:
    scan = scan_with(tmp_path / "scan", SliceThickness="5", SpacingBetweenSlices="0")
    assert thickness_of(written(scan, tmp_path)) == 5.0


@pytest.mark.parametrize(
    ("sets", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("ISO_IR 126", "Διονυσιος"),
        ("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    ],
)
def test_names_in_any_character_set_survive(sets: Any, name: str, tmp_path: Path) -> None:
    scan = scan_with(tmp_path / "scan", SpecificCharacterSet=sets, PatientName=name, PatientID="Ж7"[-1:])
    seg = written(scan, tmp_path, ("肝臓", "Größe печени"))
    assert str(seg.PatientName) == name
    assert seg.SpecificCharacterSet == "ISO_IR 192"
    assert [one.SegmentLabel for one in seg.SegmentSequence] == ["肝臓", "Größe печени"]


@pytest.mark.parametrize("sets", ["", "ISO_IR 999", "latin1", "\\\\"])
def test_a_character_set_that_is_none_stops_nothing(sets: str, tmp_path: Path) -> None:
    assert (
        str(written(scan_with(tmp_path / "s", SpecificCharacterSet=sets), tmp_path).PatientName) == "Phantom"
    )


def test_other_text_is_taken_over_as_unicode(tmp_path: Path) -> None:
    scan = scan_with(
        tmp_path / "s", SpecificCharacterSet="ISO_IR 100", StudyDescription="Größe".encode("latin-1")
    )
    assert written(scan, tmp_path).StudyDescription == "Größe"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PatientBirthDate", "00000000", ""),
        ("PatientBirthDate", "0000-00-00", ""),
        ("PatientBirthDate", "1950", ""),
        ("PatientBirthDate", "19500131", "19500131"),
        ("StudyDate", "20200231", ""),
        ("StudyTime", "256199", ""),
        ("StudyTime", "12:30:00", ""),
        ("StudyTime", "123000.5", "123000.5"),
        ("PatientSex", "U", ""),
        ("PatientSex", "UNKNOWN", ""),
        ("PatientSex", "m", "M"),
        ("PatientSex", "Female", "F"),
        ("PatientSex", "O", "O"),
        ("PatientAge", "45", None),
        ("PatientAge", "045Y", "045Y"),
        ("PatientWeight", "N/A", None),
        ("PatientSize", "1.8", 1.8),
        ("StudyID", None, ""),
        ("AccessionNumber", "1" * 30, "1" * 30),
    ],
)
def test_values_that_are_none_are_left_empty(name: str, value: Any, expected: Any, tmp_path: Path) -> None:
    seg = written(scan_with(tmp_path / "scan", **{name: value}), tmp_path)
    assert seg.get(name) == expected


@pytest.mark.parametrize("value", [None, "", "ct scan!", "OT"])
def test_modality_may_be_missing(value: Any, tmp_path: Path) -> None:
    written(scan_with(tmp_path / "scan", Modality=value), tmp_path)


def test_pixel_spacing_from_elsewhere(tmp_path: Path) -> None:
    scan = scan_with(tmp_path / "scan", PixelSpacing=None, NominalScannedPixelSpacing=["0.9", "0.8"])
    written(scan, tmp_path)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    written(
        scan_with(tmp_path / "scan", SeriesNumber="abc", InstanceNumber="", AcquisitionNumber="x"), tmp_path
    )


def test_text_within_sequences_is_unicode_too(tmp_path: Path) -> None:
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "Größe"
    code.SpecificCharacterSet = "ISO_IR 100"
    scan = scan_with(tmp_path / "s", SpecificCharacterSet="ISO_IR 100", ProcedureCodeSequence=[code])
    item = written(scan, tmp_path).ProcedureCodeSequence[0]
    assert item.CodeMeaning == "Größe"
    assert "SpecificCharacterSet" not in item


@pytest.mark.parametrize(
    ("name", "label"),
    [("a\\b", "a/b"), ("x" * 70, "x" * 64), ("肝" * 70, "肝" * 64), ("a\nb", "a b")],
)
def test_labels_are_what_dicom_can_hold(name: str, label: str, tmp_path: Path) -> None:
    scan = scan_with(tmp_path / "scan")
    mask = np.ones(SHAPE, bool)
    path = write_seg([Segment(name, mask, segment_code(name))], like=scan, path=tmp_path / "seg.dcm")
    assert pydicom.dcmread(path).SegmentSequence[0].SegmentLabel == label


def test_several_multi_frame_files_are_refused(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    slices = slice_datasets(Volume(array, AFFINE, modality="CT"))
    parts = [multi_frame(slices[:2]), multi_frame(slices[2:])]
    save_slices(parts, tmp_path / "scan")
    scan = read(tmp_path / "scan")
    with pytest.raises(InputError, match="5 slices in 2 multi-frame files"):
        write_seg([Segment("a", array > 0, segment_code("a"))], like=scan, path=tmp_path / "seg.dcm")
