"""Pictures of one target in one scan: slices to scroll, the largest and the least certain slice, evidence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import Canonical, Volume, to_canonical
from latentseg.imaging.previews import PREDICTION, TRUTH, Canvas, Layer, heatmap, overlay, thumbnail
from latentseg.imaging.windows import Window, display_windows, in_hounsfield
from latentseg.report.page import Panel
from latentseg.report.stack import (
    CT_LEVELS,
    Overlay,
    Stack,
    Viewer,
    grey_sheet,
    heat_sheet,
    mask_sheet,
    tile_size,
)

SIZE = 224  # pixels of the longer side of a picture
EVIDENCE = {
    "attention": "Attention map",
    "healthy": "Pseudo-healthy",
    "residual": "Residual",
    "uncertainty": "Spread over seeds",
}
"""Maps behind the mask of a prompt, in the order of the method."""
BEYOND = 0.1  # of the range of the first window, that can be seen beyond it where values are not HU

Stacks = Mapping[str, NDArray[Any]]
"""Arrays ``(S, H, W)`` by what they are: ``seg``, ``prob``, ``truth`` and those of `EVIDENCE`."""


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
    def windows(self) -> tuple[Window, ...]:
        """Windows of the scan, whatever is looked at."""
        return display_windows(self.scan)

    @property
    def values(self) -> NDArray[Any]:
        """``(S, H, W)`` as stored."""
        return self.canonical.slices

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Of rows and columns."""
        return self.canonical.spacing_mm[1:]

    def canvas(self, window: tuple[float, float]) -> Canvas:
        """How a slice becomes a picture."""
        tall, wide = (n * mm for n, mm in zip(self.values.shape[1:], self.spacing_mm, strict=True))
        height = max(4, round(SIZE * tall / max(tall, wide)))
        return Canvas(height=height, spacing_mm=self.spacing_mm, line_width=1.5, window=window)

    def name_of(self, k: int) -> str:
        """How a slice is called in the tables: by its index along an axis of the stored array."""
        axis, flipped = self.canonical.axes[0], self.canonical.flips[0]
        return f"slice {'IJK'[axis]} {len(self.values) - 1 - k if flipped else k}"

    def slice_of(self, index: int) -> int | None:
        """The slice with an index along its axis of the stored array; None for -1 or one outside."""
        if not 0 <= index < len(self.values):
            return None
        return len(self.values) - 1 - index if self.canonical.flips[0] else index

    def stack(self, name: str, chosen: Collection[int]) -> Stack:
        """Some slices, to be scrolled."""
        levels: tuple[tuple[float, int], ...] = CT_LEVELS
        unit = "HU"
        if not in_hounsfield(self.scan):
            window, unit = self.windows[0], ""
            beyond = BEYOND * (window.high - window.low)
            levels = ((window.low - beyond, 0), (window.high + beyond, 255))
        at, shape = sorted(chosen), (self.values.shape[1], self.values.shape[2])
        size = tile_size(shape, self.spacing_mm)
        sheet = grey_sheet(self.values[at], levels, size)
        return Stack(name, sheet, size, tuple(map(self.name_of, at)), levels, unit, self.windows)


@dataclass(frozen=True, eq=False)
class Target:
    """One target as it is drawn.

    Attributes:
        view: The scan.
        stacks: What is known of the target.
        window: What is drawn black and white.
        worst: The least certain slice, if any.
    """

    view: View
    stacks: Stacks
    window: Window
    worst: int | None

    @classmethod
    def of(cls, view: View, maps: Mapping[str, NDArray[Any]], *, name: str, worst_slice: int) -> Target:
        """A target from its maps ``(I, J, K)``; ``worst_slice`` counts along the axis of the stored array."""
        window = display_windows(view.scan, target=name, mask=maps.get("seg"))[0]
        stacks = {kind: view.canonical.apply(array) for kind, array in maps.items()}
        return cls(view, stacks, window, view.slice_of(worst_slice))

    @property
    def absent(self) -> bool:
        """Whether its mask is empty."""
        return "seg" in self.stacks and not self.stacks["seg"].any()

    @cached_property
    def largest(self) -> int:
        """The slice with most of the mask; where it is empty, of the truth, else of the probability."""
        for name in ("seg", "truth", "prob"):
            if self.holds(name):
                return int(np.asarray(self.stacks[name], np.float64).sum(axis=(1, 2)).argmax())
        return len(self.view.values) // 2

    def holds(self, name: str) -> bool:
        """Whether there is such a map, and something in it."""
        return name in self.stacks and bool(self.stacks[name].any())

    def panels(self) -> list[Panel]:
        """The slice with most of the target, the least certain one, and the evidence where it was found."""
        panels = [self._outlines(self.largest, self._title())]
        if self.worst is not None and self.worst != self.largest:
            panels.append(self._outlines(self.worst, "Most uncertain"))
        if "prob" in self.stacks:
            k = self.largest if self.worst is None else self.worst
            panels.append(self._tinted(self.stacks["prob"], k, "Probability"))
        if self.absent:
            return panels
        return panels + [self._evidence(name) for name in EVIDENCE if name in self.stacks]

    def viewer(self, stack: Stack, chosen: Collection[int]) -> Viewer:
        """The slices of the scan with what was found."""
        at = sorted(chosen)
        overlays = [
            Overlay(title, mask_sheet(self.stacks[kind][at] > 0, stack.size), color)
            for kind, title, color in (("truth", "truth", TRUTH), ("seg", "found", PREDICTION))
            if kind in self.stacks
        ]
        if "prob" in self.stacks:
            sheet = heat_sheet(self.stacks["prob"][at], stack.size)
            overlays.append(Overlay("probability", sheet, heat=True, shown=False))
        first = at.index(self.largest) if self.largest in at else len(at) // 2
        return Viewer(stack, overlays, first, self.window.name)

    def _title(self) -> str:
        if self.holds("seg"):
            return "Largest"
        return "Absent; largest in the truth" if self.holds("truth") else "Absent; most probable"

    def _outlines(self, k: int, title: str) -> Panel:
        colors = {"truth": TRUTH, "seg": PREDICTION}
        layers = [Layer(self.stacks[name][k], color) for name, color in colors.items() if name in self.stacks]
        picture = overlay(self.view.values[k], layers=layers, canvas=self.view.canvas(self.window[1:]))
        return Panel(title, thumbnail(picture), self.view.name_of(k))

    def _tinted(self, stack: NDArray[Any], k: int, title: str) -> Panel:
        canvas = self.view.canvas(self.window[1:])
        picture = heatmap(self.view.values[k], probability=stack[k], canvas=canvas)
        return Panel(title, thumbnail(picture), self.view.name_of(k))

    def _evidence(self, name: str) -> Panel:
        if name != "healthy":
            return self._tinted(self.stacks[name], self.largest, EVIDENCE[name])
        canvas = self.view.canvas((-1.0, 1.0))
        picture = thumbnail(overlay(self.stacks[name][self.largest], canvas=canvas))
        return Panel(EVIDENCE[name], picture, self.view.name_of(self.largest))
