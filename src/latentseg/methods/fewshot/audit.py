"""An audit of a folder of examples: grids, labels, and how well each example is found from the others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.intensity import Modality
from latentseg.methods.fewshot.segmenter import FewShotSegmenter, Prepared
from latentseg.methods.fewshot.support import Support, SupportFolder, choose_label, read_example, read_mask
from latentseg.metrics.overlap import dice


class AuditRow(NamedTuple):
    """One target in one example.

    Attributes:
        dice: Of the example segmented from all others; ``None`` where there is no other.
        remark: What looks odd, or nothing.
    """

    target: str
    case: str
    volume_ml: float
    slices: int
    dice: float | None
    remark: str


def audit(
    folder: Path,
    segmenter: FewShotSegmenter,
    *,
    modality: Modality | None = None,
    orientation: str | None = None,
) -> list[AuditRow]:
    """Check every example of every target of a folder.

    Raises:
        InputError: A file that cannot be read, or an empty mask.
        GeometryError: An image and a mask on different grids.
    """
    examples = SupportFolder(folder)
    scans = []
    for image_path, mask_path in examples.pairs:
        image = read_example(image_path, modality=modality, orientation=orientation)
        scans.append((image, read_mask(mask_path, like=image)))
    targets: dict[str, int | None] = dict(examples.names) or {folder.resolve().name: None}
    prepared = Preparations(segmenter)
    rows = [row for name, label in targets.items() for row in _audit_target(name, label, scans, prepared)]
    return rows + (_unnamed(examples.names, scans) if examples.names else [])


class Preparations:
    """Scans encoded once, when first asked for: every target of the folder is searched in the same ones."""

    def __init__(self, segmenter: FewShotSegmenter) -> None:
        self.segmenter = segmenter
        self._kept: dict[str, Prepared] = {}

    def __getitem__(self, scan: Volume) -> Prepared:
        if scan.name not in self._kept:
            self._kept[scan.name] = self.segmenter.prepare(scan)
        return self._kept[scan.name]


def _audit_target(
    name: str, label: int | None, scans: list[tuple[Volume, Volume]], prepared: Preparations
) -> list[AuditRow]:
    shown: dict[str, Support] = {}
    truths = {}
    for image, mask in scans:
        if label is not None and not (mask.array == label).any():
            continue
        value = choose_label(mask.array, label=label, where=str(mask.source))
        truths[image.name] = (image, mask.array == value)
        shown[image.name] = Support.from_volumes(image, mask, name=name, label=value)
    rows = []
    for case, (image, truth) in truths.items():
        others = [support for other, support in shown.items() if other != case]
        score = None
        if others:
            found = prepared.segmenter.predict(prepared[image], Support.join(others))
            score = dice(found.mask, truth)
        held = int(to_canonical(image).apply(truth).any((1, 2)).sum())
        volume = float(np.count_nonzero(truth)) * image.voxel_volume_ml
        rows.append(AuditRow(name, case, volume, held, score, ""))
    return _remark(rows) or [AuditRow(name, "-", 0.0, 0, None, f"no example holds label {label}")]


def _unnamed(names: dict[str, int], scans: list[tuple[Volume, Volume]]) -> list[AuditRow]:
    """Labels that masks hold and the folder does not name."""
    rows = []
    for image, mask in scans:
        for value in sorted(set(np.unique(mask.array).tolist()) - {0, *names.values()}):
            inside = mask.array == value
            held = int(to_canonical(image).apply(inside).any((1, 2)).sum())
            volume = float(np.count_nonzero(inside)) * image.voxel_volume_ml
            rows.append(AuditRow(f"label {value}", image.name, volume, held, None, "this label has no name"))
    return rows


def _remark(rows: list[AuditRow]) -> list[AuditRow]:
    """Point out volumes far from the others and examples that the others do not find."""
    middle = float(np.median([row.volume_ml for row in rows])) if rows else 0.0
    out = []
    for row in rows:
        remarks = []
        if not middle / 3 <= row.volume_ml <= middle * 3:
            remarks.append(f"volume far from the median of {middle:.1f} ml")
        if row.dice is not None and row.dice < 0.3:
            remarks.append("not found from the others: check mask and orientation")
        if row.dice is None:
            remarks.append("the only example: nothing to compare with")
        out.append(row._replace(remark="; ".join(remarks)))
    return out
