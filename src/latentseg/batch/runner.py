"""Run a batch: plan which cases are left to do, segment them one by one, and write the tables.

The next scan is read while the current one is segmented. Finished cases are not done again, and a case that
fails is recorded with its reason while the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Protocol

from latentseg.batch import keys
from latentseg.batch.cases import Case, take_shard
from latentseg.batch.manifest import Manifest, cases_csv, failures_csv
from latentseg.batch.store import OutputFolder, Record
from latentseg.batch.supports import save_supports
from latentseg.batch.work import Loaded, Task, Work, read_case, recipe_of, segment_case
from latentseg.errors import Interrupted, UsageError, caution
from latentseg.methods.results import ONE_FILE, SAVED, check_names, check_priority

Engine = Callable[[Sequence[Case], Work, OutputFolder], Iterator[Record]]


@dataclass(frozen=True)
class BatchOptions:
    """How a cohort is run.

    Attributes:
        save: What to write of each target, see :meth:`latentseg.methods.results.Segmentation.save`.
        resume: Leave out the cases that are finished; without it, finished cases are an error.
        shard: Only a part of the cases, ``i/n``; None is all of them.
        combined: One label map of each case: all targets, in order of priority. Empty for none, or for the
            order of the targets where ``save`` asks for one.
    """

    save: tuple[str, ...] = SAVED
    resume: bool = False
    shard: str | None = None
    combined: tuple[str, ...] = ()

    def in_one_map(self, tasks: Sequence[Task]) -> tuple[str, ...]:
        """The targets of one label map, in order of priority; empty for none."""
        wanted = self.combined or not set(ONE_FILE) & set(self.save)
        return self.combined if wanted else tuple(name for task in tasks for name in task.names)


@dataclass(frozen=True)
class Outcome:
    """What became of the cases that a run was given.

    Attributes:
        done: Cases segmented in this run.
        kept: Cases that were finished before.
        failed: Cases that could not be segmented, each with its reason.
    """

    done: tuple[Record, ...] = ()
    kept: tuple[Record, ...] = ()
    failed: tuple[Record, ...] = ()

    @property
    def records(self) -> tuple[Record, ...]:
        """All of them."""
        return (*self.kept, *self.done, *self.failed)


class Listener(Protocol):
    """Is called while a run goes on, to show its progress."""

    def started(self, *, pending: int, kept: int) -> None:
        """The run begins: ``pending`` cases are to be done, ``kept`` were finished before."""

    def finished(self, record: Record) -> None:
        """One case is done, or has failed."""

    def ended(self) -> None:
        """The run is over, for whatever reason."""


class Silence:
    """A listener that does nothing."""

    def started(self, *, pending: int, kept: int) -> None:
        """Nothing."""

    def finished(self, record: Record) -> None:
        """Nothing."""

    def ended(self) -> None:
        """Nothing."""


def run_batch(
    tasks: Sequence[Task],
    *,
    cases: Sequence[Case],
    out: str | Path,
    options: BatchOptions | None = None,
    engine: Engine | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Segment every target of every task in every case.

    Args:
        tasks: Methods with their targets; names of targets must differ across all of them.
        cases: The cohort, see :func:`latentseg.batch.cases.find_cases`.
        out: Output folder. Each case becomes ``out/<case>/``, at once and whole.
        options: See :class:`BatchOptions`.
        engine: What goes through the cases; default: :func:`run_here`.
        listener: Told how the run goes.

    Returns:
        What became of the cases. A case that fails is in ``failed`` and stops no other.

    Raises:
        UsageError: Targets that cannot be told apart or read, an unknown shard, or outputs in the way.
        ModelError: A support that other weights have encoded.
        InputError: The output folder cannot be written.
        Interrupted: By Ctrl-C; what is finished is kept.
    """
    options, listener = options or BatchOptions(), listener or Silence()
    kept, pending = plan(tasks, cases=cases, out=out, options=options)
    with OutputFolder(Path(out)) as folder:
        pending.sort(key=lambda case: case.name in folder.abandoned)  # what may kill the run goes last
        listener.started(pending=len(pending), kept=len(kept))
        manifest = Manifest.begin(tasks, save=options.save, shard=options.shard)
        folder.replace(manifest.name, manifest.text(kept))
        new: list[Record] = []
        status = "stopped by an error"
        try:
            save_supports(tasks, folder.path)
            encoded = tuple(task.encoded() for task in tasks) if pending else ()
            recipe = recipe_of(tasks, options.save, combined=options.in_one_map(tasks))
            work = Work(encoded, tuple(options.save), recipe, options.in_one_map(tasks))
            for record in (engine or run_here)(pending, work, folder):
                new.append(record)
                listener.finished(record)
            status = "finished"
        except KeyboardInterrupt as error:
            status = "interrupted"
            what = f"interrupted, {len(kept) + len(new)} of {len(kept) + len(pending)} cases are finished"
            raise Interrupted(what, fix="run again with --resume to go on") from error
        finally:
            listener.ended()
            write_tables(cases, folder, new=[*kept, *new], manifest=manifest.ended(status))
    failed = tuple(record for record in new if record.failed)
    return Outcome(tuple(record for record in new if not record.failed), tuple(kept), failed)


def write_tables(
    cases: Sequence[Case], folder: OutputFolder, *, new: Sequence[Record], manifest: Manifest
) -> None:
    """Write the tables of the whole cohort, of all that its shards have done so far, and the manifest."""
    told = {record.case: record for record in new}
    found = [told.get(case.name) or folder.record(case.name) for case in cases]
    records = [record for record in found if record]
    texts = {
        "failures.csv": failures_csv(records),
        "cases.csv": cases_csv(records),
        manifest.name: manifest.text(new),
    }
    for name, text in texts.items():
        try:
            folder.replace(name, text)
        except OSError as error:
            caution(f"cannot write {folder.path / name} ({error.strerror or error})")


def plan(
    tasks: Sequence[Task], *, cases: Sequence[Case], out: str | Path, options: BatchOptions
) -> tuple[list[Record], list[Case]]:
    """Records of the cases that are finished, and the cases that a run would do; nothing is written.

    Raises:
        UsageError: Targets that cannot be told apart, a prompt that cannot be read, some cases are finished
            and this is no resumed run, foreign files are in the way, or there is no such shard.
        ModelError: A support that other weights have encoded.
    """
    names = [name for task in tasks for name in task.names]
    check_names(names)
    if options.combined:
        check_priority(options.combined, names)
    for task in tasks:
        task.check()
    folder, recipe = (
        OutputFolder(Path(out)),
        recipe_of(tasks, options.save, combined=options.in_one_map(tasks)),
    )
    kept: list[Record] = []
    pending: list[Case] = []
    for case in take_shard(cases, options.shard) if options.shard else cases:
        folder.check_free(case.name)
        record = folder.record(case.name)
        if record and not options.resume and not record.failed:
            fix = "give --resume to go on, or choose another output folder"
            raise UsageError(f"case {case.name!r} is finished already", where=str(folder.path), fix=fix)
        if record and is_finished(case, record, recipe=recipe) and folder.is_whole(record):
            kept.append(record)
        else:
            pending.append(case)
    return kept, pending


def is_finished(case: Case, record: Record, *, recipe: object) -> bool:
    """Whether a record is what segmenting the case would give again; a failed case never is.

    The content of the scan is hashed only if its size or time of change is not the recorded one.
    """
    if record.failed:
        return False
    try:
        state = keys.scan_state(case.image)
        same = all(record.scan.get(name) == value for name, value in state.items())
        content = str(record.scan.get("sha256")) if same else keys.scan_sha256(case.image)
    except OSError:
        return False
    return record.key == keys.case_key(case, content=content, recipe=recipe)


def run_here(cases: Sequence[Case], work: Work, folder: OutputFolder) -> Iterator[Record]:
    """The default engine: one case after the other in this process, the next one read meanwhile."""
    for case, loading in read_ahead(cases):
        yield segment_case(case, loading.result, work=work, folder=folder)
        del loading  # before the next scan but one is read


def read_ahead(cases: Iterable[Case]) -> Iterator[tuple[Case, Future[Loaded]]]:
    """Yield every case with its scan, read in another thread while the caller works on the one before.

    At most one scan is read ahead, so that memory does not grow. Errors wait in the future.
    """
    started: deque[tuple[Case, Future[Loaded]]] = deque()
    for case in cases:
        if started:
            started[0][1].exception()  # wait: two scans are never read at a time
        started.append((case, start_reading(case)))
        if len(started) > 1:
            yield started.popleft()
    while started:
        yield started.popleft()


def start_reading(case: Case) -> Future[Loaded]:
    """Read a scan in a thread that does not keep the program from ending."""
    future: Future[Loaded] = Future()

    def work() -> None:
        try:
            future.set_result(read_case(case))
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True, name=f"read {case.name}").start()
    return future
