"""What a segmenter returns for each target, on the grid of the scan it was given."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.imaging import Volume, default_suffix, normalize, to_canonical, write_like
from latentseg.imaging.files import written_whole
from latentseg.report.previews import Canvas, Layer, key_slices, montage, overlay

SAVED = ("mask", "prob", "preview")


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One target in one scan.

    Attributes:
        target: Name of the target.
        scan: The scan; all arrays share its grid.
        mask: ``(I, J, K)`` bool.
        probability: ``(I, J, K)`` float32 in [0, 1].
        presence: Score in [0, 1] that the target is in the scan at all; the mask is empty where it is called
            absent.
    """

    target: str
    scan: Volume
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    presence: float

    @property
    def absent(self) -> bool:
        """Whether the target is reported as not in the scan."""
        return not bool(self.mask.any())

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in milliliters."""
        return float(np.count_nonzero(self.mask)) * self.scan.voxel_volume_ml

    @cached_property
    def components(self) -> int:
        """Number of separate parts of the mask (26-connected)."""
        from scipy import ndimage

        return int(ndimage.label(self.mask, structure=np.ones((3, 3, 3)))[1])

    def stats(self) -> dict[str, Any]:
        """Presence, volume, components, centroid (RAS mm), and whether the mask touches the grid's border."""
        index = np.argwhere(self.mask)
        centroid = None
        if len(index):
            world = self.scan.affine_ras_mm @ [*index.mean(0), 1.0]
            centroid = [round(float(v), 2) for v in world[:3]]
        edges = [np.take(self.mask, [0, -1], axis).any() for axis in range(3)]
        return {
            "target": self.target,
            "absent": self.absent,
            "presence": round(self.presence, 4),
            "volume_ml": round(self.volume_ml, 3),
            "components": self.components,
            "centroid_ras_mm": centroid,
            "touches_border": bool(any(edges)),
        }

    def preview(self, *, slices: int = 3) -> bytes:
        """PNG of the slices that hold most of the mask, or of the most probable ones where it is empty."""
        canonical = to_canonical(self.scan)
        values = normalize(canonical.slices, modality=self.scan.modality)
        mask, chance = canonical.apply(self.mask), canonical.apply(self.probability)
        shown = key_slices(mask if mask.any() else chance >= chance.max(), count=slices)
        canvas = Canvas(height=320, spacing_mm=canonical.spacing_mm[1:], window=(-1.0, 1.0))
        pictures = [
            overlay(values[k], layers=[Layer(mask[k], (255, 99, 71), "both")], canvas=canvas) for k in shown
        ]
        return montage(pictures, columns=len(pictures))

    def save(self, folder: str | Path, *, what: Iterable[str] = SAVED) -> list[Path]:
        """Write mask, probability and preview under ``folder/<case>/``.

        Args:
            folder: Output folder; made where it is missing.
            what: Any of ``mask``, ``prob`` and ``preview``.

        Returns:
            The paths written, each whole or not at all.

        Raises:
            UsageError: Something else is asked for.
            InputError: A file cannot be written.
        """
        what = tuple(what)
        unknown = set(what) - set(SAVED)
        if unknown:
            raise UsageError(f"unknown output {min(unknown)!r}", fix=f"choose from {', '.join(SAVED)}")
        case, suffix = self.scan.name, default_suffix(self.scan)
        soft = suffix if suffix in (".nii.gz", ".nrrd", ".mha", ".tif") else ".tif"
        base = Path(folder) / case
        written = []
        if "mask" in what:
            written.append(
                write_like(self.mask, like=self.scan, path=base / f"{case}_seg-{self.target}{suffix}")
            )
        if "prob" in what:
            path = base / f"{case}_prob-{self.target}{soft}"
            written.append(write_like(self.probability, like=self.scan, path=path, kind="probability"))
        if "preview" in what:
            written.append(write_bytes(base / f"{case}_preview-{self.target}.png", self.preview()))
        return written


class Segmentations(dict[str, Segmentation]):
    """The targets of one scan, by name, in the order they were asked for."""

    def save(self, folder: str | Path, *, what: Iterable[str] = SAVED) -> list[Path]:
        """Write every target, and ``<case>_stats.json``; see :meth:`Segmentation.save`."""
        what = tuple(what)
        written = [path for result in self.values() for path in result.save(folder, what=what)]
        if self:
            case = next(iter(self.values())).scan.name
            stats = json.dumps([result.stats() for result in self.values()], indent=2) + "\n"
            written.append(write_bytes(Path(folder) / case / f"{case}_stats.json", stats.encode()))
        return written

    def combined(self, priority: Sequence[str]) -> tuple[NDArray[np.uint16], int]:
        """One label map: targets numbered 1, 2, ... in the order of ``priority``; earlier ones win overlaps.

        Returns:
            Labels ``(I, J, K)``, and how many voxels more than one target claimed.

        Raises:
            UsageError: ``priority`` does not name each target once.
        """
        if sorted(priority) != sorted(self):
            raise UsageError(
                f"the priority {list(priority)} does not name each target once",
                fix=f"order all of {', '.join(self)}",
            )
        masks = np.stack([self[name].mask for name in priority])
        labels = np.where(masks.any(0), masks.argmax(0) + 1, 0).astype(np.uint16)
        return labels, int((masks.sum(0) > 1).sum())


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole or not at all; its folder is made where it is missing."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path
