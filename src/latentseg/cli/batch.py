"""`latentseg batch`: a cohort, with one model and nothing lost."""

from __future__ import annotations

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
    from latentseg.fewshot.segmenter import SegmentOptions
    from latentseg.results import check_outputs

    what = check_outputs(split_names(save) or [])
    kind, mode = read_modality(modality), read_mode(support_mode)
    found = [
        replace(case, modality=case.modality or kind, orientation=case.orientation or orientation)
        for case in find_cases(cases, out=out)
    ]
    targets = read_targets(support, target, label=label, modality=kind, orientation=orientation)
    segmenter = ls.load(
        "fewshot",
        backbone=backbone,
        weights=weights,
        options=SegmentOptions(support_mode=mode),
        precision=cast("Precision", precision),
    )
    task = runner.Task(segmenter, tuple(targets), segmenter.parts.fingerprint)
    options = runner.BatchOptions(what, resume=resume, shard=shard)
    outcome = runner.run_batch([task], cases=found, out=out, options=options, report=show_case)
    total = len(outcome.done) + len(outcome.kept) + len(outcome.failed)
    typer.echo(f"{len(outcome.done)} done, {len(outcome.kept)} kept, {len(outcome.failed)} failed; see {out}")
    if outcome.failed:
        raise SomeCasesFailed(
            f"{len(outcome.failed)} of {total} cases failed",
            where=str(out / "failures.csv"),
            fix="correct them and run again with --resume",
        )


def show_case(record: Record) -> None:
    """One line for each case that failed, as it does."""
    if record.error:
        error = LatentsegError(record.error["what"], where=record.error["where"], fix=record.error["fix"])
        error.code = record.error["code"]
        typer.echo(f"{record.case}: {error}", err=True)
