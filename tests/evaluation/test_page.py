"""The page: our rows, published rows marked as such, and tables that have something to say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latentseg.evaluation.datasets import CHAOS, MS_CMRSEG, SABS
from latentseg.evaluation.page import page, sections
from latentseg.evaluation.published import MARK, published_rows, source_of
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import summarize

ONE = Row("EP1", "CHAOS", 0, "1", "CHAOS", 2, "3", "liver", "ours", 7, 50, 25, 25, 0.01, nsd=0.5, hd95_mm=8.0)


def test_published_rows_stand_beside_ours_and_are_marked() -> None:
    text = page(summarize([ONE]), about={"date": "2026-11-21"})
    assert "* date: 2026-11-21" in text
    ours, theirs = (next(line for line in text.splitlines() if name in line) for name in ("ours", "GMRD,"))
    assert ours.startswith("| EP1: CHAOS, fold 0 | CHAOS, index 2 | ours | 66.7 | 66.7 |")
    assert theirs.startswith(f"| EP1 setting 1: CHAOS, all folds | CHAOS | GMRD, TMI 2024 ({MARK}) |")
    assert theirs.endswith("| 81.4 | 82.9 | – | – | – | – |")
    assert "GMRD, CHAOS: reproduced by others at 79.63." in text
    assert "README of FoB_SAM" in text
    tables = [[line for line in part.splitlines() if line.startswith("|")] for part in text.split("## ")[1:]]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, protocol="EP2"),
        replace(ONE, shots=5),
        replace(ONE, support_dataset="SABS"),
        replace(ONE, dataset="TOY", support_dataset="TOY"),
    ],
)
def test_what_nobody_published_has_no_rows_beside_it(other: Row) -> None:
    assert MARK not in page(summarize([other]), about={})


def test_every_published_row_names_its_source_and_known_organs() -> None:
    known = {dataset.name: dataset for dataset in (CHAOS, SABS, MS_CMRSEG)}
    count = unknown = 0
    for name, dataset in known.items():
        for setting in ("1", "2", "cross-domain"):
            for row in published_rows(name, setting=setting):
                count += 1
                assert source_of(row)
                assert set(row.dice) <= set(dataset.label_of)
                if row.mean is None and not row.dice:
                    unknown += 1
                    assert row.note.startswith("unknown")
                if row.mean is not None and row.dice and "not that of" not in row.note:
                    assert row.mean == pytest.approx(sum(row.dice.values()) / len(row.dice), abs=0.06), row
    assert (count, unknown) == (101, 7)


def test_the_published_rows_are_those_of_the_sources() -> None:
    rows = {row.method: row for row in published_rows("SABS", setting="cross-domain")}
    assert rows["FAMNet"].dice == {
        "liver": 73.57,
        "left_kidney": 57.79,
        "right_kidney": 61.89,
        "spleen": 65.78,
    }
    assert {row.method: row.mean for row in published_rows("CHAOS", setting="1")}["SD-FSMIS"] == 83.16
    assert published_rows("CHAOS", setting="2-corrected") == published_rows("CHAOS", setting="2")


def test_folds_have_a_table_and_a_spread() -> None:
    rows = [ONE, replace(ONE, fold=1, case="8", both=100, only_prediction=0, only_truth=0)]
    (summary,) = summarize(rows)
    assert summary.fold_dice == {0: {"liver": 2 / 3, "mean": 2 / 3}, 1: {"liver": 1.0, "mean": 1.0}}
    assert summary.fold_spread == pytest.approx((1 / 3) / 2**0.5)
    text = page([summary], about={})
    assert "| 83.3 ± 23.6 |" in text
    assert "| ours | 1 | 100.0 | 100.0 |" in text
    assert "Folds" not in [section.title for section in sections(summarize([ONE]))]


def test_absence_by_hand() -> None:
    present = replace(
        ONE, protocol="EP2", presence=0.8, absent_presence=0.4, absent_found=True, slice_auroc=0.75
    )
    rows = [
        replace(present, absent_slices=10, false_slices=4, false_voxels=15),
        replace(
            present,
            case="2",
            presence=0.6,
            absent_presence=0.7,
            absent_found=True,
            absent_slices=10,
            false_voxels=0,
        ),
        replace(present, case="5", presence=None, absent_presence=0.1, absent_found=False, slice_auroc=None),
    ]
    (summary,) = summarize(rows)
    assert summary.absence is not None
    assert summary.absence.slice_fpr == pytest.approx(0.2)
    assert (summary.absence.volume, summary.absence.median_volume) == pytest.approx((0.1, 0.1))
    assert summary.absence.slice_auroc == 0.75
    assert summary.absence.scan_fpr == pytest.approx(2 / 3)
    assert summary.absence.scan_auroc == pytest.approx((3 + 2) / 6)  # 0.8 beats all, 0.6 beats 0.4 and 0.1
    assert summary.absence.scans == 3
    assert "| 20.0 | 10.0 | 10.0 | 0.750 | 66.7 | 0.833 | 3 |" in page([summary], about={})


def test_surfaces_and_missed_organs() -> None:
    rows = [ONE, replace(ONE, case="2", both=0, only_prediction=0, only_truth=9, nsd=0.0, hd95_mm=400.0)]
    (summary,) = summarize(rows)
    assert summary.missed == 1
    assert summary.metrics["hd95_mm"].mean == 204.0
    assert "| 25.0 (0.0–50.0) | 204.0 (8.0–400.0) |" in page([summary], about={})


def test_scans_seen_in_training_are_marked() -> None:
    text = page(summarize([replace(ONE, seen=True)]), about={})
    assert "| ours † |" in text
    assert "trained on 1 of the query scans" in text
