"""Tumors by prompt in whole volumes: Dice and NSD of every patient, lesions, false alarms, AUROC.

* Dice and NSD (2 mm) of every volume with tumor, over all of its voxels.
* Lesions are connected components; F1 over the lesions of a data set, a true one found at an IoU of 0.1.
* False positives: lesions found per scan without tumor.
* AUROC of the anomaly score: volumes with tumor against those without.

Intervals are bootstrapped over patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latentseg.errors import InputError
from latentseg.evaluation.zero_shot import TumorMethod
from latentseg.metrics.lesions import match_lesions
from latentseg.metrics.overlap import overlap
from latentseg.metrics.presence import auroc
from latentseg.metrics.statistics import Interval, bootstrap_mean
from latentseg.metrics.surface import surface_distances
from latentseg.training.tumor.volumes import VolumeCase

AUTHORS = {
    "pancreas tumor": 43.61,
    "lung tumor": 42.94,
    "liver tumor": 63.23,
    "colon tumor": 38.72,
    "hepatic vessel tumor": 62.76,
    "kidney tumor": 59.80,
}
"""Dice of DiffuGTS (CVPR 2025) by finding, in percent; read secondhand, their protocol is not known."""

ZEPT = {"kidney tumor": 48.75}
"""The one value of ZePT (CVPR 2024) that is known, likewise."""

DISCLOSURE = (
    "MAISI's denoiser was trained on scans of MSD 03, 06, 07, 08 and 10, its autoencoder on MSD 03; KiTS23 "
    "is in neither, and is the cleanest of these sets. Rows of the authors are reported, not reproduced."
)


@dataclass(frozen=True)
class VolumeRow:
    """One volume, by one method.

    Attributes:
        data: Data set.
        prompt: What was looked for.
        method: Name of the method.
        case: Scan.
        tumor_voxels: Of the truth; 0 for scans without tumor.
        found_voxels: Of the prediction.
        dice: None without tumor.
        nsd: None without tumor.
        lesions: True lesions.
        lesions_found: Of those.
        lesions_predicted: Predicted ones.
        score: Anomaly score.
    """

    data: str
    prompt: str
    method: str
    case: str
    tumor_voxels: int
    found_voxels: int
    dice: float | None
    nsd: float | None
    lesions: int
    lesions_found: int
    lesions_predicted: int
    score: float


@dataclass(frozen=True)
class VolumeSummary:
    """One method on one data set.

    Attributes:
        data: Data set.
        prompt: What was looked for.
        method: Name of the method.
        dice: Mean over volumes with tumor.
        nsd: The same of NSD.
        lesion_f1: Over all lesions of volumes with tumor.
        false_positives: Lesions found per volume without tumor; None without such.
        auroc: Volumes with tumor against those without; None without such.
        volumes: With tumor.
        controls: Without.
    """

    data: str
    prompt: str
    method: str
    dice: Interval
    nsd: Interval
    lesion_f1: float
    false_positives: float | None
    auroc: float | None
    volumes: int
    controls: int


def volume_rows(
    cases: Iterable[VolumeCase], methods: Sequence[TumorMethod], *, data: str, prompt: str
) -> Iterator[VolumeRow]:
    """Rows of scans, as they are ready.

    Args:
        cases: Scans with their masks.
        methods: What looks for tumors.
        data: Name of the data set.
        prompt: What is looked for.
    """
    for case in cases:
        for method in methods:
            found = method(case.image, prompt)
            lesions, sick = match_lesions(found.mask, case.mask), bool(case.mask.any())
            nsd = None
            if sick:
                surfaces = surface_distances(found.mask, case.mask, spacing_mm=case.image.spacing_mm)
                nsd = surfaces.nsd()
            yield VolumeRow(
                data=data,
                prompt=prompt,
                method=method.name,
                case=case.name,
                tumor_voxels=int(case.mask.sum()),
                found_voxels=int(found.mask.sum()),
                dice=overlap(found.mask, case.mask).dice if sick else None,
                nsd=nsd,
                lesions=lesions.true,
                lesions_found=lesions.found(),
                lesions_predicted=lesions.predicted,
                score=float(found.scores.max()),
            )


def summarize_volumes(rows: Iterable[VolumeRow]) -> list[VolumeSummary]:
    """One summary per data set and method, in order of first appearance.

    Raises:
        InputError: A data set without a volume with tumor.
    """
    groups: dict[tuple[str, str, str], list[VolumeRow]] = {}
    for row in rows:
        groups.setdefault((row.data, row.prompt, row.method), []).append(row)
    return [_summary(*key, of) for key, of in groups.items()]


def _summary(data: str, prompt: str, method: str, rows: list[VolumeRow]) -> VolumeSummary:
    sick = [row for row in rows if row.tumor_voxels]
    healthy = [row for row in rows if not row.tumor_voxels]
    if not sick:
        raise InputError("no volume with tumor", where=data, fix="evaluate at least one patient")
    total = sum(row.lesions + row.lesions_predicted for row in sick)
    alarms = [row.lesions_predicted for row in healthy]
    return VolumeSummary(
        data=data,
        prompt=prompt,
        method=method,
        dice=bootstrap_mean({row.case: [row.dice or 0.0] for row in sick}),
        nsd=bootstrap_mean({row.case: [row.nsd or 0.0] for row in sick}),
        lesion_f1=2 * sum(row.lesions_found for row in sick) / max(total, 1),
        false_positives=sum(alarms) / len(alarms) if alarms else None,
        auroc=auroc([row.score for row in sick], [row.score for row in healthy]),
        volumes=len(sick),
        controls=len(healthy),
    )


def volume_cells(summaries: Sequence[VolumeSummary]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the table: ours, then what the authors report of the same findings."""
    header = [
        *("data", "prompt", "method", "Dice %", "NSD %", "lesion F1 %"),
        *("false positives per healthy scan", "AUROC", "volumes", "controls"),
    ]
    prompts = {summary.prompt for summary in summaries}
    return header, [*map(_cells, summaries), *reported(prompts)]


def reported(prompts: set[str]) -> list[list[str]]:
    """Rows of the authors; all of theirs, those of others where the finding was evaluated."""
    rows = [
        ["as published", name, "DiffuGTS, reported by its authors", f"{dice:.1f}"]
        for name, dice in AUTHORS.items()
    ]
    rows += [
        ["as published", name, "ZePT, reported by others", f"{dice:.1f}"]
        for name, dice in ZEPT.items()
        if name in prompts
    ]
    return [[*row, *["unknown"] * 6] for row in rows]


def _cells(summary: VolumeSummary) -> list[str]:
    dice, alarms = summary.dice, summary.false_positives
    return [
        summary.data,
        summary.prompt,
        summary.method,
        f"{100 * dice.mean:.1f} ({100 * dice.low:.1f}–{100 * dice.high:.1f})",
        f"{100 * summary.nsd.mean:.1f}",
        f"{100 * summary.lesion_f1:.0f}",
        "–" if alarms is None else f"{alarms:.2f}",
        "–" if summary.auroc is None else f"{summary.auroc:.3f}",
        str(summary.volumes),
        str(summary.controls),
    ]
