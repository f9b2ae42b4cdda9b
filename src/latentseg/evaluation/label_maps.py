"""Masks compared with the truth, case by case and label by label.

Masks that are empty follow the rules of `metrics`, `surface` and `lesions`. Cases whose truth lacks a label
are its absent cases; any predicted voxel there is a false positive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.evaluation.mask_files import Pair, read_pair
from latentseg.evaluation.output import write_results
from latentseg.evaluation.tables import markdown_table, percent
from latentseg.imaging import Volume, same_grid
from latentseg.imaging.geometry import describe_grid
from latentseg.metrics.lesions import FOUND_IOU, match_lesions
from latentseg.metrics.overlap import overlap
from latentseg.metrics.statistics import Interval, bootstrap_mean
from latentseg.metrics.surface import TOLERANCE_MM, surface_distances


@dataclass(frozen=True)
class MetricOptions:
    """What the metrics depend on.

    Attributes:
        label_of: Label id by name (see `mask_files.find_labels` for masks without).
        tolerance_mm: Surface error that NSD forgives.
        lesion_iou: IoU from which a lesion counts as found.
    """

    label_of: Mapping[str, int] = field(default_factory=dict)
    tolerance_mm: float = TOLERANCE_MM
    lesion_iou: float = FOUND_IOU


@dataclass(frozen=True)
class LabelRow:
    """One label of one case.

    Attributes:
        case: Case id.
        label: Name of the label, or its number.
        dice: Dice in [0, 1].
        iou: Intersection over union in [0, 1].
        nsd: Normalized surface Dice in [0, 1].
        hd95_mm: 95 % Hausdorff distance.
        assd_mm: Average symmetric surface distance.
        volume_ml: Predicted volume.
        truth_volume_ml: True volume.
        volume_error_ml: Predicted minus true volume.
        relative_volume_error: The same as a fraction of the true volume; None where that is 0.
        lesion_f1: F1 over connected components.
        panoptic_quality: Panoptic quality over connected components.
        true_lesions: Number of true components.
        predicted_lesions: Number of predicted components.
        found_lesions: True components that were found.
        present: Whether the truth holds the label.
        predicted: Whether the prediction does.
    """

    case: str
    label: str
    dice: float
    iou: float
    nsd: float
    hd95_mm: float
    assd_mm: float
    volume_ml: float
    truth_volume_ml: float
    volume_error_ml: float
    relative_volume_error: float | None
    lesion_f1: float
    panoptic_quality: float
    true_lesions: int
    predicted_lesions: int
    found_lesions: int
    present: bool
    predicted: bool


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases.

    Attributes:
        label: Name of the label.
        means: Mean with its bootstrap interval, by metric, over all cases.
        present_dice: Mean Dice over the cases that hold the label; None without any.
        present: Cases that hold the label.
        absent: Cases that do not.
        absent_fpr: Share of those with a predicted voxel; None without any.
    """

    label: str
    means: Mapping[str, Interval]
    present_dice: float | None
    present: int
    absent: int
    absent_fpr: float | None


MEANS = (*("dice", "iou", "nsd", "hd95_mm", "assd_mm"), *("volume_error_ml", "lesion_f1", "panoptic_quality"))


def evaluate_pair(pair: Pair, options: MetricOptions) -> list[LabelRow]:
    """Compare the two masks of a case, label by label.

    Raises:
        InputError: A file cannot be read, or is a label map with a label that `options` does not name.
        GeometryError: The two are on different grids.
    """
    prediction, truth = read_pair(pair, options.label_of)
    check_comparable(prediction.grid, truth.grid)
    unknown = sorted((prediction.ids | truth.ids) - set(options.label_of.values()))
    if unknown:
        what = f"unknown label ids {', '.join(map(str, unknown[:12]))}"
        fix = f"name them too; known are {', '.join(f'{v}={k}' for k, v in options.label_of.items())}"
        raise InputError(what, where=f"{pair.prediction} or {pair.truth}", fix=fix)
    return [
        compare_masks(
            prediction.mask(name, label), truth.mask(name, label), case=pair.case, label=name, options=options
        )
        for name, label in options.label_of.items()
    ]


def check_comparable(prediction: Volume, truth: Volume) -> None:
    """Require both on one grid.

    Raises:
        GeometryError: naming both grids.
    """
    if not same_grid(truth, prediction):
        what = f"prediction and truth are on different grids: {describe_grid(prediction)}"
        where = f"{prediction.source} and {truth.source}"
        fix = "resample the prediction onto the truth's grid (nearest neighbor)"
        raise GeometryError(f"{what} against {describe_grid(truth)}", where=where, fix=fix)


def compare_masks(
    prediction: Volume, truth: Volume, *, case: str, label: str, options: MetricOptions
) -> LabelRow:
    """Compare two masks on one grid (nonzero is foreground)."""
    voxel_ml = truth.voxel_volume_ml
    counts = overlap(prediction.array, truth.array)
    distances = surface_distances(prediction.array, truth.array, spacing_mm=truth.spacing_mm)
    lesions = match_lesions(prediction.array, truth.array)
    volume, truth_volume = counts.both + counts.only_prediction, counts.both + counts.only_truth
    return LabelRow(
        case=case,
        label=label,
        dice=counts.dice,
        iou=counts.iou,
        nsd=distances.nsd(options.tolerance_mm),
        hd95_mm=distances.hd95_mm,
        assd_mm=distances.assd_mm,
        volume_ml=volume * voxel_ml,
        truth_volume_ml=truth_volume * voxel_ml,
        volume_error_ml=(volume - truth_volume) * voxel_ml,
        relative_volume_error=counts.relative_volume_error if truth_volume else None,
        lesion_f1=lesions.f1(options.lesion_iou),
        panoptic_quality=lesions.panoptic_quality,
        true_lesions=lesions.true,
        predicted_lesions=lesions.predicted,
        found_lesions=lesions.found(options.lesion_iou),
        present=truth_volume > 0,
        predicted=volume > 0,
    )


def summarize_labels(rows: Sequence[LabelRow]) -> list[LabelSummary]:
    """One summary per label, in order of first appearance."""
    labels = dict.fromkeys(row.label for row in rows)
    return [_summary(label, [row for row in rows if row.label == label]) for label in labels]


def label_cells(summaries: Sequence[LabelSummary]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the table of all labels."""
    header = [
        *("label", "Dice %", "present %", "IoU %", "NSD %", "HD95 mm", "ASSD mm", "volume error ml"),
        *("lesion F1 %", "PQ %", "present", "absent", "absent FPR %"),
    ]
    return header, [_cells(summary) for summary in summaries]


def write_label_tables(rows: Sequence[LabelRow], *, folder: Path, options: MetricOptions) -> None:
    """Write `cases.csv`, `table.md` and `results.json` into a folder, which is made if it does not exist.

    Raises:
        InputError: The folder cannot be written.
    """
    summaries = summarize_labels(rows)
    table = markdown_table(*label_cells(summaries), texts=1)
    about = {"tolerance_mm": options.tolerance_mm, "lesion_iou": options.lesion_iou}
    write_results([asdict(row) for row in rows], summaries, folder=folder, about=about, text=table)


def parse_labels(text: str) -> dict[str, int]:
    """Label ids by name, from `1=liver,2=tumor` or from the path of a `dataset.json`.

    Raises:
        UsageError: Neither of the two.
        InputError: The file cannot be read or names no labels.
    """
    from latentseg.evaluation.datasets.nnunet import label_names
    from latentseg.imaging.nnunet import read_description

    if text.endswith(".json"):
        return label_names(read_description(Path(text)), where=text)
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(number.strip().isdecimal() and int(number) and name.strip() for number, _, name in pairs):
        fix = "write 1=liver,2=tumor, or give a dataset.json"
        raise UsageError(f"unknown labels {text!r}", where="--labels", fix=fix)
    return {name.strip(): int(number) for number, _, name in pairs}


def _summary(label: str, rows: Sequence[LabelRow]) -> LabelSummary:
    present = [row for row in rows if row.present]
    absent = [row for row in rows if not row.present]
    means = {name: bootstrap_mean({row.case: [getattr(row, name)] for row in rows}) for name in MEANS}
    return LabelSummary(
        label=label,
        means=means,
        present_dice=float(np.mean([row.dice for row in present])) if present else None,
        present=len(present),
        absent=len(absent),
        absent_fpr=float(np.mean([row.predicted for row in absent])) if absent else None,
    )


def _cells(summary: LabelSummary) -> list[str]:
    means = summary.means
    dice = means["dice"]
    return [
        summary.label,
        f"{100 * dice.mean:.1f} ({100 * dice.low:.1f}–{100 * dice.high:.1f})",
        percent(summary.present_dice),
        percent(means["iou"].mean),
        percent(means["nsd"].mean),
        f"{means['hd95_mm'].mean:.1f}",
        f"{means['assd_mm'].mean:.2f}",
        f"{means['volume_error_ml'].mean:+.1f}",
        percent(means["lesion_f1"].mean),
        percent(means["panoptic_quality"].mean),
        str(summary.present),
        str(summary.absent),
        percent(summary.absent_fpr),
    ]
