"""Pictures of one target in one scan: where it is largest, where least sure, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import noted
from latentseg.imaging import Canonical, Volume, normalize, to_canonical
from latentseg.imaging.previews import PREDICTION, TRUTH, Canvas, Layer, heatmap, overlay, thumbnail
from latentseg.report.page import Panel

SIZE = 224  # pixels of the longer side of a picture
EVIDENCE = {
    "attention": "Attention map",
    "healthy": "Pseudo-healthy",
    "residual": "Residual",
    "uncertainty": "Spread over seeds",
}
"""Maps behind the mask of a prompt, in the order of the method."""


@dataclass(frozen=True, eq=False)
class View:
    """A scan as it is drawn.

    Attributes:
        scan: The scan; all maps share its grid.
    """

    scan: Volume

    @cached_property
    def canonical(self) -> Canonical:
        """The slices of the scan."""
        return to_canonical(self.scan)

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """``(S, H, W)`` in [-1, 1]."""
        with noted([]):  # was said when the scan was segmented
            return normalize(self.canonical.slices, modality=self.scan.modality)

    @cached_property
    def canvas(self) -> Canvas:
        """How a slice becomes a picture."""
        tall, wide = (
            n * mm for n, mm in zip(self.values.shape[1:], self.canonical.spacing_mm[1:], strict=True)
        )
        height = max(4, round(SIZE * tall / max(tall, wide)))
        return Canvas(height=height, spacing_mm=self.canonical.spacing_mm[1:], line_width=1.5)

    def name_of(self, k: int) -> str:
        """How a slice is called in the tables: by its index along an axis of the stored array."""
        axis, flipped = self.canonical.axes[0], self.canonical.flips[0]
        return f"slice {'IJK'[axis]} {len(self.values) - 1 - k if flipped else k}"

    def slice_of(self, index: int) -> int | None:
        """The slice with an index along its axis of the stored array; None for -1 or one outside."""
        if not 0 <= index < len(self.values):
            return None
        return len(self.values) - 1 - index if self.canonical.flips[0] else index


def panels_of(view: View, maps: Mapping[str, NDArray[Any]], *, worst_slice: int) -> list[Panel]:
    """The slice with most of the target, the least certain one, and the evidence where there is any.

    Args:
        view: The scan.
        maps: ``(I, J, K)`` arrays; any of ``seg``, ``prob``, ``truth`` and those of `EVIDENCE`.
        worst_slice: Index of the least certain slice along its axis of the stored array, or -1.
    """
    stacks = {name: view.canonical.apply(array) for name, array in maps.items()}
    largest, worst = _largest(stacks, len(view.values)), view.slice_of(worst_slice)
    panels = [_outlines(view, stacks, largest, _title(stacks))]
    if worst is not None and worst != largest:
        panels.append(_outlines(view, stacks, worst, "Most uncertain"))
    if "prob" in stacks:
        k = largest if worst is None else worst
        panels.append(_tinted(view, stacks["prob"], k, "Probability"))
    return panels + [_evidence(view, stacks, largest, name) for name in EVIDENCE if name in stacks]


def _title(stacks: Mapping[str, NDArray[Any]]) -> str:
    if "seg" in stacks and stacks["seg"].any():
        return "Largest"
    return "Absent; largest in the truth" if _holds(stacks, "truth") else "Absent; most probable"


def _largest(stacks: Mapping[str, NDArray[Any]], count: int) -> int:
    """The slice with most of the mask; where it is empty, of the truth, else of the probability."""
    for name in ("seg", "truth", "prob"):
        if _holds(stacks, name):
            return int(np.asarray(stacks[name], np.float64).sum(axis=(1, 2)).argmax())
    return count // 2


def _holds(stacks: Mapping[str, NDArray[Any]], name: str) -> bool:
    return name in stacks and bool(stacks[name].any())


def _outlines(view: View, stacks: Mapping[str, NDArray[Any]], k: int, title: str) -> Panel:
    colors = {"truth": TRUTH, "seg": PREDICTION}
    layers = [Layer(stacks[name][k], color) for name, color in colors.items() if name in stacks]
    return Panel(
        title, thumbnail(overlay(view.values[k], layers=layers, canvas=view.canvas)), view.name_of(k)
    )


def _tinted(view: View, stack: NDArray[Any], k: int, title: str) -> Panel:
    picture = heatmap(view.values[k], probability=stack[k], canvas=view.canvas)
    return Panel(title, thumbnail(picture), view.name_of(k))


def _evidence(view: View, stacks: Mapping[str, NDArray[Any]], k: int, name: str) -> Panel:
    if name != "healthy":
        return _tinted(view, stacks[name], k, EVIDENCE[name])
    picture = overlay(stacks[name][k], canvas=view.canvas)
    return Panel(EVIDENCE[name], thumbnail(picture), view.name_of(k))
