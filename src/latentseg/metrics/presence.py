"""Presence: scores of whether a target is in a scan at all, and how well they separate yes from no."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PIXELS = 40
"""A target is as present on a slice as its 40 most probable pixels (of 65,536)."""


def presence_scores(chance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score `(S,)` in [0, 1] of slices `(S, H, W)`: the mean of their most probable pixels."""
    flat = chance.reshape(len(chance), -1)
    most = min(PIXELS, flat.shape[1])
    return np.asarray(np.partition(flat, -most, axis=1)[:, -most:].mean(1))


def auroc(present: Sequence[float], absent: Sequence[float]) -> float | None:
    """Chance that a present target scores above an absent one, ties counting half; None without both."""
    p, a = np.asarray(present, float), np.sort(np.asarray(absent, float))
    if not p.size or not a.size:
        return None
    below, up_to = np.searchsorted(a, p, "left"), np.searchsorted(a, p, "right")
    return float((below + up_to).mean() / (2 * a.size))
