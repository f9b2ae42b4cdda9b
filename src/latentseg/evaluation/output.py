"""The files of an evaluation: every case as CSV, everything as JSON, and the Markdown page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from latentseg.evaluation.page import page
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import DERIVED, summarize
from latentseg.imaging.files import written_whole


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
    summaries = summarize(rows)
    results = {
        "about": dict(about or {}),
        "summaries": [asdict(summary) for summary in summaries],
        "cases": [asdict(row) | {name: getattr(row, name) for name in DERIVED} for row in rows],
    }
    _write(page(summaries, about=about or {}), Path(folder) / "table.md")
    _write(csv_text(rows), Path(folder) / "cases.csv")
    _write(json.dumps(results, indent=1) + "\n", Path(folder) / "results.json")


def csv_text(rows: Iterable[Row]) -> str:
    """One line per row, with Dice, IoU and both volumes in milliliters."""
    names = [field.name for field in fields(Row)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *DERIVED])
    for row in rows:
        values = [getattr(row, name) for name in (*names, *DERIVED)]
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return stream.getvalue()


def _write(text: str, path: Path) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
