"""The tables of a run: all results in the order in which to look at them, and all failures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latentseg.batch.confidence import Confidence
from latentseg.batch.store import Record

CONFIDENCE = ("presence", "uncertainty", "worst_slice", "slice_axis", "touches_border")
COLUMNS = (
    *("rank", "case", "target", "why", "review", "absent", *CONFIDENCE),
    *("volume_ml", "components", "image"),
)
FAILURE_COLUMNS = ("case", "image", "code", "what", "where", "fix")


def review_list(records: Iterable[Record]) -> list[dict[str, Any]]:
    """A row per case and target, those first that a person should look at first."""
    rows = []
    for record in records:
        for row in record.targets:
            sure = Confidence(**{name: row[name] for name in CONFIDENCE})
            about = {"case": record.case, "image": record.image, "why": sure.why, "review": sure.review}
            rows.append({**row, **about})
    rows.sort(key=lambda row: (-row["review"], row["case"], row["target"]))
    return [{"rank": rank} | row for rank, row in enumerate(rows, start=1)]


def cases_csv(records: Iterable[Record]) -> str:
    """The table of all results."""
    return as_csv(COLUMNS, review_list(record for record in records if not record.failed))


def failures_csv(records: Iterable[Record]) -> str:
    """The table of all failures."""
    rows = [{"case": r.case, "image": r.image, **(r.error or {})} for r in records if r.failed]
    return as_csv(FAILURE_COLUMNS, rows)


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV text of the given columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
