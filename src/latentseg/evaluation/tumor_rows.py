"""What is measured of a tumor mask, slice or volume alike, and the files of such an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.output import write_results
from latentseg.evaluation.page import Section
from latentseg.evaluation.tables import markdown_table
from latentseg.metrics.lesions import match_lesions
from latentseg.metrics.overlap import overlap
from latentseg.metrics.statistics import Interval
from latentseg.metrics.surface import surface_distances


@dataclass(frozen=True)
class TumorRow:
    """One slice or volume, by one method.

    Attributes:
        method: Name of the method.
        case: Scan.
        tumor: Pixels or voxels of the truth; 0 where there is no tumor.
        found: Of the prediction.
        dice: None without tumor.
        nsd: At 2 mm; None without tumor.
        lesions: True lesions.
        lesions_found: Of those.
        lesions_predicted: Predicted ones.
        score: Anomaly score.
    """

    method: str
    case: str
    tumor: int
    found: int
    dice: float | None
    nsd: float | None
    lesions: int
    lesions_found: int
    lesions_predicted: int
    score: float

    @property
    def said(self) -> str:
        """The result in words."""
        return f"{self.found} found where nothing is" if self.dice is None else f"Dice {self.dice:.3f}"


def measured(
    mask: NDArray[np.bool_], truth: NDArray[np.bool_], *, spacing_mm: tuple[float, ...]
) -> dict[str, Any]:
    """The numbers of a row, of a predicted and a true mask on one grid."""
    lesions, sick = match_lesions(mask, truth), bool(truth.any())
    return {
        "tumor": int(truth.sum()),
        "found": int(mask.sum()),
        "dice": overlap(mask, truth).dice if sick else None,
        "nsd": surface_distances(mask, truth, spacing_mm=spacing_mm).nsd() if sick else None,
        "lesions": lesions.true,
        "lesions_found": lesions.found(),
        "lesions_predicted": lesions.predicted,
    }


def in_percent(values: Interval) -> str:
    """Mean and interval, for a table."""
    return f"{100 * values.mean:.1f} ({100 * values.low:.1f}–{100 * values.high:.1f})"


def three_decimals(value: float | None) -> str:
    """A number for a table, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def write_tumor_tables(
    rows: Sequence[TumorRow],
    table: Section,
    *,
    summaries: Sequence[Any],
    folder: Path,
    about: Mapping[str, object],
) -> None:
    """Write ``table.md``, ``cases.csv`` and ``results.json``, each whole or not at all.

    Args:
        rows: Every evaluated slice or volume.
        table: Of the summaries.
        summaries: Dataclasses, for ``results.json``.
        folder: Made if it does not exist.
        about: Facts, at the head of the table.

    Raises:
        InputError: The folder cannot be written.
    """
    facts = "".join(f"* {name}: {value}\n" for name, value in about.items())
    notes = "".join(f"{note}\n" for note in table.notes)
    text = f"# {table.title}\n\n{facts}\n{markdown_table(table.header, table.body, texts=3)}\n{notes}"
    write_results([asdict(row) for row in rows], summaries, folder=folder, about=about, text=text)
