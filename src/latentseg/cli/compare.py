"""`latentseg compare`: two runs, case by case."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.errors import UsageError

app = typer.Typer()

Run = Annotated[Path, typer.Argument(help="A folder that `latentseg evaluate` wrote, or its cases.csv.")]
Only = Annotated[
    list[str] | None, typer.Option(help="Take only some rows of it, such as method=NAME; may be repeated.")
]


@app.command()
def compare(
    run_a: Run,
    run_b: Run,
    a: Only = None,
    b: Only = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="CSV file of all pairs.")] = None,
    as_json: AsJson = False,
) -> None:
    """Paired differences A - B per case, with bootstrap intervals over patients."""
    from latentseg.evaluation.comparison import (
        difference_cells,
        differences,
        pair_records,
        pairs_csv,
        read_run,
    )
    from latentseg.imaging.files import write_file

    paired = pair_records(read_run(run_a, only=read_filter(a)), read_run(run_b, only=read_filter(b)))
    found = differences(paired)
    if out is not None:
        write_file(out, pairs_csv(paired))
    if as_json:
        show_json([asdict(one) for one in found])
        return
    show_table(*difference_cells(found))
    if paired.only_a or paired.only_b:
        typer.echo(f"without a partner: {paired.only_a} rows of A, {paired.only_b} of B", err=True)


def read_filter(words: list[str] | None) -> dict[str, str]:
    """Columns and their values from words such as `method=NAME`.

    Raises:
        UsageError: A word without `=`.
    """
    pairs = [word.partition("=") for word in words or []]
    for column, equals, value in pairs:
        if not (column and equals and value):
            raise UsageError(f"unknown filter '{column}{equals}{value}'", fix="write COLUMN=VALUE")
    return {column: value for column, _, value in pairs}
