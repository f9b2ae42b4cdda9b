"""The work on one case of a batch: read the scan, segment every target, write results and confidence."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentseg.batch import keys
from latentseg.batch.cases import Case
from latentseg.batch.confidence import confidence
from latentseg.batch.store import OutputFolder, Record
from latentseg.errors import LatentsegError, explained, noted
from latentseg.imaging import Volume, default_suffix, read
from latentseg.imaging.files import write_json
from latentseg.imaging.orientation import warn_of_orientation
from latentseg.methods.base import Segmenter
from latentseg.methods.results import Segmentations

if TYPE_CHECKING:
    from latentseg.methods.fewshot.context import SupportContext
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.results import Segmentation

    Target = str | Support | SupportContext

MEND = "Give --orientation auto, or {codes} in the column 'orientation' of a table of cases"


@dataclass(frozen=True, eq=False)
class Task:
    """A method and the targets that it segments in every scan.

    Attributes:
        segmenter: The method, loaded.
        targets: Prompts for a method that reads words, supports for one that is shown examples.
        weights: Identifies the weights of the method.
        about: What the manifest says of them: model, licence, hashes.
        load: Loads the method again, in a process on another machine.
    """

    segmenter: Segmenter[Any, Any]
    targets: tuple[Target, ...]
    weights: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    load: Callable[[], Segmenter[Any, Any]] | None = None

    @property
    def names(self) -> list[str]:
        """What the targets are called."""
        return [self.segmenter.name_of(target) for target in self.targets]

    @property
    def options(self) -> dict[str, Any]:
        """The options of the method."""
        options = self.segmenter.options
        return asdict(options) if is_dataclass(options) and not isinstance(options, type) else {}

    def check(self) -> None:
        """Refuse targets that would fail in every case.

        Raises:
            UsageError: A prompt that cannot be read, or a support encoded with the other ``compat``.
            ModelError: A support that other weights have encoded.
        """
        for target in self.targets:
            self.segmenter.check(target)

    def encoded(self) -> Task:
        """The same task with every support encoded, once for all scans."""
        return replace(self, targets=tuple(self.segmenter.encode(target) for target in self.targets))


@dataclass(frozen=True, eq=False)
class Work:
    """What is done with every scan.

    Attributes:
        tasks: Methods with encoded targets.
        save: What is written of each target.
        recipe: All that changes results, for the key of a case.
        combined: Targets of one label map, in order of priority; empty for none.
    """

    tasks: tuple[Task, ...]
    save: tuple[str, ...]
    recipe: Mapping[str, Any]
    combined: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Loaded:
    """A scan in memory.

    Attributes:
        scan: The scan.
        state: Size, time of change and sha256 of its files.
        notes: What reading it warned of.
        seconds: How long that took.
    """

    scan: Volume
    state: Mapping[str, Any]
    notes: tuple[str, ...]
    seconds: float


def recipe_of(tasks: Sequence[Task], save: Sequence[str], *, combined: Sequence[str] = ()) -> dict[str, Any]:
    """All that changes results and is not the scan: weights, options, targets as they were given."""
    return {
        **({"combined": list(combined)} if combined else {}),
        "save": sorted(save),
        "tasks": [
            {
                "weights": task.weights,
                "options": task.options,
                "targets": [keys.target_digest(target) for target in task.targets],
            }
            for task in tasks
        ],
    }


def read_case(case: Case) -> Loaded:
    """Read a scan and hash its files.

    Raises:
        InputError: A scan that cannot be read.
        OSError: As the file system says.
    """
    start = time.perf_counter()
    with noted([]) as notes:
        scan = read(case.image, modality=case.modality, orientation=case.orientation, dicom=case.dicom)
        if case.orientation is None:
            warn_of_orientation(scan, fix=MEND)
    state = {**keys.scan_state(case.image), "sha256": keys.scan_sha256(case.image)}
    return Loaded(scan, state, tuple(notes), time.perf_counter() - start)


def segment_case(case: Case, load: Callable[[], Loaded], *, work: Work, folder: OutputFolder) -> Record:
    """Segment one scan and move its results into place; a failure becomes a record with the reason."""
    try:
        return _segment(case, load(), work=work, folder=folder)
    except Exception as error:
        return fail_case(case, explained(error), folder=folder)


def fail_case(case: Case, error: LatentsegError, *, folder: OutputFolder) -> Record:
    """Record why a case has no results."""
    reason = {"code": error.code, "what": error.what, "where": error.where, "fix": error.fix}
    record = Record(case.name, str(case.image), error=reason)
    with suppress(OSError):  # where the disk is full the reason is still told and listed
        folder.start(case.name)
        folder.finish(record)
    return record


def _segment(case: Case, loaded: Loaded, *, work: Work, folder: OutputFolder) -> Record:
    start, writing = time.perf_counter(), 0.0
    staged, rows, kept = folder.start(case.name), [], Segmentations()
    with noted(list(loaded.notes)) as notes:
        for task in work.tasks:
            prepared = task.segmenter.prepare(loaded.scan)
            for target in task.targets:
                result = named(task.segmenter.predict(prepared, target), case)
                rows.append(result.stats() | asdict(confidence(result)))
                began = time.perf_counter()
                result.save(staged.parent, what=work.save)
                writing += time.perf_counter() - began
                if work.combined:
                    kept[result.target] = result
        if work.combined:
            kept.save_combined(staged.parent, work.combined, what=work.save)
    write_json(staged / f"{case.name}_stats.json", rows)
    computing = time.perf_counter() - start - writing
    seconds = {"read": loaded.seconds, "segment": computing, "write": writing}
    record = Record(
        case.name,
        str(case.image),
        key=keys.case_key(case, content=loaded.state["sha256"], recipe=work.recipe),
        scan=loaded.state,
        reading=case.reading,
        targets=tuple(rows),
        files={path.name: path.stat().st_size for path in sorted(staged.iterdir())},
        warnings=tuple(dict.fromkeys(notes)),
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )
    folder.finish(record)
    return record


def named(result: Segmentation, case: Case) -> Segmentation:
    """The result under the name of its case, which need not be that of the file."""
    scan = result.scan
    header = replace(scan.header, case=case.name) if hasattr(scan.header, "case") else scan.header
    source = Path(case.name + default_suffix(scan))
    return replace(result, scan=replace(scan, source=source, header=header))
