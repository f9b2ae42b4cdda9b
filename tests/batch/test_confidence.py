"""Confidence of one result, and the order in which results should be looked at."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.batch.confidence import Confidence, confidence, entropy_bits
from latentseg.batch.manifest import cases_csv, failures_csv, review_list
from latentseg.batch.store import Record
from latentseg.imaging import Volume
from latentseg.methods.results import Segmentation

SURE = Confidence(presence=1.0, uncertainty=0.1, worst_slice=3, slice_axis="K", touches_border=False)


def result(
    chance: NDArray[np.float32], *, presence: float = 1.0, affine: NDArray[np.float64]
) -> Segmentation:
    scan = Volume(np.zeros(chance.shape, np.int16), affine)
    return Segmentation("liver", scan, chance >= 0.5, chance, presence)


def test_entropy_of_a_probability() -> None:
    p = np.array([0.0, 0.5, 1.0, 0.11], np.float32)
    assert entropy_bits(p) == pytest.approx([0, 1, 0, 0.4999], abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_worst_slice_is_counted_in_the_file(axis: int) -> None:
    """Whatever axis of the array runs from inferior to superior, the index is that of the file."""
    chance = np.zeros((5, 6, 7), np.float32)
    line = np.moveaxis(chance, axis, -1)[2, 2]
    line[:] = 0.95
    line[4] = 0.6
    world = np.zeros((3, 3))
    others = [other for other in range(3) if other != axis]
    world[2, axis], world[0, others[0]], world[1, others[1]] = -1.0, 1.0, 1.0
    affine = np.eye(4)
    affine[:3, :3] = world
    seen = confidence(result(chance, affine=affine))
    assert (seen.slice_axis, seen.worst_slice) == ("IJK"[axis], 4)


def test_a_scan_without_the_target() -> None:
    seen = confidence(result(np.zeros((4, 4, 4), np.float32), presence=0.02, affine=np.eye(4)))
    assert seen == Confidence(0.02, 0.0, -1, "K", False)
    assert seen.why == ""


def test_certain_and_uncertain_masks() -> None:
    chance = np.zeros((6, 6, 6), np.float32)
    chance[2:4, 2:4, 2:4] = 0.999
    sure = confidence(result(chance, affine=np.eye(4)))
    chance[2:4, 2:4, 2:4] = 0.55
    unsure = confidence(result(chance, affine=np.eye(4)))
    assert sure.uncertainty < 0.02
    assert unsure.uncertainty > 0.98
    assert unsure.review > sure.review
    assert unsure.why == "uncertain, worst in slice 2"


@pytest.mark.parametrize(
    ("presence", "border", "why"),
    [(0.5, False, "presence 0.50"), (0.9, True, "touches the border"), (0.05, False, "")],
)
def test_reasons_to_look(presence: float, border: bool, why: str) -> None:
    assert Confidence(presence, 0.1, 3, "K", border).why == why


def record(case: str, *, presence: float = 1.0, error: dict[str, str] | None = None) -> Record:
    row = {"target": "liver", "absent": False, "presence": presence, "uncertainty": 0.1, "worst_slice": 3}
    row |= {"slice_axis": "K", "touches_border": False, "volume_ml": 1.0, "components": 1}
    return Record(case, f"{case}.nii.gz", targets=() if error else (row,), error=error)


def test_look_at_these_first() -> None:
    rows = review_list([record("a"), record("b", presence=0.5), record("c", presence=0.8), record("d")])
    assert [(row["rank"], row["case"]) for row in rows] == [(1, "b"), (2, "c"), (3, "a"), (4, "d")]
    assert [row["why"] for row in rows] == ["presence 0.50", "", "", ""]


def test_tables() -> None:
    records = [record("a"), record("b", error={"code": "E300", "what": "bad", "where": "b", "fix": "mend"})]
    assert cases_csv(records).splitlines()[1] == "1,a,liver,,0.1,False,1,0.1,3,K,False,1,1,,,,,,,,,,,a.nii.gz"
    assert failures_csv(records).splitlines()[1:] == ["b,E300,bad,b,mend,b.nii.gz"]
