"""`latentseg batch`: from a folder of scans to masks and tables."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import nibabel as nib
import pytest

from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.imaging.phantom import Phantom, abdomen

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cohort(tmp_path: Path, shown: Phantom, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`in/` with two scans and a file that is none, `ex.nii.gz` and its `ex_mask.nii.gz`."""
    for number in range(2):
        scan = abdomen(seed=number + 1, shape=(60, 64, 6)).image
        write_like(scan.array, like=scan, path=tmp_path / f"in/ct{number}.nii.gz", kind="image")
    write_like(shown.image.array, like=shown.image, path=tmp_path / "ex.nii.gz", kind="image")
    write_like(shown.labels.array == 1, like=shown.image, path=tmp_path / "ex_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def line(model: Path, *words: str) -> list[str]:
    return ["batch", "in", "-s", "ex.nii.gz,ex_mask.nii.gz", "--backbone", str(model), "-o", "out", *words]


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_becomes_masks_and_a_table(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model)) == 0
    assert "2 done" in capsys.readouterr().out
    rows = rows_of("out/cases.csv")
    assert {row["case"] for row in rows} == {"ct0", "ct1"}
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows_of("out/failures.csv") == []
    for case in ("ct0", "ct1"):
        names = {path.name for path in Path("out", case).iterdir()}
        mask = f"{case}_seg-ex_mask.nii.gz"
        expected = {mask, f"{case}_prob-ex_mask.nii.gz", f"{case}_preview-ex_mask.png"}
        assert names == expected | {f"{case}_stats.json", f"{case}_case.json"}
        written, scan = nib.load(f"out/{case}/{mask}"), nib.load(f"in/{case}.nii.gz")
        assert written.affine.tobytes() == scan.affine.tobytes()
    assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]


def test_the_same_masks_as_one_by_one(cohort: Path, tiny_model: Path) -> None:
    assert main(line(tiny_model)) == 0
    for case in ("ct0", "ct1"):
        words = ["segment", f"in/{case}.nii.gz", "-s", "ex.nii.gz,ex_mask.nii.gz"]
        assert main([*words, "--backbone", str(tiny_model), "-o", "single"]) == 0
        for kind in ("seg", "prob"):
            name = f"{case}/{case}_{kind}-ex_mask.nii.gz"
            assert Path("single", name).read_bytes() == Path("out", name).read_bytes()


def test_a_bad_scan_stops_no_other(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    (cohort / "ct1.nii.gz").write_bytes((cohort / "ct1.nii.gz").read_bytes()[:500])
    shutil.copy(cohort / "ct0.nii.gz", cohort / "ct2.nii.gz")
    assert main(line(tiny_model)) == 6
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0].startswith("ct1: E300 this NIfTI file is truncated or damaged")
    assert captured.err.splitlines()[1].startswith("E600 1 of 3 cases failed: out/failures.csv. Correct")
    assert {row["case"] for row in rows_of("out/cases.csv")} == {"ct0", "ct2"}
    (failure,) = rows_of("out/failures.csv")
    assert (failure["case"], failure["code"]) == ("ct1", "E300")


def test_resume_keeps_what_is_finished(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model)) == 0
    assert main(line(tiny_model)) == 2
    assert "case 'ct0' is finished already: out. Give --resume" in capsys.readouterr().err
    assert main(line(tiny_model, "--resume")) == 0
    assert "0 done, 2 kept, 0 failed" in capsys.readouterr().out
