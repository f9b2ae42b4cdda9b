"""`latentseg evaluate PRED TRUTH` where one side, or both, are DICOM SEG or RTSTRUCT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.cli import main
from latentseg.imaging import Volume, read, write_like
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.text.codes import segment_code

pytest.importorskip("highdicom")
Capture = pytest.CaptureFixture[str]
BOX = (slice(5, 13), slice(6, 16), slice(1, 3))  # what `save_contours` draws on slices 1 and 2


@pytest.fixture
def targets() -> Any:
    import fuzz_targets

    return fuzz_targets


@pytest.fixture
def scan(targets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Volume:
    """`scans/a/`; `maps/a.nii.gz`: the box as 1, half of it as 2; `seg/a.dcm`, `rt/a.dcm`: GTV and liver."""
    monkeypatch.chdir(tmp_path)
    save_slices(slice_datasets(targets.phantom()), tmp_path / "scans/a")
    scan = read(tmp_path / "scans/a")
    box, half = np.zeros((2, *scan.shape), np.uint8)
    box[BOX] = 1
    half[BOX[0], BOX[1], 1] = 1
    write_like(box, like=scan, path=tmp_path / "maps/a.nii.gz")
    write_like(box + half, like=scan, path=tmp_path / "two/a.nii.gz")
    (tmp_path / "seg").mkdir()
    segments = [Segment(n, array > 0, segment_code(n)) for n, array in (("liver", half), ("gtv", box))]
    write_seg(segments, like=scan, path=tmp_path / "seg/a.dcm")
    targets.save_contours(scan, {"GTV": (1, 2), "Liver": (1,), "skin": (0, 1, 2, 3)}, tmp_path / "rt/a.dcm")
    targets.save_contours(scan, {"PTV": (1, 2)}, tmp_path / "one/a.dcm")
    return scan


def dice_of(capsys: Capture, *words: str) -> dict[str, float]:
    assert main(["evaluate", *words, "--json"]) == 0, capsys.readouterr().err
    return {one["label"]: one["means"]["dice"]["mean"] for one in json.loads(capsys.readouterr().out)}


@pytest.mark.usefixtures("scan")
def test_structures_against_a_label_map(capsys: Capture) -> None:
    names = ["--labels", "1=gtv"]
    assert dice_of(capsys, "maps", "seg", *names) == {"gtv": 1.0}
    assert dice_of(capsys, "rt", "maps", *names) == {"gtv": 1.0}
    assert dice_of(capsys, "rt/a.dcm", "maps/a.nii.gz", *names, "--like", "scans/a") == {"gtv": 1.0}
    assert dice_of(capsys, "maps", "seg", "--labels", "1=liver") == {"liver": pytest.approx(2 / 3)}
    found = dice_of(capsys, "two", "rt", "--labels", "1=GTV,2=liver")
    assert found == {"GTV": pytest.approx(2 / 3), "liver": 1.0}


@pytest.mark.usefixtures("scan")
def test_a_single_structure_needs_no_name(capsys: Capture) -> None:
    assert dice_of(capsys, "maps", "one") == {"PTV": 1.0}
    assert dice_of(capsys, "maps", "one", "--labels", "1=tumor") == {"tumor": 1.0}


@pytest.mark.usefixtures("scan")
def test_dicom_against_dicom(capsys: Capture) -> None:
    found = dice_of(capsys, "seg", "rt", "--like", "scans")
    assert found == {"liver": 1.0, "gtv": 1.0, "skin": 0.0}
    assert dice_of(capsys, "seg", "rt", "--like", "scans", "--labels", "1=GTV") == {"GTV": 1.0}


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["seg", "rt"], 3, "both masks of case 'a' are DICOM, which name no grid"),
        (["maps", "rt"], 2, "structures have names (GTV, Liver, skin) and label maps have numbers (1)"),
        (["two", "one"], 2, "label maps have numbers (1, 2): one/a.dcm. Say which is which"),
        (["maps", "rt", "--labels", "1=livr"], 2, "no structure is called 'livr': rt/a.dcm. Did you mean 'L"),
        (["maps", "slices"], 3, "this DICOM file holds no masks: slices/a.dcm. Give a SEG or an RTSTRUCT"),
        (["seg", "rt", "--like", "scans/a/slice_0001.dcm"], 3, "several cases and one scan"),
        (["seg", "rt", "--like", "nowhere"], 3, "no such file or folder: nowhere"),
        (["both", "seg"], 3, "a.dcm and a.nii.gz would both be the case 'a': both"),
        (["small", "rt", "--labels", "1=gtv"], 3, "E310"),
        (["cut", "maps"], 3, "this DICOM file"),
    ],
)
def test_what_cannot_be_compared(
    scan: Volume, words: list[str], code: int, text: str, capsys: Capture
) -> None:
    Path("slices").mkdir()
    Path("slices/a.dcm").write_bytes(Path("scans/a/slice_0001.dcm").read_bytes())
    Path("cut").mkdir()
    Path("cut/a.dcm").write_bytes(Path("rt/a.dcm").read_bytes()[:700])
    Path("both").mkdir()
    Path("both/a.dcm").write_bytes(Path("seg/a.dcm").read_bytes())
    Path("both/a.nii.gz").write_bytes(Path("maps/a.nii.gz").read_bytes())
    few = Volume(scan.array[:, :, :1], scan.affine_ras_mm)
    write_like(np.ones(few.shape, np.uint8), like=few, path=Path("small/a.nii.gz"))
    assert main(["evaluate", *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
