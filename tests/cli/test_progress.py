"""One bar on a terminal; elsewhere a line now and then, and none where a command is done soon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.progress import Progress as Bar

import latentseg as ls
from latentseg.batch.cases import Case
from latentseg.batch.estimate import Cost, estimate_cases
from latentseg.batch.store import Record
from latentseg.cli.progress import BatchProgress, Progress, human_time, line_of
from latentseg.imaging import write_like
from latentseg.methods.fewshot.audit import audit
from latentseg.phantom.bodies import Phantom

Capture = pytest.CaptureFixture[str]


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    for _ in range(1000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_nothing_is_written_where_a_command_is_done_soon(capsys: Capture) -> None:
    with Progress("segment") as progress:
        progress(1, 2, "liver")
        progress.stage("writing")
    assert capsys.readouterr() == ("", "")


def test_lines_where_there_is_no_terminal(capsys: Capture) -> None:
    written = ""

    def has_come() -> bool:
        nonlocal written
        written += capsys.readouterr().err
        return "1 of 3" in written

    with Progress("segment", every_s=0.02) as progress:
        progress(1, 3, "liver [left]")
        until(has_come)
    assert "segment: liver [left], 1 of 3, 0 s\n" in written
    names = [thread.name for thread in threading.enumerate()]
    until(lambda: "progress" not in names or not any(t.name == "progress" for t in threading.enumerate()))


def test_the_time_that_is_left() -> None:
    clock = [0.0]
    bar = Bar(disable=True, get_time=lambda: clock[0], speed_estimate_period=3600)
    row = bar.add_task("batch: ct1", total=None)
    assert line_of(bar.tasks[0]) == "batch: ct1, 0 s"
    bar.update(row, total=10)
    for clock[0] in (100.0, 200.0, 300.0):
        bar.update(row, advance=1)
    assert line_of(bar.tasks[0]) == "batch: ct1, 3 of 10, 5 min, about 12 min left"
    clock[0] = 400.0
    assert line_of(bar.tasks[0]).startswith("batch: ct1, 3 of 10, 7 min, about")


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with BatchProgress("batch") as progress:
        progress.started(pending=2, kept=1)
        progress.finished(Record("a", "a.nii"))
        reason = {"code": "E300", "what": "bad [file]", "where": "b.nii", "fix": "mend"}
        progress.finished(Record("b [x]", "b.nii", error=reason))
        progress.ended()
    error = capsys.readouterr().err
    assert "b [x]: E300 bad [file]: b.nii. Mend." in error
    assert "3/3" in error
    assert "batch: writing the tables" in error


def test_times_as_people_read_them() -> None:
    assert [human_time(s) for s in (3, 100, 7500)] == ["3 s", "2 min", "2 h 05 min"]


def test_a_dry_run_says_what_it_reads(tmp_path: Path) -> None:
    cases = [Case(name, tmp_path / f"{name}.nii.gz") for name in ("a", "b")]
    told: list[tuple[int, int, str]] = []
    estimate_cases(cases, Cost(1.0, 0.0, 0.0, 0.0), on_progress=lambda *one: told.append(one))
    assert told == [(0, 2, "a"), (1, 2, "b")]


def test_a_check_says_what_it_searches(
    shown: Phantom, searched: Phantom, tiny_model: Path, tmp_path: Path
) -> None:
    for name, phantom in (("a", shown), ("b", searched)):
        write_like(phantom.image.array, like=phantom.image, path=tmp_path / f"{name}.nii.gz", kind="image")
        write_like(phantom.labels.array, like=phantom.labels, path=tmp_path / f"{name}_mask.nii.gz")
    (tmp_path / "labels.json").write_text('{"liver": 1, "spleen": 4}', encoding="utf-8")
    told: list[tuple[int, int, str]] = []
    audit(tmp_path, ls.load(backbone=tiny_model), on_progress=lambda *one: told.append(one))
    assert [one[:2] for one in told] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert told[0][2] == "liver in a"
