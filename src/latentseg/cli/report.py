"""`latentseg report`: one page that says what became of a batch, and what to look at first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentseg.cli import shared
from latentseg.cli.progress import Progress
from latentseg.errors import SomeCasesFailed, UsageError, caution

if TYPE_CHECKING:
    from latentseg.report.cohort_cases import Finding

app = typer.Typer()

SHOWN_PROBLEMS = 20  # of truths; the rest is on the page


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A folder that `latentseg batch` wrote.")],
    truth: Annotated[
        Path | None, typer.Option(help="True masks: CASE.nii.gz, CASE_seg-TARGET.nii.gz, TARGET/CASE.nii.gz.")
    ] = None,
    labels: shared.LabelsOption = None,
    tolerance_mm: shared.Tolerance = 2.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; default: report.html in the run's folder.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Results with pictures, those to look at first.")
    ] = 100,
    slices: Annotated[
        int, typer.Option(min=0, help="Slices of a scan that can be scrolled, at most; 0 for none.")
    ] = 40,
) -> None:
    """Write one HTML page about a batch; it needs no other file and no network."""
    from latentseg.evaluation.label_maps import MetricOptions
    from latentseg.report.cohort import read_run
    from latentseg.report.cohort_cases import findings
    from latentseg.report.cohort_page import cohort_page
    from latentseg.report.cohort_truth import find_truth
    from latentseg.report.page import write_page
    from latentseg.report.stack import Room

    if labels and not truth:
        raise UsageError("labels of no truth", where="--labels", fix="give --truth too")
    read = read_run(run)
    known = find_truth(truth, run=read, labels=labels) if truth else None
    metrics = MetricOptions(tolerance_mm=tolerance_mm)
    room, path = Room(slices), out or run / "report.html"
    found = []
    with Progress("report") as progress:
        looked_at = findings(read, truth=known, metrics=metrics, pictures=pictures, room=room)
        for done, case in enumerate(looked_at, start=1):
            found += case
            progress(done, len(read.done), read.done[done - 1].case)
        page = cohort_page(read, found, metrics=metrics if truth else None, folder=path.parent)
        path = write_page(page, path=path)
    typer.echo(f"Look at {path.resolve()}")
    if truth:
        tell_left_out(found, truth)


def tell_left_out(found: Sequence[Finding], truth: Path) -> None:
    """Say which cases were not compared.

    Raises:
        SomeCasesFailed: Some have a truth that cannot be used.
    """
    from latentseg.report.cohort_scores import listed, without_truth

    if missing := without_truth(found):
        caution(f"no truth of {len(missing)} cases, which are not in the means: {listed(missing)} ({truth})")
    problems = [one for one in found if one.problem]
    for one in problems[:SHOWN_PROBLEMS]:
        typer.echo(f"{one.row['case']}: {one.problem}", err=True)
    if problems:
        what = f"{len(problems)} of {len(found)} results could not be compared with the truth"
        raise SomeCasesFailed(what, where=str(truth), fix="correct what is listed above and run again")
