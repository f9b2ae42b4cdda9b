"""DICOM from the command line: the table of series, and masks as NIfTI and DICOM SEG."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.cli import main
from latentseg.imaging import read, read_labels
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.phantom.bodies import Phantom
from latentseg.text.codes import segment_code

pydicom = pytest.importorskip("pydicom")
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def study(tmp_path: Path, shown: Phantom, searched: Phantom) -> Path:
    """`scan/` to be segmented, `example/` with `example.dcm`, a SEG of liver and spleen."""
    save_slices(slice_datasets(searched.image, description="portal venous"), tmp_path / "scan")
    save_slices(slice_datasets(shown.image), tmp_path / "example")
    example = read(tmp_path / "example")
    labels = (
        shown.labels.array if np.linalg.det(shown.image.affine_ras_mm) > 0 else shown.labels.array[:, :, ::-1]
    )
    names = {name: value for value, name in shown.names.items() if name in ("liver", "spleen")}
    segments = [Segment(name, labels == value, segment_code(name)) for name, value in names.items()]
    write_seg(segments, like=example, path=tmp_path / "example.dcm")
    return tmp_path


def test_inspect_shows_the_series_and_the_one_scan(study: Path, capsys: Capture) -> None:
    assert main(["inspect", str(study / "scan")]) == 0
    shown = capsys.readouterr().out
    assert "portal venous" in shown
    assert "60 x 64 x 6" in shown


def test_inspect_lists_several_series(study: Path, capsys: Capture) -> None:
    assert main(["inspect", str(study)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("image ") == 2
    assert "segmentation" in shown
    assert "affine" not in shown
    assert main(["inspect", str(study), "--json"]) == 0
    series = json.loads(capsys.readouterr().out)["series"]
    assert main(["inspect", str(study), "--json", "--series", series[0]["uid"]]) == 0
    assert json.loads(capsys.readouterr().out)["shape"][2] in (6, 8)
    assert main(["inspect", str(study), "--series", "77"]) == 3
    assert "0 series are called '77'" in capsys.readouterr().err


def test_segment_writes_nifti_and_seg(study: Path, tiny_model: Path, capsys: Capture) -> None:
    support = f"{study / 'example'},{study / 'example.dcm'}"
    out = study / "out"
    command = ["segment", str(study / "scan"), "--support", support, "--target", "liver", "-o", str(out)]
    command += ["--backbone", str(tiny_model), "--combined", "liver", "--save", "mask,dicom-prob"]
    assert main(command) == 0, capsys.readouterr().err
    scan = read(study / "scan")
    case = out / "scan"
    mask = read_labels(case / "scan_seg-liver.nii.gz").array > 0
    for name in ("scan_seg-liver.dcm", "scan_combined.dcm"):
        np.testing.assert_array_equal(read_masks(case / name, like=scan)["liver"], mask)
    segment = pydicom.dcmread(case / "scan_seg-liver.dcm").SegmentSequence[0]
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    assert pydicom.dcmread(case / "scan_prob-liver.dcm").SegmentationType == "FRACTIONAL"


def test_marks_are_in_every_output(study: Path, tiny_model: Path, capsys: Capture) -> None:
    (study / "scan" / "slice_0003.dcm").unlink()
    support = f"{study / 'example'},{study / 'example.dcm'}"
    command = ["segment", str(study / "scan"), "--support", support, "--target", "spleen"]
    command += ["-o", str(study / "out"), "--backbone", str(tiny_model)]
    assert main(command) == 3
    assert "1 slice looks missing" in capsys.readouterr().err
    assert main([*command, "--allow-gaps"]) == 0
    assert "is approximate" in capsys.readouterr().err
    case = study / "out" / "scan"
    stats = json.loads((case / "scan_stats.json").read_text(encoding="utf-8"))
    assert "1 slice looks missing" in stats[0]["approximate"]
    description = read(case / "scan_prob-spleen.nii.gz").header["descrip"]
    assert bytes(description).startswith(b"approximate")
    assert "approximate" in pydicom.dcmread(case / "scan_seg-spleen.dcm").SeriesDescription


def test_a_structure_that_is_not_there(study: Path, tiny_model: Path, capsys: Capture) -> None:
    support = f"{study / 'example'},{study / 'example.dcm'}"
    command = ["segment", str(study / "scan"), "--support", support, "--target", "pancreas"]
    assert main([*command, "--backbone", str(tiny_model)]) == 2
    assert "no structure is called 'pancreas'" in capsys.readouterr().err


def test_a_series_that_cannot_be_referred_to_still_gives_nifti(
    study: Path, tiny_model: Path, capsys: Capture
) -> None:
    for path in (study / "scan").iterdir():
        one = pydicom.dcmread(path)
        del one.FrameOfReferenceUID
        one.save_as(path)
    support = f"{study / 'example'},{study / 'example.dcm'}"
    command = ["segment", str(study / "scan"), "--support", support, "--target", "liver"]
    assert main([*command, "-o", str(study / "out"), "--backbone", str(tiny_model)]) == 0
    assert "no DICOM SEG was written" in capsys.readouterr().err
    assert [path.name for path in (study / "out" / "scan").glob("*seg-*")] == ["scan_seg-liver.nii.gz"]


def test_one_of_several_volumes_is_chosen(study: Path, tiny_model: Path, capsys: Capture) -> None:
    slices = []
    for echo, time in enumerate(("2.3", "4.6")):
        for path in sorted((study / "scan").iterdir()):
            one = pydicom.dcmread(path)
            one.EchoTime, one.SOPInstanceUID = time, pydicom.uid.generate_uid()
            one.PixelData = (one.pixel_array + 10 * echo).astype("<u2").tobytes()
            slices.append(one)
    save_slices(slices, study / "echoes")
    assert main(["inspect", str(study / "echoes")]) == 3
    message = capsys.readouterr().err
    assert "2 at one position differ in EchoTime (2.3, 4.6)" in message
    assert "--volume N: 1 is EchoTime 2.3; 2 is EchoTime 4.6" in message
    assert main(["inspect", str(study / "echoes"), "--volume", "2"]) == 0
    assert "60 x 64 x 6" in capsys.readouterr().out
    assert main(["inspect", str(study / "echoes"), "--volume", "3"]) == 2
    support = f"{study / 'example'},{study / 'example.dcm'}"
    command = ["--support", support, "--target", "liver", "-o", str(study / "out")]
    command += ["--backbone", str(tiny_model), "--volume", "2"]
    assert main(["segment", str(study / "echoes"), *command]) == 0
    assert {path.name for path in (study / "out").iterdir()} == {"echoes_volume-2"}
    assert main(["batch", str(study / "echoes"), *command[:-2], "--volume", "1"]) == 0
