"""`latentseg batch`: a cohort, with one model and nothing lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from latentseg.cli.segment import (
    BackboneOption,
    Label,
    ModalityOption,
    Mode,
    Orientation,
    Supports,
    Targets,
    Weights,
    read_modality,
    read_mode,
    read_targets,
    split_names,
)
from latentseg.errors import LatentsegError, SomeCasesFailed

if TYPE_CHECKING:
    from latentseg.api import Precision
    from latentseg.batch.store import Record

app = typer.Typer()


@app.command()
def batch(
    cases: Annotated[Path, typer.Argument(help="A folder of scans, or a CSV file with a column 'image'.")],
    support: Supports,
    target: Targets = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("out"),
    save: Annotated[str, typer.Option(help="What to write: any of mask,prob,preview.")] = "mask,prob,preview",
    resume: Annotated[bool, typer.Option("--resume", help="Leave out what is finished.")] = False,
    shard: Annotated[
        str | None, typer.Option(help="Only a part of the cases: 0/4 is the first of 4.")
    ] = None,
    label: Label = None,
    modality: ModalityOption = None,
    orientation: Orientation = None,
    support_mode: Mode = "nearest",
    backbone: BackboneOption = "compact",
    weights: Weights = None,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
) -> None:
    """Segment many scans; a scan that fails is listed and stops no other."""
    import latentseg as ls
    from latentseg.batch import runner
    from latentseg.batch.cases import find_cases
    from latentseg.batch.manifest import weights_facts
    from latentseg.batch.work import Task
    from latentseg.fewshot.segmenter import SegmentOptions
    from latentseg.results import check_outputs

    what = check_outputs(split_names(save) or [])
    kind, mode = read_modality(modality), read_mode(support_mode)
    found = [
        replace(case, modality=case.modality or kind, orientation=case.orientation or orientation)
        for case in find_cases(cases, out=out)
    ]
    targets = read_targets(support or [], target, label=label, modality=kind, orientation=orientation)
    segmenter = ls.load(
        "fewshot",
        backbone=backbone,
        weights=weights,
        options=SegmentOptions(support_mode=mode),
        precision=cast("Precision", precision),
    )
    about = weights_facts(backbone, weights)
    task = Task(segmenter, tuple(targets), segmenter.parts.fingerprint, about)
    options = runner.BatchOptions(what, resume=resume, shard=shard)
    outcome = runner.run_batch([task], cases=found, out=out, options=options, listener=Progress())
    total = len(outcome.done) + len(outcome.kept) + len(outcome.failed)
    typer.echo(f"{len(outcome.done)} done, {len(outcome.kept)} kept, {len(outcome.failed)} failed; see {out}")
    if outcome.failed:
        raise SomeCasesFailed(
            f"{len(outcome.failed)} of {total} cases failed",
            where=str(out / "failures.csv"),
            fix="correct them and run again with --resume",
        )


class Progress:
    """Failures as they happen, and on a terminal a bar with the time that is left."""

    def __init__(self) -> None:
        from rich import progress
        from rich.console import Console

        console = Console(stderr=True, highlight=False, markup=False)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def started(self, *, pending: int, kept: int) -> None:
        """Show the bar."""
        self.row = self.bar.add_task("cases", total=pending + kept, completed=kept)
        self.bar.start()

    def finished(self, record: Record) -> None:
        """Move the bar; say why a case failed."""
        self.bar.advance(self.row)
        if record.error:
            self.bar.console.print(f"{record.case}: {as_error(record.error)}", soft_wrap=True)

    def ended(self) -> None:
        """Remove the bar."""
        self.bar.stop()


def as_error(reason: Mapping[str, str]) -> LatentsegError:
    """The error of a failed case, as it was raised."""
    error = LatentsegError(reason["what"], where=reason["where"], fix=reason["fix"])
    error.code = reason["code"]
    return error
