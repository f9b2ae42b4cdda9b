"""Searches by worker processes of Ray, on this machine or on others that see the project under the same path.

Only paths are sent between processes: a worker reads the scan from the project's folder and writes its
results there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition, Event
from typing import Any

from latentseg.batch.ray_engine import RETRIES, start_ray
from latentseg.errors import LatentsegError, caution, noted
from latentseg.serve.engine import Caller, Engine
from latentseg.serve.missing import NotHere
from latentseg.serve.project import Target, scans_on_disk
from latentseg.serve.scan import Scan
from latentseg.serve.settings import ServeOptions, new_token

POLL_S = 0.25  # seconds between two questions how far a worker is


@dataclass(frozen=True)
class ReadOnly:
    """The scans of a project that a server has open, read anew each time.

    Attributes:
        folder: The project.
    """

    folder: Path

    @property
    def scans(self) -> list[Scan]:
        """All scans, in the order in which they were added."""
        return scans_on_disk(self.folder)

    def scan(self, name: str) -> Scan:
        """A scan by its id.

        Raises:
            NotHere: There is none.
        """
        found = Scan.open(self.folder / "scans" / name)
        if found is None:
            raise NotHere("no such scan in this project", where=name[:40], fix="reload the page")
        return found


class Worker:
    """One model, in a process that Ray starts. Of its two threads one finds, the other says how far it is."""

    def __init__(self, place: Path, options: ServeOptions) -> None:
        os.chdir(place)
        self.shelf = ReadOnly(options.project)
        self.engine = Engine(self.shelf, options)
        self.stop, self.said, self.kept = Event(), ("starting", 0.0, 0.0), 0

    def find(self, scan: str, targets: Sequence[Target]) -> list[str]:
        """Find targets; what is found is in place when this returns.

        Returns:
            What it warned of.
        """
        self.stop.clear()
        self.kept = 0
        with noted([]) as notes:
            self.engine.find(self.shelf.scan(scan), targets, Caller(self.stop, self._hear, self._count))
        return notes

    def look(self, stop: bool) -> tuple[tuple[str, float, float], int]:
        """How far it is, and how many targets are kept; it may be told to stop."""
        if stop:
            self.stop.set()
        return self.said, self.kept

    def _hear(self, stage: str, fraction: float, left: float) -> None:
        self.said = stage, fraction, left

    def _count(self) -> None:
        self.kept += 1


@dataclass(eq=False)
class Hired:
    """A worker, and the scans that it has prepared."""

    actor: Any
    scans: set[str] = field(default_factory=set)


class RayWorkers:
    """Takes the place of :class:`latentseg.serve.engine.Engine` and runs one job per worker at a time.

    A cluster that the environment names (``RAY_ADDRESS``) is used, else one is started on this machine.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.ray = start_ray(options.workers)
        remote = self.ray.remote(max_restarts=-1, max_task_retries=RETRIES, max_concurrency=2)(Worker)
        known = replace(options, token=new_token())  # the server's own stays with it
        self._all = [Hired(remote.remote(Path.cwd(), known)) for _ in range(options.workers)]
        self._free, self._changed = list(self._all), Condition()

    def find(self, scan: Scan, targets: Sequence[Target], caller: Caller) -> None:
        """As :meth:`latentseg.serve.engine.Engine.find`.

        Raises:
            LatentsegError: For the same reasons, or the worker process died several times.
        """
        worker = self._take(scan.id)
        seen, errors = 0, self.ray.exceptions
        try:
            found = worker.actor.find.remote(scan.id, list(targets))
            while not self.ray.wait([found], timeout=POLL_S)[0]:
                said, count = self.ray.get(worker.actor.look.remote(caller.stop.is_set()))
                caller.tell(*said)
                if count > seen:
                    caller.kept()
                seen = count
            for note in self.ray.get(found):
                caution(note)
        except errors.RayTaskError as error:
            raise error.cause from None
        except errors.RayError as error:
            what = f"its worker died {RETRIES + 1} times ({type(error).__name__})"
            raise LatentsegError(
                what, where=scan.name, fix="is memory short? give fewer --workers"
            ) from error
        finally:
            self._give_back(worker)
            caller.kept()

    def ahead(self, scan: Scan) -> None:
        """Nothing: which worker will find is not known yet."""

    def drop(self, scan: str) -> None:
        """Nothing: workers drop the oldest scan by themselves."""

    def close(self) -> None:
        """End the workers."""
        for worker in self._all:
            self.ray.kill(worker.actor)

    def _take(self, scan: str) -> Hired:
        """A worker that is free, if possible one that has prepared the scan."""
        with self._changed:
            while not self._free:
                self._changed.wait()
            worker = next((one for one in self._free if scan in one.scans), self._free[0])
            self._free.remove(worker)
            worker.scans.add(scan)
            return worker

    def _give_back(self, worker: Hired) -> None:
        with self._changed:
            self._free.append(worker)
            self._changed.notify()
