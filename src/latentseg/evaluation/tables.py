"""Rows averaged over patients, and the Markdown tables made of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from latentseg.errors import InputError
from latentseg.evaluation.rows import Row
from latentseg.metrics.overlap import pooled_dice
from latentseg.metrics.presence import auroc
from latentseg.metrics.statistics import Interval, bootstrap_mean, spread

_Key = TypeVar("_Key", bound=Hashable)
_Row = TypeVar("_Row")
DERIVED = ("dice", "iou", "volume_ml", "truth_volume_ml")
METRICS = ("nsd", "hd95_mm", "assd_mm", "iou")


@dataclass(frozen=True)
class Absence:
    """What a method did where the organ is not (EP2).

    Attributes:
        slice_fpr: Mean over cases of the share of slices without the organ that got a voxel of it.
        volume: Mean over cases of the volume found on slices without the organ, relative to the organ's.
        median_volume: Median of the same: one small organ that is missed has a large share.
        slice_auroc: Mean over cases of the AUROC of slices with the organ against slices without.
        scan_fpr: Share of scans without the organ in which it was found.
        scan_auroc: Mean over organs of the AUROC of scans with the organ against scans without.
        scans: Scans without the organ: those that lack it, and of each other one the slices that do.
    """

    slice_fpr: float | None
    volume: float | None
    median_volume: float | None
    slice_auroc: float | None
    scan_fpr: float | None
    scan_auroc: float | None
    scans: int


@dataclass(frozen=True)
class Summary:
    """One line of the table: a method in a setting, folds put together.

    Attributes:
        protocol: Evaluation protocol.
        setting: What the training may have seen.
        dataset: Data set of the queries.
        support_dataset: Data set of the supports.
        support_index: Position of the support scan in its fold.
        shots: Support scans.
        support_slices: Slices of each of them.
        method: Name of the method.
        folds: Folds of the queries.
        weights: Fingerprints of the weights.
        organ_dice: Mean over patients of Dice, by organ, in [0, 1].
        mean: Mean over patients of the mean over organs, with its 95 % bootstrap interval by patient.
        pooled_dice: Mean over organs of the Dice of pooled voxel counts, in [0, 1].
        fold_dice: By fold, mean Dice by organ and under `"mean"` that over organs.
        fold_spread: Standard deviation of the folds' means; None of one fold.
        metrics: Other metrics with their intervals, averaged like Dice: NSD, HD95, ASSD, IoU.
        missed: Rows of which either prediction or truth is empty, and not both.
        cases: Rows.
        seen: Query scans that the weights were trained on.
        absence: What was found where the organ is not; None where the protocol does not ask.
    """

    protocol: str
    setting: str
    dataset: str
    support_dataset: str
    support_index: int
    shots: int
    support_slices: int
    method: str
    folds: tuple[int, ...]
    weights: tuple[str, ...]
    organ_dice: Mapping[str, float]
    mean: Interval
    pooled_dice: float
    fold_dice: Mapping[int, Mapping[str, float]]
    fold_spread: float | None
    metrics: Mapping[str, Interval]
    missed: int
    cases: int
    seen: int
    absence: Absence | None = field(default=None)


def summarize(rows: Iterable[Row]) -> list[Summary]:
    """Average rows over patients: one summary per setting and method, in order of first appearance."""
    return [_summary(group) for group in grouped(rows, key=lambda row: row.group).values()]


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]], *, texts: int) -> str:
    """A Markdown table whose first `texts` columns are text and the others numbers."""
    aligned = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, aligned, *body]) + "\n"


def table_cells(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the Dice table, for Markdown and for the HTML page alike.

    Raises:
        InputError: There is nothing to show.
    """
    if not summaries:
        raise InputError("no result to tabulate", where="evaluation", fix="evaluate at least one case")
    organs = organs_of(summaries)
    names = [organ.replace("_", " ") for organ in organs]
    header = ["query", "support", "method", *names, "mean", "95 % interval", "folds", "pooled", "patients"]
    return header, [_cells(summary, organs) for summary in summaries]


def organs_of(summaries: Iterable[Summary]) -> list[str]:
    """Every organ, in order of first appearance."""
    return list(dict.fromkeys(organ for summary in summaries for organ in summary.organ_dice))


def line_of(summary: Summary) -> list[str]:
    """The first three cells of a summary in any table: query, support, method."""
    setting = "" if summary.setting == "1" else f" setting {summary.setting}"
    folds = ", ".join(map(str, summary.folds))
    shots = "" if summary.shots == 1 else f", {summary.shots} shots"
    slices = "s" if summary.support_slices > 1 else ""
    slices = "" if summary.protocol == "EP1" else f", {summary.support_slices} slice{slices}"
    return [
        f"{summary.protocol}{setting}: {summary.dataset}, fold {folds}",
        f"{summary.support_dataset}, index {summary.support_index}{shots}{slices}",
        summary.method + (" †" if summary.seen else ""),
    ]


def percent(value: float | None) -> str:
    """A share in percent with one decimal, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def grouped(rows: Iterable[_Row], *, key: Callable[[_Row], _Key]) -> dict[_Key, list[_Row]]:
    """Rows by key, in order of first appearance."""
    groups: dict[_Key, list[_Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def _summary(rows: Sequence[Row]) -> Summary:
    by_organ = grouped(rows, key=lambda row: row.organ)
    first = rows[0]
    fold_dice = {
        fold: _organ_means(group) for fold, group in sorted(grouped(rows, key=lambda r: r.fold).items())
    }
    return Summary(
        protocol=first.protocol,
        setting=first.setting,
        dataset=first.dataset,
        support_dataset=first.support_dataset,
        support_index=first.support_index,
        shots=first.shots,
        support_slices=first.support_slices,
        method=first.method,
        folds=tuple(fold_dice),
        weights=tuple(sorted({row.weights for row in rows})),
        organ_dice={organ: _patient_mean(group) for organ, group in by_organ.items()},
        mean=_interval(rows, "dice"),
        pooled_dice=sum(pooled_dice(row.overlap for row in group) for group in by_organ.values())
        / len(by_organ),
        fold_dice=fold_dice,
        fold_spread=spread([means["mean"] for means in fold_dice.values()]),
        metrics={name: _interval(rows, name) for name in METRICS},
        missed=sum(row.one_is_empty for row in rows),
        cases=len(rows),
        seen=len({row.patient for row in rows if row.seen}),
        absence=_absence(rows) if any(row.absent_presence is not None for row in rows) else None,
    )


def _absence(rows: Sequence[Row]) -> Absence:
    scans = [row for row in rows if row.absent_found is not None]
    curves = [
        auroc(
            [row.presence for row in group if row.presence is not None],
            [row.absent_presence for row in group if row.absent_presence is not None],
        )
        for group in grouped(rows, key=lambda row: row.organ).values()
    ]
    shares = [row.false_slices / row.absent_slices for row in rows if row.absent_slices]
    volumes = [
        row.false_voxels / (row.both + row.only_truth)
        for row in rows
        if row.false_voxels is not None and row.both + row.only_truth
    ]
    known = [value for value in curves if value is not None]
    within = [row.slice_auroc for row in rows if row.slice_auroc is not None]
    return Absence(
        slice_fpr=_mean(shares),
        volume=_mean(volumes),
        median_volume=median(volumes) if volumes else None,
        slice_auroc=_mean(within),
        scan_fpr=_mean([float(bool(row.absent_found)) for row in scans]),
        scan_auroc=_mean(known),
        scans=len(scans),
    )


def _interval(rows: Iterable[Row], name: str) -> Interval:
    by_patient = grouped(rows, key=lambda row: row.patient)
    return bootstrap_mean({who: [float(getattr(row, name)) for row in of] for who, of in by_patient.items()})


def _organ_means(rows: Iterable[Row]) -> dict[str, float]:
    means = {organ: _patient_mean(group) for organ, group in grouped(rows, key=lambda row: row.organ).items()}
    return means | {"mean": sum(means.values()) / len(means)}


def _patient_mean(rows: Sequence[Row]) -> float:
    """Mean over patients; a patient queried in two folds counts once."""
    by_patient = grouped(rows, key=lambda r: r.patient).values()
    means = [sum(row.dice for row in group) / len(group) for group in by_patient]
    return sum(means) / len(means)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _cells(summary: Summary, organs: Sequence[str]) -> list[str]:
    means = [fold["mean"] for fold in summary.fold_dice.values()]
    spread_text = "" if summary.fold_spread is None else f" ± {100 * summary.fold_spread:.1f}"
    return [
        *line_of(summary),
        *(percent(summary.organ_dice.get(organ)) for organ in organs),
        f"{100 * summary.mean.mean:.1f}",
        f"{100 * summary.mean.low:.1f}–{100 * summary.mean.high:.1f}",
        f"{100 * sum(means) / len(means):.1f}{spread_text}",
        f"{100 * summary.pooled_dice:.1f}",
        str(summary.mean.patients),
    ]
