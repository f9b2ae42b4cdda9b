"""The queue of jobs, which is kept on disk so that a killed server continues where it was."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Condition, Event, Thread
from typing import Any, Literal

from latentseg.errors import InputError, Interrupted, explained, noted
from latentseg.serve.journal import now
from latentseg.serve.json_files import read_about, write_json
from latentseg.serve.missing import NotHere

State = Literal["queued", "running", "done", "failed", "stopped"]
OPEN: tuple[State, ...] = ("queued", "running")
MOST_KEPT = 500  # finished jobs
MOST_STARTS = 3  # of one job: a server that dies in it that often does not try again
Told = Callable[[str, float, float], None]


@dataclass(frozen=True)
class Job:
    """Targets to be found in one scan.

    Attributes:
        id: Its id.
        scan: Id of the scan.
        targets: Numbers of the targets.
        background: Whether nobody waits for it: it comes after all that somebody waits for.
        who: Who asked for it.
        state: Where it is.
        stage: What is done now.
        fraction: How much of it is done, from 0 to 1.
        seconds_left: About how long it takes yet.
        starts: How often it was begun.
        error: Why it failed: code, what, where, fix, and all in one sentence.
        warnings: What it warned of.
        made: When it was asked for.
        ended: When it ended.
    """

    id: str
    scan: str
    targets: tuple[int, ...]
    background: bool = False
    who: str = ""
    state: State = "queued"
    stage: str = "waiting"
    fraction: float = 0.0
    seconds_left: float | None = None
    starts: int = 0
    error: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    made: str = ""
    ended: str = ""


Work = Callable[[Job, Event, Told], None]


class Queue:
    """Jobs of a project; those of one scan are done one after the other.

    Args:
        folder: Where they are kept.
        work: Does one job; raises what it fails with.
        listener: Told of every change.
        at_once: How many are done at a time.
    """

    def __init__(
        self, folder: Path, work: Work, listener: Callable[[Job], None], *, at_once: int = 1
    ) -> None:
        self.folder, self.work, self.listener = folder, work, listener
        self._jobs: dict[str, Job] = {}
        self._waiting: list[tuple[bool, int, str]] = []
        self._order = itertools.count()
        self._changed = Condition()
        self._running: dict[str, tuple[str, Event]] = {}  # the scan, and what stops the job
        self._closed = False
        self._threads = [
            Thread(target=self._loop, name="latentseg-jobs", daemon=True) for _ in range(at_once)
        ]
        for job in self._on_disk():
            self._jobs[job.id] = job
            if job.state in OPEN:
                self._take_up(job)

    def start(self) -> None:
        """Begin to work."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop; what is running stays on disk as running and goes on at the next start."""
        with self._changed:
            self._closed = True
            for _, stop in self._running.values():
                stop.set()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=30)

    def add(self, scan: str, targets: tuple[int, ...], *, who: str, background: bool = False) -> Job:
        """Ask for targets in a scan; what waits already for the same is not asked for twice."""
        with self._changed:
            for job in self._jobs.values():
                if job.state == "queued" and (job.scan, job.targets) == (scan, targets):
                    return job if background else self._hurry(job)
            made = {"who": who, "background": background, "made": now()}
            job = Job(secrets.token_hex(6), scan, targets, **made)  # type: ignore[arg-type]  # three types
            self._keep(job)
            self._push(job)
            self._changed.notify_all()
        return job

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            NotHere: There is none.
        """
        if name not in self._jobs:
            raise NotHere("no such job", where=name[:40], fix="reload the page")
        return self._jobs[name]

    def all(self) -> list[Job]:
        """All jobs, the newest last."""
        return sorted(self._jobs.values(), key=lambda job: job.made)

    def stop(self, name: str) -> Job:
        """Stop a job that waits or runs; one that ended stays as it is."""
        with self._changed:
            job = self.get(name)
            if job.state in OPEN:
                if name in self._running:
                    self._running[name][1].set()
                job = self._keep(replace(job, state="stopped", stage="stopped", ended=now()))
            return job

    def stop_background(self) -> None:
        """Stop all jobs that nobody waits for: their examples are out of date."""
        with self._changed:
            for job in list(self._jobs.values()):
                if job.background and job.state in OPEN:
                    self.stop(job.id)

    def _loop(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None and not self._closed:
                    self._changed.wait()
                if self._closed or job is None:
                    return
                stop = Event()
                self._running[job.id] = (job.scan, stop)
                begun = {"state": "running", "stage": "starting", "starts": job.starts + 1}
                job = self._keep(replace(job, **begun))  # type: ignore[arg-type]  # three types
            try:
                self._do(job, stop)
            finally:
                with self._changed:
                    del self._running[job.id]
                    self._changed.notify_all()

    def _next(self) -> Job | None:
        """The job that comes next: the first one whose scan nobody works on."""
        busy = {scan for scan, _ in self._running.values()}
        for entry in sorted(self._waiting):
            job = self._jobs.get(entry[2])  # one that was stopped may be forgotten
            if job is None or job.state != "queued":
                self._waiting.remove(entry)
            elif job.scan not in busy:
                return job
        return None

    def _do(self, job: Job, stop: Event) -> None:
        def tell(stage: str, fraction: float, left: float) -> None:
            with self._changed:
                if self._jobs[job.id].state == "running":
                    shown = {"stage": stage, "fraction": round(fraction, 3), "seconds_left": round(left, 1)}
                    self._jobs[job.id] = replace(self._jobs[job.id], **shown)  # type: ignore[arg-type]
                    self.listener(self._jobs[job.id])

        end: dict[str, Any] = {"state": "done", "stage": "done", "fraction": 1.0, "seconds_left": 0.0}
        with noted([]) as notes:
            try:
                self.work(job, stop, tell)
            except Interrupted:
                end = {"state": "stopped", "stage": "stopped"}
            except Exception as error:
                end = {"state": "failed", "stage": "failed", "error": as_row(error)}
        with self._changed:
            if not self._closed and self._jobs[job.id].state == "running":
                warned = tuple(dict.fromkeys(notes))
                self._keep(replace(self._jobs[job.id], **end, warnings=warned, ended=now()))

    def _keep(self, job: Job) -> Job:
        write_json(self.folder / f"{job.id}.json", asdict(job))
        self._jobs[job.id] = job
        self._forget_oldest()
        self.listener(job)
        return job

    def _push(self, job: Job) -> None:
        self._waiting.append((job.background, next(self._order), job.id))

    def _hurry(self, job: Job) -> Job:
        """Somebody waits now for what was done in the background."""
        if job.background:
            job = self._keep(replace(job, background=False))
            self._push(job)
            self._changed.notify_all()
        return job

    def _take_up(self, job: Job) -> None:
        """Go on with a job that was open when the server ended."""
        if job.starts >= MOST_STARTS:
            error = InputError(f"the server ended {job.starts} times during this job", fix="is memory short?")
            self._keep(replace(job, state="failed", stage="failed", error=as_row(error), ended=now()))
            return
        self._keep(replace(job, state="queued", stage="waiting", fraction=0.0, seconds_left=None))
        self._push(job)

    def _forget_oldest(self) -> None:
        ended = sorted((j for j in self._jobs.values() if j.state not in OPEN), key=lambda j: j.ended)
        for job in ended[: max(0, len(ended) - MOST_KEPT)]:
            del self._jobs[job.id]
            (self.folder / f"{job.id}.json").unlink(missing_ok=True)

    def _on_disk(self) -> list[Job]:
        rows = [read_about(file) for file in self.folder.glob("[0-9a-f]*.json")]
        jobs = [Job(**row | {k: tuple(row[k]) for k in ("targets", "warnings")}) for row in rows if row]
        return sorted(jobs, key=lambda job: job.made)


def as_row(error: BaseException) -> dict[str, str]:
    """An error for the page: its parts, and all in one sentence."""
    own = explained(error)
    return {"code": own.code, "what": own.what, "where": own.where, "fix": own.fix, "sentence": str(own)}
