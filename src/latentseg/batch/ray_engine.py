"""Runs a batch with Ray: one model per worker process, on one machine or on several that share the files.

Only paths are sent between processes: a worker reads the scan, segments it and moves the results into place.
When a worker dies, a new one takes over its case.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from latentseg.batch.cases import Case
from latentseg.batch.store import OutputFolder, Record
from latentseg.batch.work import Task, Work, fail_case, read_case, segment_case
from latentseg.errors import LatentsegError, UsageError
from latentseg.methods.base import Segmenter

AT_A_TIME = 2  # cases given to a worker: one is segmented, the next one is read
RETRIES = 3  # deaths of workers that one case may cause


@dataclass(frozen=True)
class Order:
    """What is sent to a worker: small values and paths only.

    Attributes:
        place: Working folder that paths are relative to.
        out: Output folder.
        loads: Loads the method of each task.
        targets: Prompts, and files of encoded supports, of each task.
        save: What is written.
        recipe: As in :class:`latentseg.batch.work.Work`.
        combined: As in :class:`latentseg.batch.work.Work`.
    """

    place: Path
    out: Path
    loads: tuple[Callable[[], Segmenter[Any, Any]], ...]
    targets: tuple[tuple[str | Path, ...], ...]
    save: tuple[str, ...]
    recipe: Mapping[str, Any]
    combined: tuple[str, ...] = ()

    @classmethod
    def of(cls, work: Work, folder: OutputFolder) -> Order:
        """Put encoded supports on the disk, where workers find them.

        Raises:
            UsageError: A task that cannot be loaded again elsewhere.
        """
        loads, targets = [], []
        for number, task in enumerate(work.tasks):
            if task.load is None:
                raise UsageError("this method cannot be loaded on another worker", fix="give Task(load=...)")
            loads.append(task.load)
            place = folder.workplace / f"targets-{number}"
            place.mkdir()
            targets.append(tuple(_on_disk(target, place / str(n)) for n, target in enumerate(task.targets)))
        about = (work.save, work.recipe, work.combined)
        return cls(Path.cwd(), folder.path, tuple(loads), tuple(targets), *about)

    def work(self) -> Work:
        """Load the methods and their targets."""
        tasks = [
            Task(load(), tuple(map(_from_disk, targets)))
            for load, targets in zip(self.loads, self.targets, strict=True)
        ]
        return Work(tuple(tasks), self.save, self.recipe, self.combined)


class Worker:
    """One model, in a process that Ray starts. Its methods run in two threads: one reads, one segments."""

    def __init__(self, order: Order) -> None:
        os.chdir(order.place)
        self.folder = OutputFolder(order.out).__enter__()
        self.model = Lock()
        self.work = order.work()

    def segment(self, case: Case) -> Record:
        """Segment one scan; its results are in place when this returns."""
        try:
            loaded = read_case(case)
        except Exception as error:
            reason = error

            def load() -> Any:
                raise reason
        else:

            def load() -> Any:
                return loaded

        with self.model:
            return segment_case(case, load, work=self.work, folder=self.folder)

    def leave(self) -> None:
        """Remove what is temporary."""
        self.folder.__exit__(None, None, None)


class RayEngine:
    """An engine for :func:`latentseg.batch.runner.run_batch` that keeps some workers busy.

    A cluster that the environment names (``RAY_ADDRESS``) is used, else one is started on this machine. All
    its machines must see the scans, the weights and the output folder under the same paths.
    """

    def __init__(self, *, workers: int = 2) -> None:
        if workers < 1:
            raise UsageError(f"{workers} workers", where="--workers", fix="give at least one")
        self.workers = workers

    def __call__(self, cases: Sequence[Case], work: Work, folder: OutputFolder) -> Iterator[Record]:
        """Yield the record of each case, in the order in which they are done.

        Raises:
            UsageError: Ray is not installed.
        """
        if not cases:
            return
        ray = start_ray(self.workers)
        actors = _hire(ray, Order.of(work, folder), count=min(self.workers, len(cases)))
        try:
            yield from _share_out(ray, actors, cases, folder)
        finally:
            ray.wait([actor.leave.remote() for actor in actors], num_returns=len(actors), timeout=30)
            for actor in actors:
                ray.kill(actor)


def start_ray(workers: int) -> Any:
    """The ray module, connected to a cluster.

    Raises:
        UsageError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    try:
        import ray
    except ImportError as error:
        fix = "pip install 'latentseg[ray]', or leave out --engine"
        raise UsageError("Ray is not installed", where="--engine ray", fix=fix) from error
    if not ray.is_initialized():
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level="ERROR", **here)
    return ray


def _hire(ray: Any, order: Order, *, count: int) -> list[Any]:
    """Start workers; one that dies is replaced, and its cases are tried again."""
    remote = ray.remote(max_restarts=-1, max_task_retries=RETRIES, max_concurrency=AT_A_TIME)(Worker)
    return [remote.remote(order) for _ in range(count)]


def _share_out(
    ray: Any, actors: Sequence[Any], cases: Sequence[Case], folder: OutputFolder
) -> Iterator[Record]:
    """Give every worker the next case when it is done with one."""
    waiting = iter(cases)
    busy: dict[Any, tuple[Case, Any]] = {}

    def give(actor: Any) -> None:
        case = next(waiting, None)
        if case is not None:
            busy[actor.segment.remote(case)] = (case, actor)

    for _ in range(AT_A_TIME):
        for actor in actors:
            give(actor)
    while busy:
        (ready, *_), _ = ray.wait(list(busy))
        case, actor = busy.pop(ready)
        give(actor)
        try:
            yield ray.get(ready)
        except ray.exceptions.RayError as error:
            what = f"its worker died {RETRIES + 1} times ({type(error).__name__}); is memory short?"
            reason = LatentsegError(what, where=str(case.image), fix="run it alone, or with fewer workers")
            yield fail_case(case, reason, folder=folder)


def _on_disk(target: Any, path: Path) -> str | Path:
    """A prompt as it is, an encoded support as a file."""
    if isinstance(target, str):
        return target
    return Path(target.save(path.with_suffix(".safetensors")))


def _from_disk(target: str | Path) -> Any:
    if isinstance(target, str):
        return target
    from latentseg.methods.fewshot.context import SupportContext

    return SupportContext.load(target)
