"""What a reader can check: the segmentation of a tumor with the maps it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.imaging import default_suffix, to_canonical, write_like
from latentseg.imaging.files import write_file
from latentseg.imaging.network_input import NetworkInput
from latentseg.imaging.previews import Canvas, Layer, heatmap, key_slices, montage, overlay
from latentseg.imaging.windows import Window, display_windows
from latentseg.methods.results import SAVED, Segmentation, check_outputs, file_name

MAPS = ("attention", "healthy", "residual", "uncertainty")
OUTPUTS = (*SAVED, "evidence", *MAPS)
DECIMALS = 3  # of a map on disk
HEIGHT = 240  # pixels of a picture of the evidence


@dataclass(frozen=True, eq=False)
class Evidence:
    """The maps behind a mask, on the square slices or the block that the networks saw, inferior to superior.

    Attributes:
        seen: The scan as the networks saw it, and the way back.
        attention: Abnormal probability of every slice, before refinement.
        healthy: Pseudo-healthy slices in [-1, 1]; the slice itself where nothing was refined.
        residual: Of the slice and its pseudo-healthy version, 0 to 2 (``|decode(z) - decode(z0)|`` where the
            denoiser made it); 0 where nothing was refined.
        uncertainty: Standard deviation of being abnormal by the map's probability, 0.5 at most, or of the
            probability over seeds of the denoiser; 0 where nothing was refined.
        scores: ``(S,)`` anomaly score of every slice, in [0, 1].
        refined: ``(S,)`` whether a slice was refined.
        certainty: Chance of the part of the map that a pixel belongs to; its slice's score without a judge.
    """

    seen: NetworkInput
    attention: NDArray[np.float32]
    healthy: NDArray[np.float32]
    residual: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    scores: NDArray[np.float32]
    refined: NDArray[np.bool_]
    certainty: NDArray[np.float32]

    @property
    def images(self) -> NDArray[np.float32]:
        """The slices ``(S, H, W)`` in [-1, 1]."""
        return self.seen.images

    def on_grid(self, name: str) -> NDArray[np.float32]:
        """A map on the grid of the scan, ``(I, J, K)``.

        Raises:
            UsageError: There is no such map.
        """
        if name not in MAPS:
            raise UsageError(f"unknown map {name!r}", fix=f"choose from {', '.join(MAPS)}")
        return np.asarray(self.seen.canonical.restore(self.slices(name)), np.float32)

    def slices(self, name: str, *, only: slice = slice(None)) -> NDArray[np.float32]:
        """A map, or ``images``, on the canonical slices ``(S, H, W)``; pictures are -1 outside the field.

        Args:
            name: Of the map.
            only: Some of the slices; no others are resized, unless they come from a block.
        """
        dark = 1 if name in ("images", "healthy") else 0
        values, block = getattr(self, name) + np.float32(dark), self.seen.block
        fine = self.seen.undo(values)[only] if block else self.seen.undo(values[only])
        return np.asarray(fine, np.float32) - dark


@dataclass(frozen=True, eq=False, repr=False)
class TumorSegmentation(Segmentation):
    """One prompt in one scan.

    Attributes:
        evidence: The maps it was made from.
    """

    evidence: Evidence

    @property
    def attention_map(self) -> NDArray[np.float32]:
        """Abnormal probability before refinement, ``(I, J, K)``."""
        return self.evidence.on_grid("attention")

    @property
    def pseudo_healthy(self) -> NDArray[np.float32]:
        """The scan without what was found, ``(I, J, K)`` in [-1, 1] of the window that the networks see."""
        return self.evidence.on_grid("healthy")

    @property
    def residual(self) -> NDArray[np.float32]:
        """What inpainting changed, ``(I, J, K)``."""
        return self.evidence.on_grid("residual")

    @property
    def uncertainty(self) -> NDArray[np.float32]:
        """Spread of the probability over seeds, ``(I, J, K)``."""
        return self.evidence.on_grid("uncertainty")

    def stats(self) -> dict[str, Any]:
        """Those of any segmentation, mean uncertainty inside the mask, and the number of refined slices."""
        inside = None if self.absent else round(float(self.uncertainty[self.mask].mean()), 4)
        refined = int(self.evidence.refined.sum())
        return super().stats() | {"mean_uncertainty": inside, "refined_slices": refined}

    def absence(self) -> str:
        """What there is to say of a target that is absent, in one sentence."""
        scores, suspected = self.evidence.scores, int(self.evidence.refined.sum())
        best = int(scores.argmax())
        return (
            f"No {self.target} was found: of {len(scores)} slices {suspected} looked suspicious, most of all "
            f"slice {best} from below with an anomaly score of {scores[best]:.2f}."
        )

    def evidence_page(self, *, slices: int = 3) -> bytes:
        """PNG of the slices that hold most: mask, attention map, pseudo-healthy image, residual.

        The scan is drawn for people, the lungs in the lung window; the pseudo-healthy image is in the window
        that the networks see. Of an absent target there is only :meth:`absence` to be said.
        """
        maps = self.evidence
        mask = maps.seen.canonical.apply(self.mask)
        suspected = maps.scores[:, None, None] >= maps.scores.max()
        window = display_windows(self.scan, target=self.target, mask=self.mask)[0]
        chosen = key_slices(mask if mask.any() else suspected, count=slices)
        return montage([picture for k in chosen for picture in self._row(k, mask[k], window)], columns=4)

    def _row(self, k: int, mask: NDArray[np.bool_], window: Window) -> list[bytes]:
        """Four pictures of slice ``k`` of the canonical volume."""
        maps, image = self.evidence, to_canonical(self.scan).slices[k]
        drawn = ("attention", "healthy", "residual")
        attention, healthy, residual = (maps.slices(name, only=slice(k, k + 1))[0] for name in drawn)
        spacing_mm = maps.seen.canonical.spacing_mm[1:]

        def canvas(caption: str, low: float = window.low, high: float = window.high) -> Canvas:
            return Canvas(height=HEIGHT, spacing_mm=spacing_mm, window=(low, high), caption=caption)

        said = "pseudo-healthy" if maps.refined[k] else "not refined"
        return [
            overlay(image, layers=[Layer(mask)], canvas=canvas(f"slice {k}, score {maps.scores[k]:.2f}")),
            heatmap(image, probability=attention, canvas=canvas("attention map")),
            overlay(healthy, canvas=canvas(said, -1.0, 1.0)),
            heatmap(image, probability=residual, canvas=canvas("residual")),
        ]

    def save(self, folder: str | Path, *, what: Iterable[str] = SAVED) -> list[Path]:
        """Write mask, probability and preview, and any map of the evidence, under ``folder/<case>/``.

        The evidence of a target that is absent is a sentence in a text file and no picture.

        Args:
            folder: Output folder; made where it is missing.
            what: Any of ``mask``, ``prob``, ``preview``, ``attention``, ``healthy``, ``residual``,
                ``uncertainty`` and ``evidence``, a picture of them all.

        Raises:
            UsageError: Something else is asked for.
            InputError: A file cannot be written.
        """
        asked = check_outputs(what, known=OUTPUTS)
        written = super().save(folder, what=[one for one in asked if one not in (*MAPS, "evidence")])
        case, target = self.scan.name, file_name(self.target)
        suffix = default_suffix(self.scan)
        soft = suffix if suffix in (".nii.gz", ".nrrd", ".mha", ".tif") else ".tif"
        base = Path(folder) / case
        for name in (one for one in asked if one in MAPS):
            path = base / f"{case}_{name}-{target}{soft}"
            values = self.evidence.on_grid(name).round(DECIMALS)
            written.append(write_like(values, like=self.scan, path=path, kind="probability"))
        if "evidence" in asked and self.absent:
            path = base / f"{case}_evidence-{target}.txt"
            written.append(write_file(path, f"{self.absence()}\n"))
        elif "evidence" in asked:
            written.append(write_file(base / f"{case}_evidence-{target}.png", self.evidence_page()))
        return written
