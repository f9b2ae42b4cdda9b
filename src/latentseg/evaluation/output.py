"""The files of an evaluation: every case as CSV, everything as JSON, and the Markdown page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from latentseg.evaluation.page import page
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import DERIVED, summarize
from latentseg.imaging.files import csv_text, write_file, write_json


def write_tables(
    rows: Sequence[Row], *, folder: str | Path, about: Mapping[str, object] | None = None
) -> None:
    """Write `cases.csv`, `table.md` and `results.json` (summaries, rows and `about`) into `folder`.

    Args:
        rows: Every evaluated case.
        folder: Destination, made if it does not exist.
        about: Facts to store beside the numbers: date, versions, weights, seed.

    Raises:
        InputError: There is no row, or the folder cannot be written.
    """
    summaries, about = summarize(rows), about or {}
    write_results(
        [asdict(row) | {name: getattr(row, name) for name in DERIVED} for row in rows],
        summaries,
        folder=Path(folder),
        about=about,
        text=page(summaries, about=about),
    )


def write_results(
    rows: Sequence[Mapping[str, Any]],
    summaries: Sequence[Any],
    *,
    folder: Path,
    about: Mapping[str, object],
    text: str,
) -> None:
    """Write the three files of any evaluation.

    Args:
        rows: At least one.
        summaries: Dataclasses.
        folder: Destination, made if it does not exist.
        about: Facts to store beside the numbers.
        text: Of `table.md`.

    Raises:
        InputError: The folder cannot be written.
    """
    results = {"about": dict(about), "summaries": [asdict(one) for one in summaries], "cases": rows}
    write_file(folder / "table.md", text)
    write_file(folder / "cases.csv", csv_text(rows))
    write_json(folder / "results.json", results)
