"""Segment a cohort: one model, scans are read ahead, and one that fails stops no other."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from latentseg.batch import keys
from latentseg.batch.cases import Case, take_shard
from latentseg.batch.confidence import confidence
from latentseg.batch.manifest import cases_csv, failures_csv
from latentseg.batch.store import OutputFolder, Record
from latentseg.errors import LatentsegError, UsageError, explained
from latentseg.imaging import Volume, default_suffix, read
from latentseg.results import SAVED, check_names, check_outputs, write_bytes

if TYPE_CHECKING:
    from latentseg.fewshot.context import SupportContext
    from latentseg.fewshot.support import Support
    from latentseg.results import Segmentation

    Target = str | Support | SupportContext

Report = Callable[[Record], None]


class Segmenter(Protocol):
    """What a batch needs of a method: work that no target changes, once, then each target."""

    def prepare(self, scan: Volume) -> Any:
        """Do what does not depend on the target."""
        ...

    def predict(self, prepared: Any, target: Any) -> Segmentation:
        """Segment one target."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """One method and the targets it is asked for in every scan.

    Attributes:
        segmenter: The method, loaded.
        targets: Prompts for a method that reads words, supports for one that is shown examples.
        weights: Identifies the weights of the method.
    """

    segmenter: Segmenter
    targets: tuple[Target, ...]
    weights: str = ""

    def encoded(self) -> Task:
        """The same task with every support encoded, once for all scans."""
        encode = getattr(self.segmenter, "encode_support", None)
        targets = [t if encode is None or not hasattr(t, "masks") else encode(t) for t in self.targets]
        return replace(self, targets=tuple(targets))


@dataclass(frozen=True)
class BatchOptions:
    """How a cohort is run.

    Attributes:
        save: What to write of each target, see :meth:`latentseg.results.Segmentation.save`.
        resume: Leave out the cases that are finished; without it, finished cases are an error.
        shard: Only a part of the cases, ``i/n``; None is all of them.
        read_ahead: Read the next scan while one is segmented.
    """

    save: tuple[str, ...] = SAVED
    resume: bool = False
    shard: str | None = None
    read_ahead: bool = True


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


@dataclass(frozen=True, eq=False)
class Loaded:
    """A scan in memory, with what identifies its content, and how long that took."""

    scan: Volume
    content: str
    state: Mapping[str, Any]
    seconds: float


def run_batch(
    tasks: Sequence[Task],
    *,
    cases: Sequence[Case],
    out: str | Path,
    options: BatchOptions | None = None,
    report: Report | None = None,
) -> Outcome:
    """Segment every target of every task in every case.

    Args:
        tasks: Methods with their targets; names of targets must differ across all of them.
        cases: What to work on, see :func:`latentseg.batch.cases.find_cases`.
        out: Output folder. Each case becomes ``out/<case>/``, at once and whole.
        options: See :class:`BatchOptions`.
        report: Told the record of each case when it is finished or has failed.

    Returns:
        What became of the cases. A case that fails is in ``failed`` and stops no other.

    Raises:
        UsageError: Targets that cannot be told apart, or outputs in the way.
        InputError: The output folder cannot be written.
    """
    options = options or BatchOptions()
    check_outputs(options.save)
    check_names([name_of(target) for task in tasks for target in task.targets])
    work = Work([task.encoded() for task in tasks], save=options.save)
    mine = take_shard(cases, options.shard) if options.shard else cases
    with OutputFolder(Path(out)) as folder:
        kept, pending = split_finished(mine, folder, work=work, resume=options.resume)
        records: list[Record] = []
        try:
            for case, loaded in read_all(pending, ahead=options.read_ahead):
                records.append(segment_case(case, loaded, work=work, folder=folder))
                del loaded  # before the next scan but one is read
                if report:
                    report(records[-1])
        finally:
            write_tables(cases, folder, new=records)
    done = tuple(record for record in records if not record.failed)
    return Outcome(done, tuple(kept), tuple(record for record in records if record.failed))


def write_tables(cases: Sequence[Case], folder: OutputFolder, *, new: Sequence[Record]) -> None:
    """Write `cases.csv` and `failures.csv` of the whole cohort, of all that its shards have done so far."""
    told = {record.case: record for record in new}
    found = [told.get(case.name) or folder.record(case.name) for case in cases]
    records = [record for record in found if record]
    folder.replace("cases.csv", cases_csv(records))
    folder.replace("failures.csv", failures_csv(records))


class Work:
    """What is done with every scan.

    Attributes:
        tasks: Methods with encoded targets.
        save: What is written.
        recipe: All of it that changes results, for the key of a case.
    """

    def __init__(self, tasks: Sequence[Task], *, save: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.save = tuple(save)
        self.recipe = {
            "save": sorted(save),
            "tasks": [
                {
                    "weights": task.weights,
                    "options": keys.options_of(task.segmenter),
                    "targets": [keys.target_digest(target) for target in task.targets],
                }
                for task in tasks
            ],
        }


def name_of(target: Target) -> str:
    """What a target is called in outputs."""
    return target if isinstance(target, str) else target.name


def split_finished(
    cases: Sequence[Case], folder: OutputFolder, *, work: Work, resume: bool
) -> tuple[list[Record], list[Case]]:
    """Records of the cases that are finished, and the cases that are not.

    Raises:
        UsageError: Some are finished and this is no resumed run, or foreign files are in the way.
    """
    kept: list[Record] = []
    pending: list[Case] = []
    for case in cases:
        folder.check_free(case.name)
        record = folder.record(case.name)
        if record and not resume and not record.failed:
            fix = "give --resume to go on, or choose another output folder"
            raise UsageError(f"case {case.name!r} is finished already", where=str(folder.path), fix=fix)
        if record and is_finished(case, record, work) and folder.is_whole(record):
            kept.append(record)
        else:
            pending.append(case)
    return kept, pending


def is_finished(case: Case, record: Record, work: Work) -> bool:
    """Whether a record is what segmenting the case would give again; a failed case never is.

    The content of the scan is hashed only if its size or time of change is not the recorded one.
    """
    if record.failed:
        return False
    try:
        same = all(record.scan.get(name) == value for name, value in keys.scan_state(case.image).items())
        content = str(record.scan.get("sha256")) if same else keys.scan_sha256(case.image)
    except OSError:
        return False
    return record.key == keys.case_key(case, content=content, recipe=work.recipe)


def read_all(cases: Iterable[Case], *, ahead: bool) -> Iterator[tuple[Case, Future[Loaded]]]:
    """Yield every case with its scan, read in another thread while the caller works on the one before.

    At most one scan is read ahead, so that memory does not grow. Errors wait in the future.
    """
    started: deque[tuple[Case, Future[Loaded]]] = deque()
    for case in cases:
        if started:
            started[0][1].exception()  # wait: two scans are never read at a time
        started.append((case, start_reading(case)))
        if len(started) > ahead:
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


def read_case(case: Case) -> Loaded:
    """Read a scan and hash its files.

    Raises:
        InputError: A scan that cannot be read.
        OSError: As the file system says.
    """
    start = time.perf_counter()
    scan = read(case.image, modality=case.modality, orientation=case.orientation)
    state, content = keys.scan_state(case.image), keys.scan_sha256(case.image)
    return Loaded(scan, content, state, time.perf_counter() - start)


def segment_case(case: Case, loaded: Future[Loaded], *, work: Work, folder: OutputFolder) -> Record:
    """Segment one scan and move its results into place; a failure becomes a record with the reason."""
    record = Record(case.name, str(case.image))
    try:
        return _segment_case(case, loaded.result(), work=work, folder=folder)
    except Exception as error:
        failed = replace(record, error=describe(explained(error)))
    try:
        folder.start(case.name)
        folder.finish(failed)
    except OSError:
        pass  # a full disk: the reason is still told and listed
    return failed


def _segment_case(case: Case, loaded: Loaded, *, work: Work, folder: OutputFolder) -> Record:
    staged, rows = folder.start(case.name), []
    start = time.perf_counter()
    writing = 0.0
    for task in work.tasks:
        prepared = task.segmenter.prepare(loaded.scan)
        for target in task.targets:
            result = named(task.segmenter.predict(prepared, target), case)
            started_writing = time.perf_counter()
            result.save(staged.parent, what=work.save)
            rows.append(result.stats() | asdict(confidence(result)))
            writing += time.perf_counter() - started_writing
    seconds = {"read": loaded.seconds, "segment": time.perf_counter() - start - writing, "write": writing}
    write_bytes(staged / f"{case.name}_stats.json", (json.dumps(rows, indent=2) + "\n").encode())
    record = Record(
        case.name,
        str(case.image),
        key=keys.case_key(case, content=loaded.content, recipe=work.recipe),
        scan={**loaded.state, "sha256": loaded.content},
        targets=tuple(rows),
        files={path.name: path.stat().st_size for path in sorted(staged.iterdir())},
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    folder.finish(record)
    return record


def named(result: Segmentation, case: Case) -> Segmentation:
    """The result under the name of its case, which need not be that of the file."""
    source = Path(case.name + default_suffix(result.scan))
    return replace(result, scan=replace(result.scan, source=source))


def describe(error: LatentsegError) -> dict[str, str]:
    """An error as it stands in records and tables."""
    return {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}
