"""The zero-shot protocol: a tumor category that training saw in no mask and no prompt, slice by slice.

* Dice and NSD (2 mm in the plane; 2 pixels of a picture, which has no scale) of every slice with tumor.
* Lesions of a slice are its connected components; a true one is found at an IoU of 0.1.
* AUROC and average precision of the anomaly score: slices with tumor against healthy controls.
* False positives: share of the controls with any predicted pixel.

Intervals are bootstrapped over patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError
from latentseg.evaluation.datasets.tumors import Category, TumorCase
from latentseg.evaluation.page import Section
from latentseg.evaluation.tables import grouped
from latentseg.evaluation.tumor_rows import TumorRow, in_percent, measured, three_decimals, write_tumor_tables
from latentseg.imaging import Volume, to_canonical
from latentseg.metrics.presence import auroc
from latentseg.metrics.statistics import Interval, bootstrap_mean

NOTE = (
    "Dice, NSD: mean over patients of the slices with tumor, 95 % bootstrap interval over patients. Controls "
    "are healthy slices. Reported by the authors of DiffuGTS (CVPR 2025), on whole volumes with full-size "
    "3-D MAISI, read secondhand: liver 63.2, lung 42.9, kidney 59.8; ZePT (CVPR 2024), kidney 48.8."
)


class Found(NamedTuple):
    """What a method found in a scan: a mask on its grid, and a score for every canonical slice ``(S,)``."""

    mask: NDArray[np.bool_]
    scores: NDArray[np.floating]


class TumorMethod(Protocol):
    """Anything that looks for a prompt in a scan."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def __call__(self, scan: Volume, prompt: str) -> Found:
        """Look for it."""


@dataclass(frozen=True)
class SliceRow(TumorRow):
    """One slice, by one method.

    Attributes:
        category: What was looked for.
        patient: Whose it is.
        slice: Index of the canonical slice.
    """

    category: str
    patient: str
    slice: int


@dataclass(frozen=True)
class CategorySummary:
    """One method on one category.

    Attributes:
        category: What was looked for.
        method: Name of the method.
        dice: Mean over patients of the slices' Dice.
        nsd: The same of NSD.
        lesion_recall: Share of true lesions that were found.
        lesion_precision: Share of predicted lesions that were true, on slices with tumor.
        auroc: Slices with tumor against controls; None without controls.
        average_precision: The same.
        false_positive_rate: Share of controls in which something was found; None without controls.
        slices: Slices with tumor.
        controls: Healthy slices.
    """

    category: str
    method: str
    dice: Interval
    nsd: Interval
    lesion_recall: float
    lesion_precision: float
    auroc: float | None
    average_precision: float | None
    false_positive_rate: float | None
    slices: int
    controls: int


def evaluate_category(
    category: Category, methods: Sequence[TumorMethod], *, limit: int | None = None
) -> Iterator[SliceRow]:
    """Rows of all slices with tumor, and of all controls, as they are ready.

    Args:
        category: What is looked for.
        methods: What looks for it.
        limit: Scans and controls to take, for a trial.

    Raises:
        InputError: The scans are missing or cannot be read.
    """
    for cases in (category.cases(), category.healthy()):
        for number, case in enumerate(cases):
            if limit is not None and number >= limit:
                break
            for method in methods:
                yield from case_rows(category, case, method)


def case_rows(category: Category, case: TumorCase, method: TumorMethod) -> Iterator[SliceRow]:
    """Rows of one scan: of a patient the slices with tumor, of a control all."""
    found = method(case.image, category.prompt)
    canonical = to_canonical(case.image)
    masks = canonical.apply(found.mask)
    truths = np.zeros_like(masks) if case.mask is None else canonical.apply(case.mask)
    for k, (mask, truth) in enumerate(zip(masks, truths, strict=True)):
        if case.mask is not None and not truth.any():
            continue
        yield SliceRow(
            category=category.name,
            method=method.name,
            case=case.name,
            patient=case.patient,
            slice=k,
            score=float(found.scores[k]),
            **measured(mask, truth, spacing_mm=canonical.spacing_mm[1:]),
        )


def summarize_categories(rows: Iterable[SliceRow]) -> list[CategorySummary]:
    """One summary per category and method, in order of first appearance.

    Raises:
        InputError: A category without a slice with tumor.
    """
    groups = grouped(rows, key=lambda row: (row.category, row.method))
    return [_summary(*key, of) for key, of in groups.items()]


def _summary(category: str, method: str, rows: list[SliceRow]) -> CategorySummary:
    sick = [row for row in rows if row.tumor]
    healthy = [row for row in rows if not row.tumor]
    if not sick:
        raise InputError("no slice with tumor", where=category, fix="evaluate at least one patient")
    scores = [row.score for row in sick], [row.score for row in healthy]
    return CategorySummary(
        category=category,
        method=method,
        dice=bootstrap_mean(_by_patient(sick, "dice")),
        nsd=bootstrap_mean(_by_patient(sick, "nsd")),
        lesion_recall=_share(sick, "lesions_found", "lesions"),
        lesion_precision=_share(sick, "lesions_found", "lesions_predicted"),
        auroc=auroc(*scores),
        average_precision=average_precision(*scores),
        false_positive_rate=float(np.mean([row.found > 0 for row in healthy])) if healthy else None,
        slices=len(sick),
        controls=len(healthy),
    )


def average_precision(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Mean precision at the rank of each present one, ties broken against it; None without both."""
    if not present or not absent:
        return None
    p, a = np.sort(np.asarray(present))[::-1], np.asarray(absent)
    hits = np.arange(1, len(p) + 1)
    false = np.array([(a >= score).sum() for score in p])
    return float((hits / (hits + false)).mean())


def _by_patient(rows: Sequence[SliceRow], what: str) -> dict[str, list[float]]:
    by_patient = grouped(rows, key=lambda row: row.patient)
    return {patient: [float(getattr(row, what)) for row in of] for patient, of in by_patient.items()}


def _share(rows: Sequence[SliceRow], part: str, whole: str) -> float:
    total = sum(int(getattr(row, whole)) for row in rows)
    return sum(int(getattr(row, part)) for row in rows) / max(total, 1)


def category_cells(summaries: Sequence[CategorySummary]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the table."""
    header = [
        *("category", "method", "Dice %", "NSD %", "lesion recall %", "lesion precision %"),
        *("AUROC", "AP", "FPR %", "slices", "controls"),
    ]
    return header, [_cells(summary) for summary in summaries]


def write_category_tables(
    rows: Sequence[SliceRow],
    summaries: Sequence[CategorySummary],
    *,
    folder: Path,
    about: Mapping[str, object],
) -> None:
    """Write `cases.csv`, `results.json` and `table.md`.

    Raises:
        InputError: The folder cannot be written.
    """
    table = Section("Zero-shot evaluation of tumors", *category_cells(summaries), (NOTE,))
    write_tumor_tables(rows, table, summaries=summaries, folder=folder, about=about)


def _cells(summary: CategorySummary) -> list[str]:
    rate = summary.false_positive_rate
    return [
        summary.category,
        summary.method,
        in_percent(summary.dice),
        f"{100 * summary.nsd.mean:.1f}",
        f"{100 * summary.lesion_recall:.0f}",
        f"{100 * summary.lesion_precision:.0f}",
        *map(three_decimals, (summary.auroc, summary.average_precision)),
        "–" if rate is None else f"{100 * rate:.0f}",
        str(summary.slices),
        str(summary.controls),
    ]
