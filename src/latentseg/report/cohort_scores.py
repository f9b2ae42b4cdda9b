"""Metrics of a batch whose truth is known, with bootstrap intervals over cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from latentseg.evaluation.label_maps import LabelRow, LabelSummary, summarize_labels
from latentseg.metrics.statistics import Interval
from latentseg.report.cohort_cases import Finding
from latentseg.report.page import Table

RULE = (
    "Mean over cases with its 95 % bootstrap interval. NSD forgives {tolerance_mm:g} mm. Both masks empty: "
    "Dice, NSD and F1 1, distances 0; one empty: 0, and the diagonal of the scan. Absent FPR: share of the "
    "scans without the target in which some was found."
)
NAMES_SHOWN = 8


class Shown(NamedTuple):
    """How a metric is written."""

    title: str
    factor: float
    decimals: int


METRICS = {
    "dice": Shown("Dice %", 100, 1),
    "nsd": Shown("NSD %", 100, 1),
    "hd95_mm": Shown("HD95 mm", 1, 1),
    "assd_mm": Shown("ASSD mm", 1, 2),
    "volume_error_ml": Shown("volume error ml", 1, 1),
    "lesion_f1": Shown("lesion F1 %", 100, 1),
    "panoptic_quality": Shown("PQ %", 100, 1),
}
PER_CASE = ("dice", "nsd", "hd95_mm")


def scores_table(found: Iterable[Finding], *, failed: int, tolerance_mm: float) -> Table:
    """Every metric of every target, over all cases that were compared; the note says who was not.

    Args:
        found: All results.
        failed: Number of cases without results.
        tolerance_mm: Surface error that NSD forgave.
    """
    found = list(found)
    scores = [finding.score for finding in found if finding.score]
    summaries = summarize_labels(scores)
    columns = ["metric", *(summary.label for summary in summaries)]
    titles = [*(shown.title for shown in METRICS.values()), "scans with it", "scans without", "absent FPR %"]
    rows = [list(row) for row in zip(titles, *map(_summary_cells, summaries), strict=True)]
    rule = RULE.format(tolerance_mm=tolerance_mm)
    return Table("Against the truth", columns, rows, note=" ".join([rule, *_left_out(found, failed)]))


def score_columns() -> list[str]:
    """Titles of the metrics of a single result."""
    return [METRICS[name].title for name in PER_CASE]


def score_cells(score: LabelRow | None) -> list[str]:
    """Metrics of a single result, dashes where it was not compared."""
    return [_number(getattr(score, name), METRICS[name]) if score else "–" for name in PER_CASE]


def without_truth(found: Iterable[Finding]) -> list[str]:
    """The cases that were not compared because there is no truth."""
    lone = [str(one.row["case"]) for one in found if one.score is None and not one.problem]
    return sorted(dict.fromkeys(lone))


def listed(cases: Sequence[str]) -> str:
    """Names, but not hundreds of them."""
    return ", ".join(cases[:NAMES_SHOWN]) + (", ..." if len(cases) > NAMES_SHOWN else "")


def _left_out(found: Sequence[Finding], failed: int) -> list[str]:
    missing = without_truth(found)
    unusable = sorted({str(one.row["case"]) for one in found if one.problem})
    said = [
        (missing, f"No truth: {listed(missing)}."),
        (unusable, f"Truth that cannot be used: {listed(unusable)}."),
        (failed, f"Cases that failed: {failed}."),
    ]
    sentences = [text for holds, text in said if holds]
    return ["Not in the means:", *sentences] if sentences else []


def _summary_cells(summary: LabelSummary) -> list[str]:
    means = [_interval(summary.means[name], shown) for name, shown in METRICS.items()]
    rate = "–" if summary.absent_fpr is None else f"{100 * summary.absent_fpr:.1f}"
    return [*means, str(summary.present), str(summary.absent), rate]


def _interval(mean: Interval, shown: Shown) -> str:
    middle, low, high = (_number(value, shown) for value in (mean.mean, mean.low, mean.high))
    return f"{middle} ({low} to {high})" if mean.patients > 1 else middle


def _number(value: float, shown: Shown) -> str:
    return f"{value * shown.factor:.{shown.decimals}f}"
