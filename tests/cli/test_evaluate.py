"""`latentseg evaluate fewshot`, `merge`, `prepare` and `split` on trees of phantoms."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from latentseg.cli import main
from latentseg.evaluation import protocols
from latentseg.evaluation.datasets import SABS
from latentseg.evaluation.registration import Registration
from latentseg.imaging import write_like
from latentseg.phantom.bodies import abdomen

Capture = pytest.CaptureFixture[str]
QUICK = ["--queries", "1", "--organs", "liver,spleen", "--methods", "copy"]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fold 0 of SABS, played by one phantom."""
    phantom = abdomen(seed=3, shape=(48, 48, 8))
    labels = np.select([phantom.labels.array == n for n in (1, 2, 3, 4)], [6, 2, 3, 1], 0).astype(np.uint8)
    for position in SABS.folds[0]:
        case = SABS.ids[position]
        path = tmp_path / "data" / "sabs" / f"image_{case}.nii.gz"
        write_like(phantom.image.array, like=phantom.image, path=path, kind="image")
        write_like(labels, like=phantom.labels, path=path.with_name(f"label_{case}.nii.gz"))
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def cases(folder: str) -> list[dict[str, str]]:
    with Path(folder, "cases.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("data")
def test_tables(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setattr(Registration, "_carry", lambda self, image, mask, query: mask.astype(np.float32))
    words = ["--backbone", str(tiny_model), "--queries", "2", "-o", "tables"]
    assert main(["evaluate", "fewshot", *words]) == 0
    captured = capsys.readouterr()
    methods = ("SD-FSMIS (compact)", "prototype matching", "support mask copied", "support mask registered")
    assert all(name in captured.out for name in methods)
    assert "reported by the authors" in captured.out
    assert "nothing says which scans these weights were trained on" in captured.err
    rows = cases("tables")
    assert len(rows) == 2 * 4 * 7
    copies = [float(row["dice"]) for row in rows if "copied" in row["method"]]
    assert min(copies) > 0.2  # the same patient, three support slices
    assert {row["weights"] != "" for row in rows if "SD-FSMIS" in row["method"]} == {True}
    about = json.loads(Path("tables/results.json").read_text(encoding="utf-8"))["about"]
    assert set(about) >= {"date", "version", "weights", "queries"}
    page = Path("tables/table.md").read_text(encoding="utf-8")
    assert "## Surfaces" in page
    assert "(reported by the authors)" in page


@pytest.mark.usefixtures("data")
def test_whole_volumes_with_shots(tiny_model: Path, capsys: Capture) -> None:
    words = ["--protocol", "EP2", "--shots", "2", "--queries", "1", "--organs", "liver"]
    words += ["--methods", "fewshot,copy", "--support-slices", "3", "--backbone", str(tiny_model)]
    assert main(["evaluate", "fewshot", *words, "--support-mode", "joint"]) == 0
    assert "false-positive" in capsys.readouterr().out
    rows = cases("evaluation")
    assert [row["support_case"] for row in rows] == ["2 3", "2 3"]
    assert {row["absent_found"] for row in rows} <= {"True", "False", ""}
    assert all(row["slices"] == "8" for row in rows)


@pytest.mark.usefixtures("data")
def test_a_killed_run_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    loaded: list[str] = []
    load = SABS.__class__.load

    def watched(self: object, case: str) -> object:
        loaded.append(case)
        if loaded.count("3") == 1 and case == "3":
            raise KeyboardInterrupt
        return load(self, case)  # type: ignore[arg-type]

    monkeypatch.setattr(SABS.__class__, "load", watched)
    words = ["evaluate", "fewshot", "--organs", "liver", "--methods", "copy"]
    assert main(words) == 130
    assert len(Path("evaluation/cases.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    with Path("evaluation/cases.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"protocol": "EP1", "dat')  # killed while it wrote
    loaded.clear()
    loaded.append("3")
    assert main(words) == 0
    assert loaded == ["3", "2", "3", "4", "5", "6"]  # the support, and the queries that were missing
    assert len(cases("evaluation")) == 6
    capsys.readouterr()
    assert main(words) == 0  # nothing left to do, the table is there again
    assert "written to evaluation" in capsys.readouterr().out


@pytest.mark.usefixtures("data")
def test_another_run_in_the_folder_is_refused(tiny_model: Path, capsys: Capture) -> None:
    assert main(["evaluate", "fewshot", *QUICK]) == 0
    words = ["evaluate", "fewshot", *QUICK, "--methods", "fewshot", "--backbone", str(tiny_model)]
    assert main(words) == 2
    assert "this folder holds a run with weights ''" in capsys.readouterr().err
    assert main([*words, "--restart"]) == 0
    assert {row["method"] for row in cases("evaluation")} == {"SD-FSMIS (compact)"}


@pytest.mark.usefixtures("data")
def test_runs_are_put_together(capsys: Capture) -> None:
    one = ["evaluate", "fewshot", "--queries", "1", "--methods", "copy"]
    assert main([*one, "--organs", "liver", "-o", "a"]) == 0
    assert main([*one, "--organs", "spleen", "-o", "b"]) == 0
    assert main(["evaluate", "merge", "a", "b", "a", "-o", "both"]) == 0
    assert [row["organ"] for row in cases("both")] == ["liver", "spleen"]
    capsys.readouterr()
    assert main(["evaluate", "merge", "data"]) == 3
    assert "there is no run here" in capsys.readouterr().err
    text = Path("b/cases.jsonl").read_text(encoding="utf-8").replace('"spleen"', '"liver"')
    Path("b/cases.jsonl").write_text(text, encoding="utf-8")
    assert main(["evaluate", "merge", "a", "b"]) == 2
    assert "two results of SABS 0 liver" in capsys.readouterr().err


@pytest.mark.usefixtures("data")
def test_seen_scans_are_marked(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    from latentseg.evaluation import training_data

    monkeypatch.setattr(training_data, "trained_on", lambda folder: ["SABS cases 0-1"])
    words = ["--queries", "2", "--organs", "liver", "--methods", "fewshot,copy"]
    assert main(["evaluate", "fewshot", *words, "--backbone", str(tiny_model)]) == 0
    assert "SD-FSMIS (compact) †" in capsys.readouterr().out
    assert {(row["method"], row["seen"]) for row in cases("evaluation")} == {
        ("SD-FSMIS (compact)", "True"),
        ("support mask copied", "False"),
    }


def test_split(data: Path, capsys: Capture) -> None:
    del data
    words = ["--fold", "1", "--setting", "2-corrected", "--group", "upper"]
    assert main(["evaluate", "split", "SABS", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["slices"]) == {"0", "1", "2", "3", "4", "5"}  # case 6 is a test patient of fold 1
    assert len(found["missing"]) == 17
    assert main(["evaluate", "split", "SABS", "--setting", "2-corrected"]) == 2
    assert "no group '' of organs" in capsys.readouterr().err


def test_prepare(data: Path, capsys: Capture) -> None:
    raw = data / "raw" / "Training"
    for number in (1, 2):
        for kind, source in (("img", "image"), ("label", "label")):
            path = raw / kind / f"{kind}{number:04d}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes((data / "sabs" / f"{source}_0.nii.gz").read_bytes())
    assert main(["evaluate", "prepare", "SABS", str(data / "raw"), "-o", "made"]) == 3
    assert "48" in capsys.readouterr().err  # nothing is left of 48 pixels without their border
    assert main(["evaluate", "prepare", "SABS", str(data / "sabs"), "-o", "made"]) == 3
    assert "no case of SABS as downloaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--folds", "a"], 2, "E200 unknown folds 'a': --folds. Give numbers such as 0,1, or all."),
        (["--folds", "9"], 2, "E200 no fold 9: SABS."),
        (["--folds", "0,1"], 3, "fold 1 lacks"),
        (["--folds", "all"], 3, "fold 1 lacks"),
        (["--dataset", "BRATS"], 2, "no data set 'BRATS'"),
        (["--dataset", "ACDC", "--setting", "cross-domain"], 2, "no folds here: ACDC"),
        (["--support-index", "8"], 2, "no support scan 8"),
        (["--protocol", "EP3"], 2, "unknown protocol 'EP3': --protocol. Choose from ep1, ep2"),
        (["--setting", "3"], 2, "unknown setting '3': --setting. Choose from 1, 2"),
        (["--shots", "6"], 2, "Invalid value for '--shots'"),
        (["--organs", "toe"], 2, "no organ 'toe': SABS"),
        (["--organs", "pancreas", "--support-dataset", "CHAOS"], 3, "CHAOS: fold 0 lacks"),
        (["--methods", "magic"], 2, "unknown methods 'magic': --methods"),
        (["--methods", ""], 2, "no methods: --methods"),
        (
            ["--organs", "gallbladder", "--methods", "copy", "-o", "x"],
            3,
            "the support scan has no gallbladder",
        ),
        (["-o", "data/sabs/image_0.nii.gz/x"], 3, "a file is in the way"),
        (["--backbone", "compct"], 4, "unknown model"),
    ],
)
@pytest.mark.usefixtures("data")
def test_bad_arguments(words: list[str], code: int, text: str, tiny_model: Path, capsys: Capture) -> None:
    assert main(["evaluate", "fewshot", "--backbone", str(tiny_model), *words]) == code
    error = capsys.readouterr().err
    assert text in error
    assert error.count("\n") == 1
    assert not Path("evaluation").exists()


def test_bad_cases_name_the_file(data: Path, capsys: Capture) -> None:
    whole = np.asarray(abdomen(seed=3, shape=(48, 48, 8)).labels.array)
    phantom = abdomen(seed=3, shape=(48, 48, 7))
    write_like(phantom.labels.array, like=phantom.labels, path=data / "sabs" / "label_0.nii.gz")
    assert main(["evaluate", "fewshot", *QUICK]) == 3
    assert "different grids" in capsys.readouterr().err
    like = abdomen(seed=3, shape=(48, 48, 8)).labels
    write_like(np.where(whole > 0, 99, 0), like=like, path=data / "sabs" / "label_0.nii.gz")
    assert main(["evaluate", "fewshot", *QUICK]) == 3
    error = capsys.readouterr().err
    assert "unknown label ids 99" in error
    assert "label_0.nii.gz" in error


def test_nnunet_folders_are_data_sets(data: Path, capsys: Capture) -> None:
    folder = data / "Dataset007_Toy"
    for number in range(3):
        for kind, name, source in (
            ("imagesTr", f"c{number}_0000", "image"),
            ("labelsTr", f"c{number}", "label"),
        ):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            content = (data / "sabs" / f"{source}_0.nii.gz").read_bytes()
            (folder / kind / f"{name}.nii.gz").write_bytes(content)
    names = {"background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}
    (folder / "dataset.json").write_text(
        json.dumps({"labels": names, "channel_names": {"0": "CT"}}), encoding="utf-8"
    )
    words = ["--dataset", str(folder), "--methods", "copy", "--organs", "liver"]
    assert main(["evaluate", "fewshot", *words]) == 0
    assert "Dataset007_Toy, fold 0" in capsys.readouterr().out
    assert [row["case"] for row in cases("evaluation")] == ["c0", "c1"]
    assert protocols.EP1.name == "EP1"
