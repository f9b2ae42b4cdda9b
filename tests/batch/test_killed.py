"""`kill -9` at random moments, and full disks: nothing is lost, nothing is half, nothing is left over."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import helpers.cohorts
from latentseg.batch.cases import find_cases
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.store import PARTIAL, OutputFolder
from latentseg.batch.work import Task
from latentseg.errors import InputError, noted

QUICK = BatchOptions(save=("mask", "prob"))
PROGRAM = Path(helpers.cohorts.__file__)


def start(source: Path, out: Path, log: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(PROGRAM), str(source), str(out), str(log)])


def lines(log: Path) -> list[str]:
    return log.read_text(encoding="utf-8").split() if log.exists() else []


def test_killed_and_resumed_is_as_if_undisturbed(tmp_path: Path, cohorts: SimpleNamespace) -> None:
    """A case that was at work when the kill came is done again; no other is."""
    source, out, log = cohorts.make_cohort(tmp_path / "in", 8), tmp_path / "out", tmp_path / "log"
    assert start(source, tmp_path / "whole", tmp_path / "other").wait(60) == 0
    moments, kills = random.Random(0), 0  # noqa: S311
    while kills < 4:
        process, before = start(source, out, log), len(lines(log))
        while len(lines(log)) == before and process.poll() is None:
            time.sleep(0.02)
        time.sleep(moments.uniform(0, 2 * cohorts.DELAY_S))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
    assert start(source, out, log).wait(60) == 0
    assert kills == 4
    assert len(lines(log)) - 8 <= kills
    assert cohorts.contents(out) == cohorts.contents(tmp_path / "whole")
    assert cohorts.leftovers(out) == []


def test_what_a_killed_run_left_is_removed_and_what_is_at_work_is_not(tmp_path: Path) -> None:
    partial = tmp_path / PARTIAL
    (partial / "host-1-x" / "ct00").mkdir(parents=True)
    (partial / "host-1-x.lock").touch()
    with OutputFolder(tmp_path) as one:
        assert not (partial / "host-1-x").exists()
        with OutputFolder(tmp_path) as other:
            assert one.workplace != other.workplace
            assert one.workplace.exists()
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_and_a_polite_kill_end_cleanly(tmp_path: Path, cohorts: SimpleNamespace) -> None:
    source, out, log = cohorts.make_cohort(tmp_path / "in", 8), tmp_path / "out", tmp_path / "log"
    process = start(source, out, log)
    while len(lines(log)) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert cohorts.leftovers(out) == []
    assert (out / "cases.csv").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    """A file system of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no permission to mount a small disk")
    yield place  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_is_a_reason_per_case(
    tmp_path: Path, cohorts: SimpleNamespace, task: Task, small_disk: Path
) -> None:
    cases = find_cases(cohorts.make_cohort(tmp_path / "in", 12, shape=(48, 48, 8)))
    with noted([]) as notes:
        outcome = run_batch([task], cases=cases, out=small_disk / "out", options=QUICK)
    assert all("cannot write" in note for note in notes)
    assert outcome.done
    assert outcome.failed
    assert len(outcome.records) == 12
    assert {record.error["code"] for record in outcome.failed if record.error} == {"E300"}
    assert "no space left" in str(outcome.failed[0].error).lower()
    for record in outcome.done:
        assert cohorts.contents(small_disk / "out" / record.case)
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    again = run_batch([task], cases=cases, out=small_disk / "out", options=replace(QUICK, resume=True))
    assert len(again.done) == len(outcome.failed)
    run_batch([task], cases=cases, out=tmp_path / "roomy", options=QUICK)
    assert cohorts.contents(small_disk / "out") == cohorts.contents(tmp_path / "roomy")


def test_no_right_to_write(tmp_path: Path, cohort: Path, task: Task) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write the output"):
        run_batch([task], cases=find_cases(cohort), out=tmp_path / "file")
    if os.geteuid():
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(InputError, match="cannot write the output"):
            run_batch([task], cases=find_cases(cohort), out=tmp_path / "closed" / "out")
