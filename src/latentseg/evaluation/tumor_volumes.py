"""Tumors by prompt in whole volumes: Dice and NSD of every patient, lesions, false alarms, AUROC.

* Dice and NSD (2 mm) of every volume with tumor, over all of its voxels.
* Lesions are connected components; F1 over the lesions of a data set, a true one found at an IoU of 0.1.
* False positives: lesions found per scan without tumor.
* AUROC of the anomaly score: volumes with tumor against those without.

Intervals are bootstrapped over patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from latentseg.errors import InputError
from latentseg.evaluation.page import Section
from latentseg.evaluation.tables import grouped
from latentseg.evaluation.tumor_rows import TumorRow, in_percent, measured, three_decimals
from latentseg.evaluation.zero_shot import Found
from latentseg.metrics.presence import auroc
from latentseg.metrics.statistics import Interval, bootstrap_mean
from latentseg.training.tumor.volumes import VolumeCase


class Reported(NamedTuple):
    """What others published of a finding; read secondhand, their protocol is not known.

    Attributes:
        finding: Name of the finding.
        method: Name of the method, and who says so.
        dice: In percent, where it is known.
        auroc: Where it is known.
    """

    finding: str
    method: str
    dice: float | None = None
    auroc: float | None = None


OWN, ZEPT = "DiffuGTS, reported by its authors", "ZePT, reported by others"
SUPERVISED = "supervised, real data only, reported in the MAISI-v2 paper"
REPORTED = (
    Reported("pancreas tumor", OWN, 43.61),
    Reported("lung tumor", OWN, 42.94),
    Reported("liver tumor", OWN, 63.23),
    Reported("colon tumor", OWN, 38.72),
    Reported("hepatic vessel tumor", OWN, 62.76),
    Reported("kidney tumor", OWN, 59.80),
    Reported("kidney tumor", ZEPT, 48.75),
    Reported("pancreas tumor", ZEPT, auroc=0.8681),
    Reported("lung tumor", ZEPT, auroc=0.7784),
    Reported("liver tumor", SUPERVISED, 66.2),
    Reported("lung tumor", SUPERVISED, 58.1),
    Reported("pancreas tumor", SUPERVISED, 43.3),
    Reported("colon tumor", SUPERVISED, 44.9),
)
"""All rows of the authors of DiffuGTS (CVPR 2025) that are known, and of others on the same findings."""

DISCLOSURE = (
    "MAISI's denoiser was trained on scans of MSD 03, 06, 07, 08 and 10, its autoencoder on MSD 03; KiTS23 "
    "is in neither, and is the cleanest of these sets. Rows of the authors are reported, not reproduced."
)


@dataclass(frozen=True)
class VolumeRow(TumorRow):
    """One volume, by one method.

    Attributes:
        data: Data set.
        prompt: What was looked for.
    """

    data: str
    prompt: str


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


def volume_row(case: VolumeCase, found: Found, *, method: str, data: str, prompt: str) -> VolumeRow:
    """Measure what was found in a scan.

    Args:
        case: A scan with its mask.
        found: In it.
        method: Name of what found it.
        data: Name of the data set.
        prompt: What was looked for.
    """
    return VolumeRow(
        data=data,
        prompt=prompt,
        method=method,
        case=case.name,
        score=float(found.scores.max()),
        **measured(found.mask, case.mask, spacing_mm=case.image.spacing_mm),
    )


def summarize_volumes(rows: Iterable[VolumeRow]) -> list[VolumeSummary]:
    """One summary per data set and method, in order of first appearance.

    Raises:
        InputError: A data set without a volume with tumor.
    """
    groups = grouped(rows, key=lambda row: (row.data, row.prompt, row.method))
    return [_summary(*key, of) for key, of in groups.items()]


def _summary(data: str, prompt: str, method: str, rows: list[VolumeRow]) -> VolumeSummary:
    sick = [row for row in rows if row.tumor]
    healthy = [row for row in rows if not row.tumor]
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


def volume_table(summaries: Sequence[VolumeSummary]) -> Section:
    """The table: ours, then what the authors report of the same findings."""
    header = [
        *("data", "prompt", "method", "Dice %", "NSD %", "lesion F1 %"),
        *("false positives per healthy scan", "AUROC", "volumes", "controls"),
    ]
    prompts = {summary.prompt for summary in summaries}
    body = [*map(_cells, summaries), *reported(prompts)]
    return Section("Tumors in whole volumes", header, body, (DISCLOSURE,))


def reported(prompts: set[str]) -> list[list[str]]:
    """Rows of the authors; all of theirs, those of others where the finding was evaluated."""
    rows = [row for row in REPORTED if row.method == OWN or row.finding in prompts]
    return [
        [
            *("as published", row.finding, row.method),
            *("unknown" if row.dice is None else f"{row.dice:.1f}", *["unknown"] * 3),
            *("unknown" if row.auroc is None else f"{row.auroc:.3f}", *["unknown"] * 2),
        ]
        for row in rows
    ]


def _cells(summary: VolumeSummary) -> list[str]:
    alarms = summary.false_positives
    return [
        summary.data,
        summary.prompt,
        summary.method,
        in_percent(summary.dice),
        f"{100 * summary.nsd.mean:.1f}",
        f"{100 * summary.lesion_f1:.0f}",
        "–" if alarms is None else f"{alarms:.2f}",
        three_decimals(summary.auroc),
        str(summary.volumes),
        str(summary.controls),
    ]
