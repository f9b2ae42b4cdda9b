"""What a training loop asks of its optimizer: groups of parameters, schedules, eight-bit moments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from latentseg.errors import UsageError

Schedule = Literal["cosine", "polynomial"]
Kind = Literal["adamw", "adamw8bit"]
COSINE_END, POLYNOMIAL_END = 0.05, 1e-4  # shares of the peak rate


class Group(NamedTuple):
    """Parameters that share a learning rate, which is ``factor`` times that of the loop."""

    parameters: Sequence[nn.Parameter]
    factor: float = 1.0


def rate_factor(step: int, *, steps: int, warmup: int, schedule: Schedule) -> float:
    """Learning rate of a step as a share of the peak.

    A linear warm-up, then a cosine down to 5 %, or the polynomial of power 1 down to 1e-4 of the peak that
    the released SD-FSMIS training amounts to.
    """
    if step < warmup:
        return (step + 1) / warmup
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    if schedule == "polynomial":
        return POLYNOMIAL_END + (1 - POLYNOMIAL_END) * (1 - done)
    return COSINE_END + (1 - COSINE_END) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizer(
    kind: Kind, *, groups: Sequence[Group], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW over groups of parameters, with 32-bit or 8-bit moments; each group keeps its ``factor``.

    Raises:
        UsageError: Eight bits are asked for and bitsandbytes is not installed.
    """
    table: list[dict[str, Any]] = [
        {"params": [p for p in group.parameters if p.requires_grad], "factor": group.factor}
        for group in groups
    ]
    if kind == "adamw":
        return torch.optim.AdamW(table, lr=learning_rate, weight_decay=weight_decay)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            f"AdamW with 8-bit moments needs the package bitsandbytes ({error})",
            fix="run `pip install bitsandbytes`, or set loop.optimizer to adamw",
        ) from error
    made: torch.optim.Optimizer = AdamW8bit(table, lr=learning_rate, weight_decay=weight_decay)
    return made


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
