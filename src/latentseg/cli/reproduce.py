"""`latentseg reproduce`: from a data set as it is downloaded to the table of a paper, step by step."""

from __future__ import annotations

import typer

from latentseg.cli.reproduce_diffugts import diffugts
from latentseg.cli.reproduce_sdfsmis import sdfsmis

app = typer.Typer(no_args_is_help=True)
app.command()(sdfsmis)
app.command()(diffugts)


@app.callback()
def reproduce() -> None:
    """Reproduce a paper: prepare the data, train, export, evaluate, and write its table beside ours."""
