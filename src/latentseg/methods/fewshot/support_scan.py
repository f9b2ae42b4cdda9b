"""The scan that support slices come from, as far as it tells where the target is not. Numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_HELD = 3  # slices with the target, of which fewer do not tell where it ends
SCAN_STEP_MM = 5.0  # distance of the slices that are kept


@dataclass(frozen=True, eq=False)
class SupportScan:
    """The scan that support slices come from: it also shows the body where the target is not.

    Attributes:
        images: ``(S, 256, 256)`` float16 in [-1, 1], inferior to superior, about 5 mm apart.
        holds: ``(S,)`` bool, the run of slices from the first to the last with the target.
        region: ``(256, 256)`` bool, the union of its masks.
        step_mm: Distance of the slices.
        marked: ``(n,)``, where on that run the support slices of this scan lie, from 0 to 1, in their order.
    """

    images: NDArray[np.float16]
    holds: NDArray[np.bool_]
    region: NDArray[np.bool_]
    step_mm: float
    marked: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        images: NDArray[np.float32],
        held: NDArray[np.bool_],
        region: NDArray[np.bool_],
        *,
        step_mm: float,
        chosen: Sequence[int],
    ) -> tuple[SupportScan, ...]:
        """One scan, or none where it cannot tell where the target ends.

        That is where the target is marked on every slice, and where it is marked on fewer than three: those
        may be the only ones that were drawn on.

        Args:
            images: All slices ``(S, 256, 256)``.
            held: ``(S,)``, those with the target.
            region: ``(256, 256)``.
            step_mm: Distance of the slices.
            chosen: Indices of the support slices.
        """
        run = np.flatnonzero(held)
        if len(run) < FEWEST_HELD or run[-1] - run[0] + 1 == len(held):
            return ()
        every = max(1, round(SCAN_STEP_MM / step_mm))
        within = np.zeros(len(held), bool)
        within[run[0] : run[-1] + 1] = True
        kept = slice((run[0] + run[-1]) // 2 % every, None, every)  # with the middle, however short the run
        marked = ((np.asarray(chosen) - run[0] + 0.5) / (run[-1] - run[0] + 1)).astype(np.float32)
        return (cls(images[kept].astype(np.float16), within[kept], region, every * step_mm, marked),)
