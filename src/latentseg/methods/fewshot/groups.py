"""Which of the support slices each slice of a scan is compared with."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.context import SupportContext

SIGNATURE_GRID = 8  # cells along the edge of a slice's coarse layout


def signatures(images: Tensor) -> Tensor:
    """Layout of slices ``(S, 1, H, W)``: coarse grey values, centered and of unit length, ``(S, D)``."""
    coarse = F.adaptive_avg_pool2d(images, SIGNATURE_GRID).flatten(1)
    return F.normalize(coarse - coarse.mean(1, keepdim=True), dim=1)


def nearest(signature: Tensor, context: SupportContext, *, among: Tensor | None = None) -> Tensor | None:
    """The support group ``(S,)`` most similar to each slice; ``None`` where there is only one.

    Args:
        signature: Of the slices ``(S, D)``.
        context: The support.
        among: ``(S, n)``, groups that come into question for each slice; all when left out.
    """
    if len(context.signature) == 1:
        return None
    similar = signature @ context.signature.T
    if among is None:
        return similar.argmax(1)
    return among.gather(1, similar.gather(1, among).argmax(1, keepdim=True))[:, 0]


def all_placed(context: SupportContext) -> bool:
    """Whether it is known of every support slice where along the body it lies."""
    return sum(len(axis.marked) for axis in context.axes) == len(context.signature)
