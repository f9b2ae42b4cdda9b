"""A second pass over a cohort: the surest results of the first one are examples, too.

A cohort has one contrast and many people, the examples at hand are one or two. What the first pass found in
some scans shows the target in more people and in that contrast. Nobody has looked at it, so examples that
were marked come first, and the run says which cases served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from latentseg.batch.cases import Case
from latentseg.batch.manifest import review_list
from latentseg.batch.runner import BatchOptions, Engine, Listener, Outcome, run_batch
from latentseg.batch.store import Record
from latentseg.batch.work import Task
from latentseg.errors import UsageError, noted
from latentseg.imaging import default_suffix, read, read_labels
from latentseg.methods.results import file_name

if TYPE_CHECKING:
    from latentseg.methods.fewshot.support import Support

FIRST = "first-pass"  # folder of its masks
MOST = 8  # results that are examples of one target


def run_twice(
    task: Task,
    *,
    cases: Sequence[Case],
    out: str | Path,
    options: BatchOptions | None = None,
    engine: Engine | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Segment a cohort, and once more with the surest results among the examples.

    Args:
        task: A method that is shown examples, with supports that hold whole scans.
        cases: As in :func:`run_batch`.
        out: As there; the masks of the first pass are in ``first-pass`` below it.
        options: As there, for the whole cohort.
        engine: As there.
        listener: Told how both passes go.

    Returns:
        What became of the cases in the second pass.

    Raises:
        UsageError: Targets that take no more examples, a part of a cohort, or a case that is called
            ``first-pass``; and what :func:`run_batch` raises.
    """
    options = options or BatchOptions()
    check(task, cases, options)
    run = partial(run_batch, cases=cases, engine=engine, listener=listener)
    base = Path(out) / FIRST
    outcome = run([task], out=base, options=BatchOptions(save=("mask",), resume=options.resume))
    wider = with_results(task, outcome.records, cases={case.name: case for case in cases}, out=base)
    return run([wider], out=out, options=options)


def check(task: Task, cases: Sequence[Case], options: BatchOptions) -> None:
    """Refuse what cannot be done twice.

    Raises:
        UsageError: See :func:`run_twice`.
    """
    if options.shard:
        what = "a second pass needs the results of the whole cohort, not of one shard"
        raise UsageError(what, fix="leave out either of the two")
    for target in task.targets:
        if not getattr(target, "scans", ()):
            raise UsageError(
                f"{task.segmenter.name_of(target)!r} takes no results as further examples",
                fix="show it in volumes with their masks, not by words, pictures or an encoded support",
            )
    if any(case.name == FIRST for case in cases):
        raise UsageError(f"a case is called {FIRST!r}, as the folder of the first pass", fix="rename it")


def with_results(task: Task, records: Sequence[Record], *, cases: Mapping[str, Case], out: Path) -> Task:
    """The task whose targets are shown in their surest results, too; the manifest says in which cases."""
    chosen = {name: surest(name, records) for name in task.names}
    supports: dict[str, Support] = {task.segmenter.name_of(t): t for t in task.targets}  # type: ignore[misc]
    with noted([]):  # the first pass said it
        for case in sorted({case for served in chosen.values() for case in served}):
            how = cases[case]
            scan = read(how.image, modality=how.modality, orientation=how.orientation, dicom=how.dicom)
            for name in (name for name, served in chosen.items() if case in served):
                path = out / case / f"{case}_seg-{file_name(name)}{default_suffix(scan)}"
                mask = read_labels(path, like=scan, orientation=scan.orientation)
                supports[name] = supports[name].with_found(scan, mask)
    about = {**task.about, "results that were examples": chosen}
    return replace(task, targets=tuple(supports[name] for name in task.names), about=about)


def surest(target: str, records: Sequence[Record]) -> list[str]:
    """The cases whose result is an example: where the target was found, least in need of a review."""
    rows = review_list(record for record in records if not record.failed)
    found = [row["case"] for row in rows if row["target"] == target and not row["absent"]]
    return found[::-1][:MOST]
