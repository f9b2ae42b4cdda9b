"""`latentseg report`: one page that says what became of a batch, and what to look at first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A folder that `latentseg batch` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The page; default: report.html in that folder.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=0, help="Results with pictures, those to look at first.")
    ] = 100,
) -> None:
    """Write one HTML page about a batch; it needs no other file and no network."""
    from latentseg.report.cohort import read_run
    from latentseg.report.cohort_cases import findings
    from latentseg.report.cohort_page import cohort_page
    from latentseg.report.page import write_page

    found = read_run(run)
    page = cohort_page(found, [one for case in findings(found, pictures=pictures) for one in case])
    path = write_page(page, path=out or run / "report.html")
    typer.echo(f"Look at {path.resolve()}")
