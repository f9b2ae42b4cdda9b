"""`latentseg segment`: one scan, any number of targets, named by a prompt or shown in examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from latentseg.cli import shared
from latentseg.cli.output import show_table
from latentseg.cli.progress import Progress
from latentseg.cli.request import Request

if TYPE_CHECKING:
    from latentseg.methods.results import Segmentations

app = typer.Typer()


@app.command()
@shared.with_options(Request, without=["seed"])
def segment(image: shared.Image, request: Request) -> None:
    """Segment a scan by examples or by prompts; masks are written on exactly the scan's grid."""
    import latentseg as ls
    from latentseg.imaging.orientation import warn_of_orientation
    from latentseg.methods.results import ONE_FILE

    outputs, targets = request.outputs(), request.targets()
    outputs, priority = request.with_combined(outputs, targets)
    with Progress("segment") as progress:
        progress.stage("reading the scan")
        scan = ls.read(image, **request.reading)
        if request.orientation is None:
            warn_of_orientation(scan)
        progress.stage("loading the model")
        segmenter = request.loader()
        known = request.known_lines(segmenter)
        if takes := segmenter.needs(scan):
            progress.say(takes)
        results = segmenter(scan, targets, on_progress=progress)
        progress.stage("writing")
        results.save(request.out, what=[one for one in outputs if one not in ONE_FILE])
        overlap = None if priority is None else results.save_combined(request.out, priority, what=outputs)
    show_results(results, overlap)
    for line in known:
        typer.echo(line)
    typer.echo(f"written to {request.out / scan.name}")


def show_results(results: Segmentations, overlap: int | None) -> None:
    """One line per target, and how many voxels several of them claim in one label map."""
    if overlap is not None:
        typer.echo(f"combined: {overlap} voxels were claimed by more than one target")
    rows = [
        (
            s["target"],
            "absent" if s["absent"] else f"{s['volume_ml']:.1f} ml",
            f"{s['presence']:.2f}",
            s["components"],
        )
        for s in (result.stats() for result in results.values())
    ]
    show_table(("target", "volume", "presence", "parts"), rows)
