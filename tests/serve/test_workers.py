"""Jobs through Ray: the same bytes, stopping, failing, and a queue of several at a time."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from helpers.workbench import make_client
from latentseg.errors import UsageError
from latentseg.serve.jobs import Queue
from latentseg.serve.view import View
from latentseg.serve.workbench import Workbench

TIMES = ("at", "seconds")


@pytest.fixture
def rayed(options: Any) -> Iterator[Workbench]:
    ray = pytest.importorskip("ray", reason="needs ray")
    yield Workbench(replace(options, project=options.project.with_name("rayed"), engine="ray"))
    ray.shutdown()


def found(bench: Workbench) -> dict[str, Any]:
    """What is kept of every scan, by its name; times apart."""
    kept: dict[str, Any] = {}
    for scan in bench.project.scans:
        about = json.loads((scan.folder / "found/1.json").read_text(encoding="utf-8"))
        examples = len(about.pop("examples"))  # digests hold the ids of scans, which are drawn
        kept[scan.name] = (
            (scan.folder / "found/1.npz").read_bytes(),
            {name: value for name, value in about.items() if name not in TIMES},
            examples,
        )
    return kept


@pytest.mark.slow
def test_the_same_bytes(
    bench: Workbench, rayed: Workbench, scan_file: Path, other_file: Path, searched, finish, client
) -> None:
    liver = np.asarray(View.of(searched.image).apply(searched.labels.array == 1))
    for one in (bench, rayed):
        scans = [one.project.add_scan(file, who="tester") for file in (scan_file, other_file)]
        one.project.add_target("liver", who="tester")
        one.draw(scans[0], 1, {3: liver[:, :, 3]}, who="tester")
    finish([vars(job) for job in bench.find([s.id for s in bench.project.scans], [1], who="tester")])
    with make_client(rayed) as other:
        ids = [scan.id for scan in rayed.project.scans]
        jobs = other.post("/api/jobs", json={"scans": ids, "targets": [1]}).json()
        rows = wait(other, jobs)
        assert [(row["state"], row["error"]) for row in rows] == [("done", None)] * 2
        assert found(rayed) == found(bench)
        gone = Path(shutil.copy(scan_file, scan_file.with_name("gone.nii.gz")))
        third = rayed.project.add_scan(gone, who="tester")
        gone.unlink()
        (row,) = wait(other, other.post("/api/jobs", json={"scans": [third.id], "targets": [1]}).json())
        assert (row["state"], "no such file" in row["error"]["sentence"]) == ("failed", True)


def wait(client: Any, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for _ in range(4000):
        rows = [client.get(f"/api/jobs/{job['id']}").json() for job in jobs]
        if not any(row["state"] in ("queued", "running") for row in rows):
            return rows
        time.sleep(0.1)
    pytest.fail(f"the jobs did not end: {rows}")


def test_several_at_a_time_but_one_of_each_scan(tmp_path: Path) -> None:
    begun: list[tuple[str, tuple[int, ...]]] = []
    both, go_on = threading.Event(), threading.Event()

    def work(job: Any, stop: Any, tell: Any) -> None:
        begun.append((job.scan, job.targets))
        if len(begun) == 2:
            both.set()
        go_on.wait(30)

    queue = Queue(tmp_path, work, lambda _: None, at_once=3)
    first = queue.add("a", (1,), who="tester")
    second = queue.add("a", (2,), who="tester")
    queue.add("b", (1,), who="tester")
    queue.start()
    assert both.wait(30)
    assert sorted(begun) == [("a", (1,)), ("b", (1,))]  # the second of the same scan waits
    assert (queue.get(first.id).state, queue.get(second.id).state) == ("running", "queued")
    go_on.set()
    while queue.get(second.id).state != "done":
        pass
    queue.close()
    assert begun[2] == ("a", (2,))


def test_an_engine_that_there_is_not(options: Any) -> None:
    with pytest.raises(UsageError, match="unknown engine 'rey': --engine"):
        replace(options, engine="rey")
