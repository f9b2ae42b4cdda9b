"""The cases through Ray: a worker is killed, and the results are those of the plain runner, byte for byte."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import latentseg as ls
from latentseg.batch.cases import find_cases
from latentseg.batch.ray_engine import RayEngine, start_ray
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.work import Task
from latentseg.errors import UsageError
from latentseg.phantom.bodies import Phantom

QUICK = BatchOptions(save=("mask", "prob"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A local cluster of two workers."""
    pytest.importorskip("ray")
    ray = start_ray(2)
    yield ray
    ray.shutdown()


@pytest.fixture
def shown_task(tiny_model: Path, shown: Phantom) -> Task:
    load = partial(ls.load, "fewshot", backbone=tiny_model)
    support = ls.Support.from_volumes(shown.image, shown.labels, name="liver", label=1)
    segmenter = load()
    return Task(segmenter, (support,), segmenter.fingerprint, load=load)


def worker_processes(out: Path) -> list[int]:
    """Processes that have a workplace in the output folder, but for this one."""
    names = [path.name for path in (out / ".partial").glob("?*.lock")] if out.exists() else []
    return [pid for name in names if (pid := int(name.rsplit("-", 2)[1])) != os.getpid()]


def kill_first_worker(out: Path, killed: list[int]) -> None:
    while not killed:
        done = list(out.glob("ct*"))
        if len(done) >= 2 and (found := worker_processes(out)):
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    cluster: Any, shown_task: Task, tmp_path: Path, cohorts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cohorts.make_cohort(Path("in"), 10)
    (tmp_path / "in/ct03.nii.gz").write_bytes(b"")
    cases = find_cases(Path("in"))
    run_batch([shown_task], cases=cases, out="plain", options=QUICK)
    killed: list[int] = []
    threading.Thread(target=kill_first_worker, args=(Path("rayed"), killed), daemon=True).start()
    outcome = run_batch([shown_task], cases=cases, out="rayed", options=QUICK, engine=RayEngine(workers=2))
    assert killed
    assert len(outcome.done) == 9
    assert [record.case for record in outcome.failed] == ["ct03"]
    assert cohorts.leftovers(Path("rayed")) == []
    assert cohorts.contents(Path("rayed")) == cohorts.contents(Path("plain"))


@pytest.mark.slow
def test_prompts_and_one_label_map(
    cluster: Any, tiny_tumor_model: Path, tmp_path: Path, cohorts: SimpleNamespace
) -> None:
    cohorts.make_cohort(tmp_path / "in", 2)
    load = partial(ls.load, "tumor", backbone=tiny_tumor_model)
    segmenter, targets = load(), ("liver tumor", "kidney tumor")
    task = Task(segmenter, targets, segmenter.fingerprint, load=load)
    options = BatchOptions(save=("mask", "prob"), combined=targets)
    cases = find_cases(tmp_path / "in")
    for out, engine in (("plain", None), ("rayed", RayEngine(workers=2))):
        outcome = run_batch([task], cases=cases, out=tmp_path / out, options=options, engine=engine)
        assert len(outcome.done) == 2
    assert (tmp_path / "rayed/ct00/ct00_combined.nii.gz").exists()
    assert cohorts.contents(tmp_path / "rayed") == cohorts.contents(tmp_path / "plain")


def test_a_method_that_cannot_travel(cluster: Any, task: Task, cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this method cannot be loaded on another worker"):
        run_batch([task], cases=find_cases(cohort), out=tmp_path / "out", engine=RayEngine())
    with pytest.raises(UsageError, match="0 workers"):
        RayEngine(workers=0)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray is not installed: --engine ray. Pip install"):
        start_ray(2)
