"""`latentseg demo`: from nothing to a page of overlays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentseg.cli import shared
from latentseg.cli.output import show_table

app = typer.Typer()


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")] = Path("out/demo"),
    queries: Annotated[
        int, typer.Option(min=1, help="Real scans to segment per setting, where data are there.")
    ] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms.")] = 0,
    device: shared.DeviceOption = "auto",
) -> None:
    """Segment phantoms, and real scans where they are; print Dice and write one HTML page."""
    import latentseg as ls
    from latentseg.demo import DemoOptions, run
    from latentseg.methods.results import check_writable

    check_writable(out)

    segmenter, options = ls.load("fewshot", device=device), DemoOptions(out, queries, seed)
    page, tables = run(segmenter, options, say=lambda text: typer.echo(text, err=True))
    for table in tables:
        typer.echo(f"\n{table.title}")
        show_table(table.columns, table.rows)
    typer.echo(f"\nLook at {page.resolve()}")
