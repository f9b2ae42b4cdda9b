"""Rows, summaries and the three files made of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from latentseg.errors import InputError
from latentseg.evaluation.output import write_tables
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import markdown_table, summarize, table_cells


def row(case: str, organ: str, counts: tuple[int, int, int], *, method: str = "copy", fold: int = 0) -> Row:
    both, only_prediction, only_truth = counts
    return Row(
        "EP1", "TOY", fold, case, "TOY", 2, "2", organ, method, 7, both, only_prediction, only_truth, 0.01
    )


ROWS = [
    row("0", "liver", (50, 25, 25)),  # Dice 100/150
    row("1", "liver", (10, 0, 0)),  # Dice 1
    row("0", "left_kidney", (0, 5, 5)),  # Dice 0
    row("1", "left_kidney", (5, 5, 5)),  # Dice 0.5
]


def test_summary_by_hand() -> None:
    (summary,) = summarize(ROWS)
    assert summary.organ_dice == pytest.approx({"liver": 5 / 6, "left_kidney": 0.25})
    assert summary.mean.mean == pytest.approx((1 / 3 + 0.75) / 2)
    assert summary.mean.patients == 2
    assert summary.pooled_dice == pytest.approx((120 / 170 + 10 / 30) / 2)


def test_a_patient_of_two_folds_counts_once() -> None:
    rows = [row("0", "liver", (1, 0, 0)), row("0", "liver", (0, 1, 1), fold=1), row("1", "liver", (1, 0, 0))]
    (summary,) = summarize(rows)
    assert summary.folds == (0, 1)
    assert summary.organ_dice["liver"] == pytest.approx(0.75)
    assert summary.mean.patients == 2


def test_methods_stand_in_their_own_lines() -> None:
    summaries = summarize([*ROWS, row("0", "liver", (1, 0, 0), method="other")])
    text = markdown_table(*table_cells(summaries), texts=3)
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(
        "| query | support | method | liver | left kidney | mean | 95 % interval | folds |"
    )
    assert lines[2].startswith("| EP1: TOY, fold 0 | TOY, index 2 |")
    assert "| copy | 83.3 | 25.0 | 54.2 |" in lines[2]
    assert "| other | 100.0 | – | 100.0 |" in lines[3]
    assert len({line.count("|") for line in lines}) == 1


def test_csv_has_one_line_per_case(tmp_path: Path) -> None:
    write_tables(ROWS, folder=tmp_path)
    with (tmp_path / "cases.csv").open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert [float(record["dice"]) for record in records] == pytest.approx([2 / 3, 1, 0, 0.5], abs=1e-5)
    assert float(records[0]["volume_ml"]) == pytest.approx(0.75)
    assert float(records[0]["truth_volume_ml"]) == pytest.approx(0.75)


def test_files(tmp_path: Path) -> None:
    write_tables(ROWS, folder=tmp_path / "new", about={"seed": 3})
    results = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert results["about"] == {"seed": 3}
    assert len(results["cases"]) == 4
    assert results["summaries"][0]["mean"]["patients"] == 2
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["cases.csv", "results.json", "table.md"]


def test_nothing_to_tabulate() -> None:
    with pytest.raises(InputError, match="no result"):
        table_cells([])


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        write_tables(ROWS, folder=tmp_path / "file")
