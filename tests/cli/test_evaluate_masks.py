"""`latentseg evaluate PRED TRUTH` against cases worked out by hand, and `latentseg compare`."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.cli import main

Capture = pytest.CaptureFixture[str]
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, array: NDArray[np.uint8], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def empty() -> NDArray[np.uint8]:
    return np.zeros((10, 10, 4), np.uint8)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Case a: label 1 is a row of 4, of which 3 are found; label 2 missed. Case b: nothing true, 1 found."""
    truth, guess = empty(), empty()
    truth[1, 1:5, 1] = 1
    guess[1, 2:5, 1] = 1
    truth[6, 6, 2] = 2
    save(tmp_path / "truth" / "a.nii.gz", truth)
    save(tmp_path / "guess" / "a.nii.gz", guess)
    alarm = empty()
    alarm[0, 0, 0] = 1
    save(tmp_path / "truth" / "b.nii.gz", empty())
    save(tmp_path / "guess" / "b.nii.gz", alarm)
    monkeypatch.chdir(tmp_path)


def records(folder: str) -> dict[tuple[str, str], dict[str, str]]:
    with Path(folder, "cases.csv").open(encoding="utf-8") as file:
        return {(row["case"], row["label"]): row for row in csv.DictReader(file)}


@pytest.mark.usefixtures("folders")
def test_by_hand(capsys: Capture) -> None:
    assert main(["evaluate", "guess", "truth", "-o", "out"]) == 0
    assert "absent FPR %" in capsys.readouterr().out
    rows = records("out")
    assert set(rows) == {("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")}
    first = {name: float(value) for name, value in rows["a", "1"].items() if value.replace(".", "").isdigit()}
    assert first["dice"] == pytest.approx(6 / 7, abs=1e-5)
    assert first["iou"] == pytest.approx(3 / 4)
    assert first["nsd"] == 1.0
    assert first["hd95_mm"] == pytest.approx(0.85)  # distances 0, 0, 0 and 1 from the truth
    assert first["assd_mm"] == pytest.approx(1 / 7, abs=1e-5)
    assert first["volume_ml"] == pytest.approx(0.006)
    assert float(rows["a", "1"]["volume_error_ml"]) == pytest.approx(-0.002)
    assert float(rows["a", "1"]["relative_volume_error"]) == pytest.approx(-0.25)
    assert (first["lesion_f1"], first["panoptic_quality"]) == (1.0, 0.75)
    diagonal = math.hypot(10, 10, 8)
    missed = rows["a", "2"]
    assert (missed["dice"], missed["nsd"], missed["lesion_f1"]) == ("0", "0", "0")
    assert float(missed["hd95_mm"]) == pytest.approx(diagonal, abs=1e-3)
    alarm, right = rows["b", "1"], rows["b", "2"]
    assert (alarm["dice"], alarm["present"], alarm["predicted"]) == ("0", "False", "True")
    assert alarm["relative_volume_error"] == ""
    assert (right["dice"], right["nsd"], right["assd_mm"], right["panoptic_quality"]) == ("1", "1", "0", "1")
    summaries = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["summaries"]
    one = next(summary for summary in summaries if summary["label"] == "1")
    assert (one["present"], one["absent"], one["absent_fpr"]) == (1, 1, 1.0)
    assert one["present_dice"] == pytest.approx(6 / 7)
    assert one["means"]["dice"]["mean"] == pytest.approx(3 / 7)
    assert Path("out/table.md").read_text(encoding="utf-8").startswith("| label |")


@pytest.mark.usefixtures("folders")
def test_two_files_and_names(capsys: Capture) -> None:
    words = ["evaluate", "masks", "guess/b.nii.gz", "truth/a.nii.gz", "--labels", "1=liver,2=tumor", "--json"]
    assert main(words) == 0
    summaries = json.loads(capsys.readouterr().out)
    assert [summary["label"] for summary in summaries] == ["liver", "tumor"]
    Path("dataset.json").write_text('{"labels": {"background": 0, "liver": 1, "tumor": 2}}', encoding="utf-8")
    assert main(["evaluate", "guess", "truth", "--labels", "dataset.json"]) == 0
    assert "tumor" in capsys.readouterr().out


@pytest.mark.usefixtures("folders")
def test_options_change_the_metrics() -> None:
    words = ["evaluate", "--tolerance-mm", "0.5", "--lesion-iou", "0.8", "guess", "truth", "-o", "strict"]
    assert main(words) == 0
    row = records("strict")["a", "1"]
    assert float(row["nsd"]) == pytest.approx(6 / 7, abs=1e-5)
    assert row["lesion_f1"] == "0"


@pytest.mark.usefixtures("folders")
def test_predictions_without_truth_are_told(capsys: Capture) -> None:
    save(Path("guess/c.nii.gz"), empty())
    assert main(["evaluate", "guess", "truth"]) == 0
    assert "warning: 1 predictions have no truth: c" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["nowhere", "truth"], 3, "no such file or folder: nowhere"),
        (["guess", "truth/a.nii.gz"], 3, "one is a folder and the other a file"),
        (["truth", "guess"], 3, "predictions are missing for 1 of 2 cases (b)"),
        (["guess", "nothing"], 3, "no label maps: nothing"),
        (["other", "truth"], 3, "E310 prediction and truth are on different grids"),
        (["blank", "blank"], 3, "no label map holds a label"),
        (["guess", "truth", "--labels", "1=liver"], 3, "unknown label ids 2"),
        (["guess", "truth", "--labels", "liver"], 2, "unknown labels 'liver': --labels"),
        (["guess", "truth", "--labels", "x.json"], 3, "no such file"),
        (["guess", "truth", "--tolerance-mm", "-1"], 2, "Invalid value for '--tolerance-mm'"),
        (["guess", "truth", "-o", "truth/a.nii.gz/x"], 3, "a file is in the way"),
        (["guess"], 2, "Missing argument 'truth'"),
        (["fewshto"], 2, "no such command 'fewshto'. Did you mean 'fewshot'?"),
    ],
)
@pytest.mark.usefixtures("folders")
def test_bad_arguments(words: list[str], code: int, text: str, capsys: Capture) -> None:
    if words[:2] == ["truth", "guess"]:
        Path("truth/b.nii.gz").unlink()
    Path("nothing").mkdir()
    save(Path("blank/a.nii.gz"), empty())
    for case in ("a", "b"):
        save(Path(f"other/{case}.nii.gz"), empty()[:, :, :3])
    assert main(["evaluate", *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


HEADER = "protocol,dataset,fold,case,organ,method,shots,weights,dice,hd95_mm,presence"
RUN_A = """
EP1,CHAOS,0,1,liver,net,1,w1,0.8,10,0.9
EP1,CHAOS,0,2,liver,net,1,w1,0.6,20,0.8
EP1,CHAOS,0,1,spleen,net,1,w1,0.5,30,
EP1,CHAOS,0,1,liver,copy,1,,0.4,30,0.9
"""
RUN_B = """
EP1,CHAOS,0,1,liver,net,5,w2,0.7,10,0.9
EP1,CHAOS,0,2,liver,net,5,w2,0.7,40,0.9
EP1,CHAOS,0,1,spleen,net,5,w2,0.1,10,
EP1,CHAOS,0,8,liver,net,5,w2,0.1,10,
EP1,CHAOS,0,1,liver,copy,5,,0.4,30,0.9
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, body in (("a", RUN_A), ("b", RUN_B)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cases.csv").write_text(HEADER + body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("runs")
def test_runs_are_compared_pair_by_pair(capsys: Capture) -> None:
    assert main(["compare", "a", "b", "--json", "-o", "pairs.csv"]) == 0
    found = {(one["group"], one["metric"]): one for one in json.loads(capsys.readouterr().out)}
    liver = found["net, liver", "dice"]
    assert (liver["mean_a"], liver["mean_b"]) == (pytest.approx(0.7), pytest.approx(0.7))
    assert liver["difference"]["mean"] == pytest.approx(0.0)
    assert liver["difference"]["low"] == pytest.approx(-0.1)
    assert (liver["better"], liver["pairs"]) == (0.5, 2)
    assert found["net, liver", "hd95_mm"]["better"] == 0.75  # less is better; one tie
    whole = found["net, all", "dice"]
    assert (whole["pairs"], whole["difference"]["patients"]) == (3, 2)
    assert whole["difference"]["mean"] == pytest.approx((0.25 - 0.1) / 2)
    assert found["copy, all", "dice"]["difference"]["mean"] == 0
    assert ("net, spleen", "presence") not in found
    lines = list(csv.DictReader(Path("pairs.csv").read_text(encoding="utf-8").splitlines()))
    assert len(lines) == 4
    assert float(lines[0]["dice_difference"]) == pytest.approx(0.1)
    assert main(["compare", "a", "b"]) == 0
    captured = capsys.readouterr()
    assert "A better %" in captured.out
    assert "without a partner: 0 rows of A, 1 of B" in captured.err


@pytest.mark.usefixtures("runs")
def test_two_methods_of_one_run(capsys: Capture) -> None:
    assert main(["compare", "a", "a/cases.csv", "--a", "method=net", "--b", "method=copy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["group"] == "all"
    assert found[0]["difference"]["mean"] == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["a", "nowhere"], 3, "no cases.csv can be read: nowhere"),
        (["a", "table.csv"], 3, "this is no table of cases"),
        (["a", "b", "--a", "method"], 2, "unknown filter 'method'"),
        (
            ["a", "b", "--a", "method=nett"],
            2,
            "no rows with method=nett: a/cases.csv. Choose from copy, net.",
        ),
        (["a", "b", "--b", "color=red"], 2, "Columns are dataset, fold"),
        (["a", "a", "--a", "method=net", "--b", "case=8"], 2, "no rows with case=8"),
        (["a", "b", "--a", "case=2", "--b", "case=8"], 3, "no row of one run has a partner"),
        (["a", "twice.csv"], 2, "case 1 is there twice (differing in nothing)"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_bad_comparisons(words: list[str], code: int, text: str, capsys: Capture) -> None:
    Path("table.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    Path("twice.csv").write_text(HEADER + RUN_A + RUN_A.strip().splitlines()[0], encoding="utf-8")
    assert main(["compare", *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1


@pytest.mark.usefixtures("folders")
def test_evaluations_of_label_maps_can_be_compared(capsys: Capture) -> None:
    assert main(["evaluate", "guess", "truth", "-o", "ours"]) == 0
    assert main(["evaluate", "truth", "truth", "-o", "best"]) == 0
    capsys.readouterr()
    assert main(["compare", "ours", "best", "--json"]) == 0
    found = {(one["group"], one["metric"]): one for one in json.loads(capsys.readouterr().out)}
    assert found["1", "dice"]["difference"]["mean"] == pytest.approx((6 / 7 - 1 + 0 - 1) / 2, abs=1e-5)
    assert found["1", "lesion_f1"]["better"] == 0.25
