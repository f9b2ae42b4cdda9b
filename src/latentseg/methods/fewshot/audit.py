"""An audit of a folder of examples: grids, labels, and how well each example is found from the others."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.intensity import Modality
from latentseg.imaging.label_names import Label, described, members
from latentseg.methods.base import Progress
from latentseg.methods.fewshot.prepared import PreparedScan
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_folder import SupportFolder
from latentseg.methods.fewshot.support_masks import marked, read_example, read_mask
from latentseg.metrics.overlap import dice

VOLUME_FACTOR = 3.0
"""How many times larger or smaller than the median a volume may be without a remark."""

NOT_FOUND = 0.3
"""Dice below which an example is not found from the others."""

FAR_BELOW = 0.75
"""Share of what the better ones of the other examples reach, below which an example is far below them."""


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
    on_progress: Progress | None = None,
) -> list[AuditRow]:
    """Check every example of every target of a folder.

    Args:
        folder: Images with masks.
        segmenter: Finds each example from the others.
        modality: Of the images, where the files do not tell.
        orientation: Axis codes that overrule wrong affines.
        on_progress: Called with ``(done, total, target and example)``.

    Raises:
        InputError: A file that cannot be read, or an empty mask.
        GeometryError: An image and a mask on different grids.
    """
    examples = SupportFolder(folder)
    images = {
        image_path: read_example(image_path, modality=modality, orientation=orientation)
        for image_path, _ in examples.pairs
    }
    targets = examples.names or {folder.resolve().name: None}
    prepared = Preparations(segmenter, len(targets) * len(images), on_progress)
    rows: list[AuditRow] = []
    for name, label in targets.items():
        own = name if label is None else None
        scans = [
            (images[image_path], read_mask(mask_path, like=images[image_path], name=own))
            for image_path, mask_path in examples.showing(name)
        ]
        rows += _audit_target(name, label, scans, prepared)
    named = {one for label in examples.names.values() if label is not None for one in members(label)}
    return rows + (_unnamed(named, examples.pairs, images) if named else [])


class Preparations:
    """Scans encoded once, when first asked for: every target of the folder is searched in the same ones.

    Args:
        segmenter: Encodes them.
        searches: How many searches there will be at most.
        on_progress: Told before each.
    """

    def __init__(
        self, segmenter: FewShotSegmenter, searches: int = 1, on_progress: Progress | None = None
    ) -> None:
        self.segmenter = segmenter
        self.searches = searches
        self.report = on_progress or (lambda *_: None)
        self._kept: dict[str, PreparedScan] = {}
        self._begun = 0

    def __getitem__(self, scan: Volume) -> PreparedScan:
        if scan.name not in self._kept:
            self._kept[scan.name] = self.segmenter.prepare(scan)
        return self._kept[scan.name]

    def begin(self, what: str) -> None:
        """Say which search begins."""
        self.report(self._begun, self.searches, what)
        self._begun += 1


def _audit_target(
    name: str, label: Label | None, scans: list[tuple[Volume, Volume]], prepared: Preparations
) -> list[AuditRow]:
    shown: dict[str, Support] = {}
    truths = {}
    for image, mask in scans:
        if label is not None and not np.isin(mask.array, members(label)).any():
            continue
        truths[image.name] = (image, marked(mask.array, label=label, where=str(mask.source)))
        shown[image.name] = Support.from_volumes(image, mask, name=name, label=label)
    rows = []
    for case, (image, truth) in truths.items():
        prepared.begin(f"{name} in {case}")
        others = [support for other, support in shown.items() if other != case]
        score = None
        if others:
            found = prepared.segmenter.predict(prepared[image], Support.join(others))
            score = dice(found.mask, truth)
        held = int(to_canonical(image).apply(truth).any((1, 2)).sum())
        volume = float(np.count_nonzero(truth)) * image.voxel_volume_ml
        rows.append(AuditRow(name, case, volume, held, score, ""))
    return _remark(rows) or [AuditRow(name, "-", 0.0, 0, None, f"no example holds {described(label or 0)}")]


def _unnamed(named: set[int], pairs: list[tuple[Path, Path]], images: dict[Path, Volume]) -> list[AuditRow]:
    """One row for all labels that masks hold and the folder does not name, with their slices and volume."""
    found: set[int] = set()
    cases, volume_ml, slices = [], 0.0, 0
    for image_path, mask_path in pairs:
        image = images[image_path]
        mask = read_mask(mask_path, like=image)
        inside = ~np.isin(mask.array, [0, *named])
        if inside.any():
            found |= set(np.unique(mask.array[inside]).tolist())
            cases.append(image.name)
            volume_ml += float(np.count_nonzero(inside)) * image.voxel_volume_ml
            slices += int(to_canonical(image).apply(inside).any((1, 2)).sum())
    if not found:
        return []
    remark = f"no name is given for {described(tuple(sorted(found)))}"
    where = cases[0] if len(cases) == 1 else f"{len(cases)} examples"
    return [AuditRow("(no name)", where, volume_ml, slices, None, remark)]


def _remark(rows: list[AuditRow]) -> list[AuditRow]:
    """Point out volumes far from the others and examples that the others do not find."""
    middle = float(np.median([row.volume_ml for row in rows])) if rows else 0.0
    out = []
    for number, row in enumerate(rows):
        remarks = []
        if not middle / VOLUME_FACTOR <= row.volume_ml <= middle * VOLUME_FACTOR:
            remarks.append(f"volume far from the median of {middle:.1f} ml")
        others = [other.dice for other in rows[:number] + rows[number + 1 :] if other.dice is not None]
        usual = float(np.percentile(others, 75)) if others else 0.0
        if row.dice is None:
            remarks.append("the only example: nothing to compare with")
        elif row.dice < NOT_FOUND:
            remarks.append("not found from the others: check mask and orientation")
        elif row.dice < FAR_BELOW * usual:
            remarks.append(f"far below the {usual:.2f} of the others: check mask and orientation")
        out.append(row._replace(remark="; ".join(remarks)))
    return out
