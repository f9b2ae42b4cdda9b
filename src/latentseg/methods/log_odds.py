"""Log-odds, the scale on which all parts of a method add up their evidence.

They are limited here and nowhere else, to probabilities between 1e-4 and 1 - 1e-4, so that no part can
outvote all others.
"""

from __future__ import annotations

import math
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUREST = 1e-4
"""Probabilities nearer to 0 or 1 count as this near."""

LIMIT = math.log((1 - SUREST) / SUREST)


@overload
def log_odds(probability: Tensor) -> Tensor: ...
@overload
def log_odds(probability: NDArray[np.float32]) -> NDArray[np.float32]: ...
def log_odds(probability: Tensor | NDArray[np.float32]) -> Tensor | NDArray[np.float32]:
    """``log(p / (1 - p))``, within the limit."""
    if isinstance(probability, Tensor):
        return probability.logit(SUREST)
    sure = np.clip(probability, SUREST, 1 - SUREST)
    return np.asarray(np.log(sure / (1 - sure)), np.float32)


@overload
def probability(log_odds: Tensor) -> Tensor: ...
@overload
def probability(log_odds: NDArray[np.float32]) -> NDArray[np.float32]: ...
def probability(log_odds: Tensor | NDArray[np.float32]) -> Tensor | NDArray[np.float32]:
    """``1 / (1 + exp(-l))``, the inverse of :func:`log_odds`."""
    if isinstance(log_odds, Tensor):
        return log_odds.sigmoid()
    return np.asarray(torch.from_numpy(log_odds).sigmoid().numpy(), np.float32)


def limited(log_odds: Tensor) -> Tensor:
    """Log-odds within the limit."""
    return log_odds.clamp(-LIMIT, LIMIT)
