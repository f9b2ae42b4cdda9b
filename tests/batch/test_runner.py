"""A cohort from start to end: isolation, resuming, shards, interruption, order, memory of what was done."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from latentseg.batch import runner, work
from latentseg.batch.cases import Case, find_cases
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.store import OutputFolder, Record
from latentseg.batch.work import Task
from latentseg.errors import Interrupted, UsageError
from latentseg.imaging import Volume, read, write_like

QUICK = BatchOptions(save=("mask", "prob"))
RESUME = replace(QUICK, resume=True)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / name).read_text(encoding="utf-8"))))


def names(records: tuple[Record, ...]) -> list[str]:
    return [record.case for record in records]


def test_a_cohort(cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace) -> None:
    out = tmp_path / "out"
    outcome = run_batch([task], cases=find_cases(cohort), out=out)
    assert names(outcome.done) == ["ct00", "ct01", "ct02"]
    assert not outcome.failed + outcome.kept
    assert {path.name for path in out.iterdir()} == {
        *("ct00", "ct01", "ct02", "cases.csv", "failures.csv", "run.json")
    }
    stats = json.loads((out / "ct01/ct01_stats.json").read_text(encoding="utf-8"))
    assert stats[0]["target"] == "bright"
    assert {"uncertainty", "worst_slice", "presence", "touches_border"} <= set(stats[0])
    manifest = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert manifest["status"] == "finished"
    assert [case["status"] for case in manifest["cases"]] == ["done"] * 3
    assert set(manifest["cases"][0]["seconds"]) == {"read", "segment", "write"}
    assert manifest["methods"][0]["weights"] == "weights-1"
    assert manifest["methods"][0]["options"] == {"threshold": 100.0}
    assert manifest["versions"]["numpy"] == np.__version__


def test_a_bad_scan_stops_no_other(cohort: Path, task: Task, tmp_path: Path) -> None:
    (cohort / "ct00.nii.gz").write_bytes(b"")
    (cohort / "ct01.nii.gz").unlink()
    (cohort / "ct01.nii.gz").symlink_to("nowhere")
    outcome = run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert names(outcome.done) == ["ct02"]
    assert names(outcome.failed) == ["ct00", "ct01"]
    failures = rows(tmp_path / "out", "failures.csv")
    assert [row["what"] for row in failures] == ["the file is empty (0 bytes)", "no such file"]
    assert {row["code"] for row in failures} == {"E300"}
    assert {path.name for path in (tmp_path / "out/ct00").iterdir()} == {"ct00_case.json"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(MemoryError(), "E500"), (ValueError("odd"), "E100"), (OSError(28, "No space left on device"), "E300")],
)
def test_whatever_goes_wrong_is_a_reason(
    cohort: Path, task: Task, tmp_path: Path, error: Exception, code: str
) -> None:
    def fail(name: str) -> None:
        if name == "ct01":
            raise error

    task.segmenter.tell = fail  # type: ignore[attr-defined]
    outcome = run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert names(outcome.done) == ["ct00", "ct02"]
    assert [record.error["code"] for record in outcome.failed if record.error] == [code]


def test_resume_does_what_is_missing(cohort: Path, task: Task, tmp_path: Path) -> None:
    out, cases = tmp_path / "out", find_cases(cohort)
    run_batch([task], cases=cases[:2], out=out, options=QUICK)
    with pytest.raises(UsageError, match=r"case 'ct00' is finished already: .*out. Give --resume"):
        run_batch([task], cases=cases, out=out, options=QUICK)
    outcome = run_batch([task], cases=cases, out=out, options=RESUME)
    assert names(outcome.kept) == ["ct00", "ct01"]
    assert names(outcome.done) == ["ct02"]
    assert len(rows(out, "cases.csv")) == 3
    assert len(json.loads((out / "run.json").read_text(encoding="utf-8"))["cases"]) == 3


def test_failed_cases_are_tried_again(cohort: Path, task: Task, tmp_path: Path) -> None:
    good = (cohort / "ct01.nii.gz").read_bytes()
    (cohort / "ct01.nii.gz").write_bytes(good[:100])
    cases, out = find_cases(cohort), tmp_path / "out"
    assert names(run_batch([task], cases=cases, out=out, options=QUICK).failed) == ["ct01"]
    (cohort / "ct01.nii.gz").write_bytes(good)
    outcome = run_batch([task], cases=cases, out=out, options=RESUME)
    assert names(outcome.done) == ["ct01"]
    assert rows(out, "failures.csv") == []


def test_what_changes_is_done_again(
    cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace
) -> None:
    out, cases = tmp_path / "out", find_cases(cohort)
    run_batch([task], cases=cases, out=out, options=QUICK)

    def again(**changed: object) -> list[str]:
        changed_task = replace(task, **changed)  # type: ignore[arg-type]
        return names(run_batch([changed_task], cases=cases, out=out, options=RESUME).done)

    assert again() == []
    os.utime(cohort / "ct00.nii.gz")
    assert again() == [], "same content"
    shutil.copy(cohort / "ct02.nii.gz", cohort / "ct00.nii.gz")
    assert again() == ["ct00"]
    (out / "ct01/ct01_seg-bright.nii.gz").unlink()
    assert again() == ["ct01"]
    (out / "ct01/ct01_case.json").write_text("{", encoding="utf-8")
    assert again() == ["ct01"]
    assert len(again(weights="weights-2")) == 3
    assert len(again(weights="weights-2", segmenter=cohorts.Threshold(50))) == 3
    assert len(again(weights="weights-2", targets=("bone",))) == 3
    assert {path.name for path in (out / "ct00").iterdir() if "_seg-" in path.name} == {
        "ct00_seg-bone.nii.gz"
    }


def test_foreign_files_are_not_replaced(cohort: Path, task: Task, tmp_path: Path) -> None:
    mine = tmp_path / "out/ct01/notes.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match=r"files that no batch wrote are in the way: .*ct01"):
        run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=RESUME)
    assert mine.read_text(encoding="utf-8") == "mine"


def test_shards_give_what_one_run_gives(
    cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace
) -> None:
    cases = find_cases(cohort)
    run_batch([task], cases=cases, out=tmp_path / "whole", options=QUICK)
    for part in (1, 0):
        options = replace(QUICK, shard=f"{part}/2")
        run_batch([task], cases=cases, out=tmp_path / "parts", options=options)
    runs = ("run.json", "run_shard-0-of-2.json", "run_shard-1-of-2.json", "_case.json")
    whole = cohorts.contents(tmp_path / "whole", but=runs)
    assert whole == cohorts.contents(tmp_path / "parts", but=runs)
    assert (tmp_path / "parts/run_shard-1-of-2.json").exists()


def test_the_order_of_cases_changes_nothing(
    cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace
) -> None:
    cases = find_cases(cohort)
    run_batch([task], cases=cases, out=tmp_path / "a", options=QUICK)
    run_batch([task], cases=cases[::-1], out=tmp_path / "b", options=QUICK)
    assert cohorts.contents(tmp_path / "a") == cohorts.contents(tmp_path / "b")


def test_an_interrupted_run_leaves_what_is_finished(
    cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace
) -> None:
    def stop(name: str) -> None:
        if name == "ct01":
            raise KeyboardInterrupt

    task.segmenter.tell = stop  # type: ignore[attr-defined]
    out, cases = tmp_path / "out", find_cases(cohort)
    with pytest.raises(Interrupted, match=r"interrupted, 1 of 3 cases are finished. Run again with --resume"):
        run_batch([task], cases=cases, out=out, options=QUICK)
    assert cohorts.leftovers(out) == []
    assert len(rows(out, "cases.csv")) == 1
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["status"] == "interrupted"
    task.segmenter.tell = lambda name: None  # type: ignore[attr-defined]
    assert len(run_batch([task], cases=cases, out=out, options=RESUME).done) == 2


def test_one_scan_is_read_ahead_and_no_more(
    cohort: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a case is segmented the next one is read, and the one after it is not."""
    begun: dict[str, threading.Event] = {f"ct{n:02}": threading.Event() for n in range(3)}
    read_case = work.read_case

    def reading(case: Case) -> work.Loaded:
        begun[case.name].set()
        return read_case(case)

    monkeypatch.setattr(runner, "read_case", reading)
    seen = []

    def look(name: str) -> None:
        following = {"ct00": "ct01", "ct01": "ct02"}.get(name)
        seen.append(following is None or begun[following].wait(5))
        seen.append(name != "ct00" or not begun["ct02"].wait(0.2))

    task.segmenter.tell = look  # type: ignore[attr-defined]
    run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert seen == [True] * 6


def test_warnings_are_kept_with_their_case(cohort: Path, task: Task, tmp_path: Path) -> None:
    """From the reading thread and from the segmenter, each with the case it is about."""
    from latentseg.errors import caution

    task.segmenter.tell = lambda name: caution(f"odd values in {name}")  # type: ignore[attr-defined]
    import nibabel as nib

    image = nib.load(cohort / "ct01.nii.gz")
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), None, image.header), cohort / "ct01.nii.gz")
    run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    told = {row["case"]: row["warnings"] for row in rows(tmp_path / "out", "cases.csv")}
    assert told["ct00"] == "odd values in ct00"
    assert "says nothing about orientation" in told["ct01"]
    assert told["ct01"].endswith("; odd values in ct01")


def test_supports_are_encoded_once(cohort: Path, tmp_path: Path, cohorts: SimpleNamespace) -> None:
    class Shown(cohorts.Threshold):  # type: ignore[misc, name-defined]
        def encode(self, target: SimpleNamespace) -> str:
            encoded.append(target.name)
            return str(target.name)

    encoded: list[str] = []
    array = np.zeros((1, 4, 4))
    support = SimpleNamespace(name="liver", images=array, masks=array > 0)
    tasks = [Task(Shown(), (support,)), Task(cohorts.Threshold(), ("bone",))]  # type: ignore[arg-type]
    outcome = run_batch(tasks, cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert encoded == ["liver"]
    assert [row["target"] for row in outcome.done[0].targets] == ["liver", "bone"]
    run_batch(tasks, cases=find_cases(cohort), out=tmp_path / "out", options=RESUME)
    assert encoded == ["liver"], "nothing left to do, nothing to encode"


def test_targets_must_be_told_apart(cohort: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would share one file name"):
        run_batch([task, task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert not (tmp_path / "out").exists()


def test_a_case_has_its_own_name_in_all_outputs(task: Task, tmp_path: Path, cohort: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"study/p{number}").mkdir(parents=True)
        shutil.copy(cohort / f"ct0{number}.nii.gz", tmp_path / f"study/p{number}/ct.nii.gz")
    run_batch([task], cases=find_cases(tmp_path / "study"), out=tmp_path / "out", options=QUICK)
    assert (tmp_path / "out/p1_ct/p1_ct_seg-bright.nii.gz").exists()
    scan = read(cohort / "ct01.nii.gz")
    written = read(tmp_path / "out/p1_ct/p1_ct_prob-bright.nii.gz")
    assert written.affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_other_formats(task: Task, tmp_path: Path, cohort: Path, suffix: str) -> None:
    scan = read(cohort / "ct00.nii.gz")
    write_like(scan.array, like=scan, path=tmp_path / f"one/ct{suffix}", kind="image")
    outcome = run_batch([task], cases=find_cases(tmp_path / "one"), out=tmp_path / "out", options=QUICK)
    assert [name for name in outcome.done[0].files if "_seg-" in name] == [
        f"ct_seg-bright{'.nii.gz' if suffix == '.nii' else suffix}"
    ]


def test_what_was_at_work_when_a_run_was_killed_goes_last(cohort: Path, task: Task, tmp_path: Path) -> None:
    """So that a scan which always kills the run stops no other."""
    (tmp_path / "out/.partial/host-1-x/ct00").mkdir(parents=True)
    (tmp_path / "out/.partial/host-1-x.lock").touch()
    outcome = run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=RESUME)
    assert names(outcome.done) == ["ct01", "ct02", "ct00"]


def test_dicom_studies(cohort: Path, task: Task, tmp_path: Path) -> None:
    from helpers.dicom_files import save_slices, slice_datasets

    scan = read(cohort / "ct00.nii.gz")
    for number in (1, 2):
        save_slices(
            slice_datasets(scan, series_number=number), tmp_path / "studies/p1", name=f"{number}_{{}}"
        )
    cases = find_cases(tmp_path / "studies")
    outcome = run_batch([task], cases=cases, out=tmp_path / "out", options=QUICK)
    assert names(outcome.done) == ["p1_series-1", "p1_series-2"]
    written = read(tmp_path / "out/p1_series-1/p1_series-1_prob-bright.nii.gz")
    series = read(cases[0].image, dicom=cases[0].dicom)
    assert written.shape == series.shape
    assert np.allclose(written.affine_ras_mm, series.affine_ras_mm, atol=1e-4)


def test_another_engine_may_go_through_the_cases(cohort: Path, task: Task, tmp_path: Path) -> None:
    def backwards(cases: list[Case], done: work.Work, folder: OutputFolder) -> Iterator[Record]:
        for case in reversed(cases):
            yield work.segment_case(case, lambda: work.read_case(case), work=done, folder=folder)  # noqa: B023

    outcome = run_batch(
        [task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK, engine=backwards
    )  # type: ignore[arg-type]
    assert names(outcome.done) == ["ct02", "ct01", "ct00"]


def test_a_table_that_cannot_be_written_is_said(
    cohort: Path, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_file = OutputFolder.replace

    def full(self: OutputFolder, name: str, text: str) -> None:
        if name == "cases.csv":
            raise OSError(28, "No space left on device")
        replace_file(self, name, text)

    monkeypatch.setattr(OutputFolder, "replace", full)
    with pytest.warns(match=r"cannot write .*cases.csv \(No space left on device\)"):
        run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert (tmp_path / "out/failures.csv").exists()


def test_a_volume_in_memory_is_gone_before_the_next_but_one(
    cohort: Path, task: Task, tmp_path: Path, cohorts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scans are in memory at most: the one being segmented and the one read ahead."""
    import weakref

    cohorts.make_cohort(cohort, 6)
    alive: list[weakref.ref[Volume]] = []
    read_case = work.read_case
    most = []

    def reading(case: Case) -> work.Loaded:
        most.append(sum(one() is not None for one in alive))
        loaded = read_case(case)
        alive.append(weakref.ref(loaded.scan))
        return loaded

    monkeypatch.setattr(runner, "read_case", reading)
    run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", options=QUICK)
    assert max(most) <= 1
