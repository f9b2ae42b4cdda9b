"""`latentseg evaluate`: protocols of the literature on their own data."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from latentseg.cli.output import show_table
from latentseg.cli.segment import BackboneOption, Weights
from latentseg.errors import UsageError

app = typer.Typer(no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Run protocols of the literature on their own data."""


@app.command()
def fewshot(
    dataset: Annotated[str, typer.Option(help="Data set of the queries: SABS or CHAOS.")] = "SABS",
    folds: Annotated[str, typer.Option(help="Folds of the queries, comma-separated.")] = "0",
    support_dataset: Annotated[
        str | None, typer.Option(help="Data set of the support; default: that of the queries.")
    ] = None,
    support_index: Annotated[int, typer.Option(help="Position of the support scan in its fold.")] = 2,
    backbone: BackboneOption = "compact",
    weights: Weights = None,
    baselines: Annotated[bool, typer.Option(help="Run the two baselines on the same slices.")] = True,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for table.md, cases.csv, results.json.")
    ] = Path("evaluation"),
) -> None:
    """EP1, the few-shot field's protocol: per-patient Dice of four organs, beside two baselines."""
    import latentseg as ls
    from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching
    from latentseg.evaluation.datasets import get_dataset
    from latentseg.evaluation.methods import FewShotMethod
    from latentseg.evaluation.protocols import EP1, SliceMethod, run_ep1
    from latentseg.evaluation.tables import summarize, table_cells, write_tables
    from latentseg.results import check_writable

    check_writable(out)
    queries = get_dataset(dataset)
    source = get_dataset(support_dataset) if support_dataset else None
    runs = [
        EP1(queries, fold=fold, support_index=support_index, support_dataset=source)
        for fold in read_folds(folds)
    ]
    for protocol in runs:
        protocol.cases()  # what is missing is said before the work
    segmenter = ls.load(backbone=backbone, weights=weights)
    methods: list[SliceMethod] = [FewShotMethod(segmenter)]
    if baselines:
        methods += [PrototypeMatching(segmenter.parts.backbone), MaskCopy()]
    rows = []
    for protocol in runs:
        for outcome in run_ep1(protocol, methods=methods):
            rows.append(outcome.row)
            typer.echo(
                f"{outcome.row.patient} {outcome.row.organ} {outcome.row.method}: {outcome.row.dice:.3f}",
                err=True,
            )
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "version": ls.__version__,
        "weights": segmenter.parts.fingerprint,
    }
    write_tables(rows, folder=out, about=about)
    header, body = table_cells(summarize(rows))
    show_table(header, body)


def read_folds(text: str) -> list[int]:
    """Fold numbers such as `0,1`.

    Raises:
        UsageError: Something that is no number.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"unknown folds {text!r}", where="--folds", fix="give numbers such as 0,1")
    return [int(part) for part in parts]
