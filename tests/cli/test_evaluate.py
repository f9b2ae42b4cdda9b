"""`latentseg evaluate fewshot`: tables on a tree of phantoms, and bad arguments before the work."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from latentseg.cli import main
from latentseg.evaluation.datasets import SABS
from latentseg.imaging import write_like
from latentseg.imaging.phantom import abdomen

Capture = pytest.CaptureFixture[str]


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


@pytest.mark.usefixtures("data")
def test_tables(tiny_model: Path, capsys: Capture) -> None:
    assert main(["evaluate", "fewshot", "--backbone", str(tiny_model), "-o", "tables"]) == 0
    captured = capsys.readouterr()
    methods = ("SD-FSMIS (compact)", "prototype matching", "support mask copied")
    assert all(name in captured.out.lower() for name in map(str.lower, methods))
    with Path("tables/cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 4 * 3
    copies = [float(row["dice"]) for row in rows if "copied" in row["method"]]
    assert min(copies) > 0.2  # the same patient, three support slices
    about = json.loads(Path("tables/results.json").read_text())["about"]
    assert set(about) >= {"date", "version", "weights"}
    assert Path("tables/table.md").exists()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--folds", "a"], 2, "E200 unknown folds 'a': --folds. Give numbers such as 0,1."),
        (["--folds", "9"], 2, "E200 no fold 9: SABS."),
        (["--folds", "0,1"], 3, "fold 1 lacks"),
        (["--dataset", "ACDC"], 2, "no data set 'ACDC'"),
        (["--support-index", "8"], 2, "no support scan 8"),
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
