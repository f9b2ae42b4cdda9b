"""`latentseg batch`: a cohort, with one model and nothing lost."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from latentseg.cli import shared
from latentseg.cli.output import human_bytes, in_options, show_table
from latentseg.cli.progress import BatchProgress, Progress, human_time
from latentseg.cli.request import Request
from latentseg.errors import SomeCasesFailed

if TYPE_CHECKING:
    from latentseg.batch.cases import Case
    from latentseg.batch.runner import BatchOptions, Engine, Outcome
    from latentseg.batch.work import Task

app = typer.Typer()

Cohort = Annotated[
    Path, typer.Argument(help="A folder of scans and DICOM studies, or a CSV file with a column 'image'.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run: what is finished is kept.")]
Shard = Annotated[str | None, typer.Option(help="Only a part of the cases: 0/4 is the first of four parts.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what there is, how long it takes and in what memory.")
]
EngineOption = Annotated[
    Literal["here", "ray"], typer.Option("--engine", help="ray: the same cases through --workers.")
]
Workers = Annotated[int, typer.Option(help="Of --engine ray: each loads the model.", min=1)]
SecondPass = Annotated[
    bool, typer.Option("--second-pass", help="Once more, with the surest results among the examples.")
]
SHOWN_PROBLEMS = 20  # of a dry run; the rest is counted


@app.command()
@shared.with_options(Request, without=["series"], after="save")
def batch(
    cases: Cohort,
    request: Request,
    resume: Resume = False,
    shard: Shard = None,
    dry_run: DryRun = False,
    engine: EngineOption = "here",
    workers: Workers = 2,
    second_pass: SecondPass = False,
) -> None:
    """Segment many scans; one that fails is listed with its reason and stops no other."""
    from latentseg.batch.cases import find_cases
    from latentseg.batch.manifest import weights_facts
    from latentseg.batch.runner import BatchOptions
    from latentseg.batch.work import Task

    outputs, out = request.outputs(), request.out
    cohort = [with_defaults(case, **request.reading) for case in find_cases(cases, out=out)]
    targets, load = request.targets(), request.loader
    segmenter = load()
    for line in request.known_lines(segmenter):
        typer.echo(line)
    outputs, priority = request.with_combined(outputs, targets)
    options = BatchOptions(outputs, resume=resume, shard=shard, combined=tuple(priority or ()))
    about = weights_facts(request.backbone, request.weights)
    about |= {"seed": request.seed} if request.prompt else {}
    task = Task(segmenter, tuple(targets), segmenter.fingerprint, about, load)
    if dry_run:
        show_estimate(task, cohort, out=out, options=options, passes=1 + second_pass)
    else:
        how: Any = {"options": options, "engine": engine_of(engine, workers=workers)}
        run(task, cohort, out=out, twice=second_pass, **how)


def engine_of(name: str, *, workers: int) -> Engine | None:
    """What goes through the cases; None is this process."""
    from latentseg.batch.ray_engine import RayEngine

    return RayEngine(workers=workers) if name == "ray" else None


def run(
    task: Task,
    cohort: Sequence[Case],
    *,
    out: Path,
    options: BatchOptions,
    engine: Engine | None,
    twice: bool = False,
) -> None:
    """Go through the cases.

    Raises:
        SomeCasesFailed: Some could not be segmented.
    """
    from latentseg.batch.runner import run_batch
    from latentseg.batch.second_pass import run_twice

    with stoppable(), BatchProgress("batch") as progress:
        how: Any = {"cases": cohort, "out": out, "options": options, "engine": engine, "listener": progress}
        outcome = run_twice(task, **how) if twice else run_batch([task], **how)
    show_outcome(outcome, out)


def show_outcome(outcome: Outcome, out: Path) -> None:
    """How many cases became what, and where to look first.

    Raises:
        SomeCasesFailed: Some could not be segmented.
    """
    done, kept, failed = len(outcome.done), len(outcome.kept), len(outcome.failed)
    typer.echo(f"{done} done, {kept} kept, {failed} failed")
    noted = sum(bool(record.warnings) for record in outcome.records)
    hint = f"; {noted} cases with warnings" if noted else ""
    typer.echo(f"what to look at first: {out / 'cases.csv'}{hint}")
    if failed:
        what = f"{failed} of {done + kept + failed} cases failed"
        where, fix = str(out / "failures.csv"), "correct them and run again with --resume"
        raise SomeCasesFailed(what, where=where, fix=fix)


def show_estimate(
    task: Task, cohort: Sequence[Case], *, out: Path, options: BatchOptions, passes: int = 1
) -> None:
    """Time and memory of what a run would do; nothing is written.

    Raises:
        SomeCasesFailed: Some scans cannot be read.
    """
    from latentseg.backbones.device import free_bytes
    from latentseg.batch import estimate
    from latentseg.batch.runner import plan

    with Progress("dry run") as progress:
        progress.stage("what is finished")
        kept, pending = plan([task], cases=cohort, out=out, options=options)
        progress.stage("timing two phantoms")
        cost = estimate.measure([task], save=options.save)
        estimates = estimate.estimate_cases(pending, cost, on_progress=progress)
    rows = [
        (e.case.name, " x ".join(map(str, e.grid.shape)), e.grid.slices, f"{e.seconds:.0f} s")
        for e in estimates
        if e.grid
    ]
    show_table(("case", "grid", "slices", "time"), rows)
    bad = [e for e in estimates if e.problem]
    for one in bad[:SHOWN_PROBLEMS]:
        typer.echo(f"{one.case.name}: {in_options(one.problem)}", err=True)
    free, most = free_bytes(), max((e.memory_bytes for e in estimates), default=0.0)
    typer.echo(f"cases   {len(rows)} to do, {len(kept)} finished, {len(bad)} cannot be read")
    typer.echo(f"time    about {human_time(passes * sum(e.seconds for e in estimates))} on this machine")
    typer.echo(f"memory  about {human_bytes(most)}, of {human_bytes(free)} that are free")
    if bad:
        what = f"{len(bad)} of {len(pending)} cases cannot be read"
        raise SomeCasesFailed(what, where=str(out), fix="correct them, or leave them to failures.csv")


def with_defaults(
    case: Case, *, modality: Any = None, orientation: str | None = None, dicom: Any = None
) -> Case:
    """A case with the options of the command line, where it has none of its own."""
    if case.dicom:
        dicom = replace(dicom, series=case.dicom.series)
    return replace(
        case,
        modality=case.modality or modality,
        orientation=case.orientation or orientation,
        dicom=None if dicom == type(dicom)() else dicom,
    )


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, end a run as cleanly as Ctrl-C."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
