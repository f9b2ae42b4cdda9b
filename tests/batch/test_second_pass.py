"""A second pass over a cohort: which results become examples, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentseg.batch.cases import Case, find_cases
from latentseg.batch.runner import BatchOptions
from latentseg.batch.second_pass import FIRST, MOST, run_twice, surest
from latentseg.batch.store import Record
from latentseg.batch.work import Task
from latentseg.errors import UsageError
from latentseg.imaging import read_labels
from latentseg.methods.fewshot.support import Support
from latentseg.phantom.bodies import abdomen


@pytest.fixture
def bone() -> Support:
    """Bright voxels of a phantom."""
    shown = abdomen(seed=9, shape=(24, 24, 4)).image
    return Support.from_volumes(shown, (shown.array > 100).astype(np.uint8), name="bone")


@pytest.fixture
def shown(cohorts: SimpleNamespace, bone: Support) -> tuple[Task, list[Support]]:
    """A method that is shown examples, and the supports that it encoded."""
    encoded: list[Support] = []

    class Shown(cohorts.Threshold):  # type: ignore[misc, name-defined]
        def encode(self, target: Support) -> str:
            encoded.append(target)
            return target.name

    return Task(Shown(), (bone,), "weights-1"), encoded


def test_results_become_examples(
    cohort: Path, shown: tuple[Task, list[Support]], bone: Support, tmp_path: Path
) -> None:
    (task, encoded), out = shown, tmp_path / "out"
    outcome = run_twice(task, cases=find_cases(cohort), out=out)
    assert len(outcome.done) == 3
    first, second = encoded
    assert first is bone
    assert [scan.found for scan in second.scans] == [False, True, True, True]
    assert second.images is bone.images, "slices that are compared alone are those that were marked"
    (method,) = json.loads((out / "run.json").read_text(encoding="utf-8"))["methods"]
    served = method["results that were examples"]["bone"]
    assert sorted(served) == ["ct00", "ct01", "ct02"]
    marked = read_labels(out / FIRST / served[0] / f"{served[0]}_seg-bone.nii.gz").array
    assert bool(marked.any()) == bool(second.scans[1].masks.any())
    again = run_twice(task, cases=find_cases(cohort), out=out, options=BatchOptions(resume=True))
    assert (len(again.done), len(again.kept)) == (0, 3)


def test_the_surest_results_are_taken() -> None:
    def record(name: str, *, uncertainty: float, absent: bool = False, failed: bool = False) -> Record:
        row = {"target": "bone", "absent": absent, "presence": 1.0, "uncertainty": uncertainty}
        row |= {"worst_slice": 0, "slice_axis": "K", "touches_border": False}
        error = {"code": "E300", "what": "", "where": "", "fix": ""} if failed else None
        return Record(name, f"{name}.nii.gz", targets=(row,), error=error)

    records = [record(f"ct{n:02}", uncertainty=n / 20) for n in range(MOST + 2)]
    records += [record("none", uncertainty=0, absent=True), record("bad", uncertainty=0, failed=True)]
    assert surest("bone", records) == [f"ct{n:02}" for n in range(MOST)]
    assert surest("liver", records) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"options": BatchOptions(shard="0/2")}, "the whole cohort, not of one shard"),
        ({"cases": [Case(FIRST, Path("a.nii.gz"))]}, "as the folder of the first pass"),
    ],
)
def test_what_cannot_be_done_twice(
    change: dict[str, object], message: str, shown: tuple[Task, list[Support]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        run_twice(shown[0], **{"cases": [], "out": tmp_path} | change)  # type: ignore[arg-type]


def test_words_take_no_examples(task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'bright' takes no results as further examples"):
        run_twice(task, cases=[], out=tmp_path)
