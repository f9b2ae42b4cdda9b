"""Where an attention map is cut: not at one half, as a phrase that is new moves the whole map."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HIGHEST, LOWEST = 0.5, 0.1  # probability at which a map may be cut
FAINT = 0.03  # softened probability of positions that are not counted, most of a slice


def leveled(
    log_odds: Tensor,
    suspicious: NDArray[np.intp],
    *,
    level: float | None,
    soft: tuple[float, float] | None = None,
) -> Tensor:
    """A map ``(S, 1, ...)`` whose log-odds are moved so that 0 is where it is to be cut.

    Args:
        log_odds: Of being abnormal.
        suspicious: Numbers of the suspicious slices.
        level: See :class:`~latentseg.methods.tumor.options.TumorOptions`.
        soft: See :class:`~latentseg.methods.tumor.features.TumorConfig`; instead of a share of the peak.
    """
    if level is None or not len(suspicious):
        return log_odds
    seen = log_odds[torch.from_numpy(suspicious)]
    if soft is not None:
        return log_odds - most_promising(seen, soft).clamp(min=math.log(LOWEST / (1 - LOWEST)))
    return log_odds - (level * seen.max().sigmoid()).clamp(LOWEST, HIGHEST).logit()


def most_promising(log_odds: Tensor, soft: tuple[float, float]) -> Tensor:
    """Where a map ``(S, 1, ...)`` is to be cut for the highest Dice that is to be expected, as log-odds.

    Args:
        log_odds: Of being abnormal.
        soft: Factor and shift that make chances of them: a map is surer than it is right, as neighbors are
            wrong together.
    """
    values = log_odds.flatten().double().sort(descending=True).values
    chance = (soft[0] * values + soft[1]).sigmoid()
    chance = chance * (chance >= FAINT)
    marked = torch.arange(1, len(values) + 1, device=values.device)
    expected = 2 * chance.cumsum(0) / (marked + chance.sum())
    return values[expected.argmax()].to(log_odds.dtype)
