"""Where an attention map is cut: not at one half, as a phrase that is new moves the whole map."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HIGHEST, LOWEST = 0.5, 0.1  # probability at which a map may be cut


def leveled(log_odds: Tensor, suspicious: NDArray[np.intp], *, level: float | None) -> Tensor:
    """A map ``(S, 1, ...)`` whose log-odds are moved so that 0 is where it is to be cut.

    Args:
        log_odds: Of being abnormal.
        suspicious: Numbers of the suspicious slices.
        level: See :class:`~latentseg.methods.tumor.options.TumorOptions`.
    """
    if level is None or not len(suspicious):
        return log_odds
    peak = log_odds[torch.from_numpy(suspicious)].max().sigmoid()
    return log_odds - (level * peak).clamp(LOWEST, HIGHEST).logit()
