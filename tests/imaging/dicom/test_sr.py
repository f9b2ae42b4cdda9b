"""Volumes as DICOM SR: what is read back is what the mask measures, segment by segment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.cli import main
from latentseg.errors import InputError
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.imaging.dicom.sr import write_sr
from latentseg.methods.results import Segmentation, Segmentations
from latentseg.phantom.bodies import Phantom
from latentseg.text.codes import segment_code

highdicom = pytest.importorskip("highdicom")
SHAPE = (20, 24, 6)


def scan_of(folder: Path) -> Volume:
    affine = np.diag([-0.7, -0.7, 2.5, 1])
    save_slices(slice_datasets(Volume(np.zeros(SHAPE, np.int16), affine, modality="CT")), folder)
    return read(folder, modality="CT")


def groups_of(path: Path) -> list[Any]:
    report = highdicom.sr.srread(path)
    return list(report.content.get_volumetric_roi_measurement_groups())


def volume_of(group: Any) -> float:
    (measured,) = group.get_measurements(name=highdicom.sr.CodedConcept("118565006", "SCT", "Volume"))
    assert measured.unit.value == "mL"
    return float(measured.value)


def test_volumes_come_back_with_their_segments(tmp_path: Path) -> None:
    scan, rng = scan_of(tmp_path / "scan"), np.random.default_rng(0)
    masks = {name: rng.random(SHAPE) < 0.4 for name in ("liver tumor", "left kidney", "something else")}
    segments = [Segment(name, mask, segment_code(name)) for name, mask in masks.items()]
    seg = write_seg(segments, like=scan, path=tmp_path / "seg.dcm")
    volumes = [float(mask.sum()) * scan.voxel_volume_ml for mask in masks.values()]
    groups = groups_of(write_sr(seg, volumes_ml=volumes, like=scan, path=tmp_path / "sr.dcm"))
    assert [volume_of(group) for group in groups] == pytest.approx(volumes, rel=1e-7)
    uid = highdicom.seg.segread(seg).SOPInstanceUID
    for number, (name, group) in enumerate(zip(masks, groups, strict=True), start=1):
        assert group.tracking_identifier == name
        assert group.referenced_segment.referenced_sop_instance_uid == uid
        assert int(group.referenced_segment.referenced_segment_numbers[0]) == number
    assert groups[0].finding_sites[0].value.value == "10200004"


@pytest.mark.parametrize("what", [("mask",), ("mask", "dicom-sr")])
def test_volumes_of_all_targets_in_one_report(tmp_path: Path, what: tuple[str, ...]) -> None:
    scan, rng = scan_of(tmp_path / "scan"), np.random.default_rng(0)
    results = Segmentations()
    for name in ("liver", "spleen"):
        chance = rng.random(SHAPE, np.float32)
        results[name] = Segmentation(name, scan, chance > 0.6, chance, presence=1.0)
    results.save_combined(tmp_path / "out", ["spleen", "liver"], what=what)
    report = tmp_path / "out/scan/scan_combined_sr.dcm"
    assert report.exists() == ("dicom-sr" in what)
    if report.exists():
        groups = groups_of(report)
        assert [group.tracking_identifier for group in groups] == ["spleen", "liver"]
        expected = [results[name].volume_ml for name in ("spleen", "liver")]
        assert [volume_of(group) for group in groups] == pytest.approx(expected, rel=1e-7)
        uid = pydicom.dcmread(report.parent / "scan_combined.dcm").SOPInstanceUID
        assert {group.referenced_segment.referenced_sop_instance_uid for group in groups} == {uid}


def test_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    scan = scan_of(tmp_path / "scan")
    segment = Segment("liver", np.ones(SHAPE, bool), segment_code("liver"))
    seg = write_seg([segment], like=scan, path=tmp_path / "seg.dcm")
    first, again = (write_sr(seg, volumes_ml=[1.5], like=scan, path=tmp_path / name) for name in "ab")
    assert first.read_bytes() == again.read_bytes()


def test_a_scan_that_is_no_dicom(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan")
    segment = Segment("liver", np.ones(SHAPE, bool), segment_code("liver"))
    seg = write_seg([segment], like=scan, path=tmp_path / "seg.dcm")
    nifti = Volume(scan.array, scan.affine_ras_mm)
    with pytest.raises(InputError, match="a DICOM SR refers to a DICOM series"):
        write_sr(seg, volumes_ml=[1.0], like=nifti, path=tmp_path / "sr.dcm")
    with pytest.raises(InputError, match="damaged"):
        write_sr(tmp_path / "scan/slice_0001.dcm", volumes_ml=[1.0], like=scan, path=tmp_path / "sr.dcm")


def test_from_the_command_line(
    tmp_path: Path,
    shown: Phantom,
    searched: Phantom,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from latentseg.imaging import write_like

    monkeypatch.chdir(tmp_path)
    save_slices(slice_datasets(searched.image), tmp_path / "in/study")
    write_like(shown.image.array, like=shown.image, path=Path("in/b.nii.gz"), kind="image")
    write_like(shown.image.array, like=shown.image, path=Path("ex.nii.gz"), kind="image")
    write_like(shown.labels.array == 1, like=shown.image, path=Path("ex_mask.nii.gz"))
    words = ["-s", "ex.nii.gz,ex_mask.nii.gz", "-t", "liver", "--backbone", str(tiny_model)]
    words += ["--save", "mask,dicom-sr"]
    assert main(["batch", "in", *words, "-o", "out"]) == 0, capsys.readouterr().err
    case = Path("out/study")
    (group,) = groups_of(case / "study_sr-liver.dcm")
    mask = read_labels(case / "study_seg-liver.nii.gz")
    expected = float(np.count_nonzero(mask.array)) * mask.voxel_volume_ml
    assert volume_of(group) == pytest.approx(expected, rel=1e-5)
    stats = json.loads((case / "study_stats.json").read_text(encoding="utf-8"))
    assert volume_of(group) == pytest.approx(stats[0]["volume_ml"], abs=1e-3)
    record = json.loads((case / "study_case.json").read_text(encoding="utf-8"))
    assert "study_sr-liver.dcm" in record["files"]
    assert not list(Path("out/b").glob("*.dcm"))
    other = json.loads(Path("out/b/b_case.json").read_text(encoding="utf-8"))
    assert any("no DICOM SEG was written" in note for note in other["warnings"])
