"""Which part of the body slices show, so that a tumor of an organ that is out of view is called absent.

And how suspicious healthy slices of a part look, which differs. Not of the paper; ours. A linear classifier
of the mean of the coarsest frozen features, fitted after the attention maps, on the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROUNDS = 100  # of the optimizer, which has converged by then
DECAY = 1e-3  # of the squared weights
UNLIKELY = 0.02  # mean probability over the slices, below which a part of the body is out of view
PART_OF = {"head": "head", "thorax": "trunk", "abdomen": "trunk", "pelvis": "trunk"}
"""The part of the body of a region of the vocabulary; organs of other regions may be anywhere."""

APART_MM = 5.0  # of slices, from which on each is a look of its own; nearer ones look alike


class Offset(NamedTuple):
    """What anomaly scores are lowered by: the highest of many slices is another than that of one.

    Attributes:
        one: Where a single slice shows the organ.
        growth: More, or less, for each time that the number of slices grows by a factor of e.
    """

    one: float
    growth: float = 0.0

    def at(self, looks: float) -> float:
        """What is taken off where an organ is seen in so many slices (:func:`looks_of`)."""
        return self.one + self.growth * math.log(max(looks, 1.0))


class Views(nn.Module):
    """A linear classifier of slices.

    Args:
        names: Parts of the body, such as "head" and "trunk"; none where this was not trained.
        channels: Of the coarsest stage.

    Attributes:
        offset: ``(parts + 1,)``, what the anomaly score is lowered by where a tumor of a part is asked for;
            the last where it may be anywhere.
        by_organ: The same for tumors of an organ in scans of a modality (:func:`key_of`), where it is known,
            by the number of slices that show it.
    """

    mean: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, names: Sequence[str], channels: int) -> None:
        super().__init__()
        self.names = tuple(names)
        self.by_organ: dict[str, Offset] = {}
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("offset", torch.zeros(len(self.names) + 1))
        self.weight = nn.Parameter(torch.zeros(len(self.names), channels))
        self.bias = nn.Parameter(torch.zeros(len(self.names)))

    def forward(self, coarsest: Tensor) -> Tensor:
        """Probabilities ``(B, parts)`` of the coarsest stage ``(B, C, ...)``."""
        return self._logits(coarsest.flatten(2).mean(2)).softmax(1)

    def _logits(self, pooled: Tensor) -> Tensor:
        return F.linear((pooled - self.mean) / self.scale, self.weight, self.bias)

    def fit(self, pooled: Tensor, parts: Sequence[str]) -> None:
        """Fit to pooled features ``(N, C)`` and the part that each shows; every part counts the same."""
        truth = torch.tensor([self.names.index(part) for part in parts])
        weight = 1 / torch.bincount(truth, minlength=len(self.names)).clamp(min=1)
        self.mean.copy_(pooled.mean(0))
        self.scale.copy_(pooled.std(0) + 1e-4)
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=ROUNDS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(self._logits(pooled), truth, weight=weight)
            loss = loss + DECAY * self.weight.square().sum()
            loss.backward()
            return loss

        with torch.enable_grad():
            optimizer.step(closure)

    def lowered(self, scores: Tensor, region: str, key: str = "", *, looks: float = 1.0) -> Tensor:
        """Anomaly scores ``(S,)``, as logits, lowered by what the organ or the part of the body asks for.

        Args:
            scores: Of slices.
            region: Of the vocabulary, of the organ that is asked for.
            key: That organ and the modality (:func:`key_of`).
            looks: Number of slices that show the organ (:func:`looks_of`).
        """
        if key in self.by_organ:
            return scores - self.by_organ[key].at(looks)
        part = PART_OF.get(region, "")
        return scores - self.offset[self.names.index(part) if part in self.names else -1].to(scores.device)

    @torch.no_grad()
    def missing(self, coarsest: Tensor, region: str) -> str:
        """The part that is seen instead of that of a region; nothing where it may be in view.

        Args:
            coarsest: Stage of all slices ``(S, C, ...)``.
            region: Of the vocabulary, of the organ that is asked for.
        """
        part = PART_OF.get(region, "")
        if part not in self.names:
            return ""
        chance = self(coarsest).mean(0)
        seen = self.names[int(chance.argmax())]
        return seen if float(chance[self.names.index(part)]) < UNLIKELY else ""


def key_of(organ: str, modality: str) -> str:
    """Name of a tumor's organ in scans of a modality, such as "liver CT"."""
    return f"{organ} {'MR' if modality == 'MR' else 'CT'}"


def looks_of(shown: int, step_mm: float) -> float:
    """How many slices count for themselves among those that show an organ, so many millimeters apart."""
    return 1 + max(shown - 1, 0) * min(step_mm / APART_MM, 1.0)
