"""The whole scan that support slices come from, with what is marked in it. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_MARKED = 3  # slices next to each other, of which fewer do not tell where the target ends
SCAN_STEP_MM = 5.0  # distance of the slices that are kept


@dataclass(frozen=True, eq=False)
class SupportScan:
    """The scan that support slices come from: it also shows the body where the target is not.

    Attributes:
        images: ``(S, 256, 256)`` float16 in [-1, 1], inferior to superior, about 5 mm apart.
        masks: ``(S, 256, 256)`` bool.
        known: ``(S,)`` bool, slices on which what is not marked is not the target.
        places_mm: ``(S,)`` float32, where they lie along the body.
        side_mm: Edge of a slice.
        found: Whether the masks are a result that nobody has looked at, not what somebody marked.
    """

    images: NDArray[np.float16]
    masks: NDArray[np.bool_]
    known: NDArray[np.bool_]
    places_mm: NDArray[np.float32]
    side_mm: float
    found: bool = False

    @classmethod
    def of(
        cls,
        images: NDArray[np.float32],
        masks: NDArray[np.bool_],
        *,
        step_mm: float,
        side_mm: float,
        complete: bool | None = None,
    ) -> SupportScan:
        """Keep what is needed of a scan.

        Args:
            images: All slices ``(S, 256, 256)``.
            masks: ``(S, 256, 256)``, of which at least one is not empty.
            step_mm: Distance of the slices.
            side_mm: Edge of a slice.
            complete: Whether the target is marked on every slice that shows it; None where nobody said so,
                see :func:`known_slices`.
        """
        marked = np.asarray(masks.any((1, 2)))
        known = known_slices(masks, step_mm=step_mm, side_mm=side_mm, complete=complete)
        kept = np.zeros(len(masks), bool)
        kept[:: max(1, round(SCAN_STEP_MM / step_mm))] = True
        if not known.all() or not marked[kept].any():
            kept |= marked
        places_mm = (np.flatnonzero(kept) * step_mm).astype(np.float32)
        return cls(images[kept].astype(np.float16), masks[kept], known[kept], places_mm, side_mm)


def known_slices(
    masks: NDArray[np.bool_], *, step_mm: float, side_mm: float, complete: bool | None = None
) -> NDArray[np.bool_]:
    """On which slices ``(S,)`` of masks ``(S, H, W)`` what is not marked is not the target.

    On all of them where the target is marked completely, which is taken for granted of three or more marked
    slices that follow each other without a gap unless ``complete`` says otherwise. Else somebody has marked a
    few slices only: the target may go on between them, and beyond them as far as it is wide.
    """
    marked = masks.any((1, 2))
    run = np.flatnonzero(marked)
    if complete is None:
        complete = len(run) >= FEWEST_MARKED and run[-1] - run[0] + 1 == len(run)
    if complete:
        return np.ones(len(masks), bool)
    region: NDArray[np.bool_] = np.asarray(masks.any(0))
    longest = max(int(np.ptp(np.flatnonzero(region.any(axis)))) + 1 for axis in (0, 1))
    reach = int(np.ceil(longest * side_mm / masks.shape[1] / step_mm))
    known = np.ones(len(masks), bool)
    known[max(run[0] - reach, 0) : run[-1] + reach + 1] = False
    return known | marked
