"""Anomaly-aware open-vocabulary attention maps (AOVA) of DiffuGTS.

The adapted features of every stage attend to two texts, "a normal CT of the liver" and "an abnormal CT of the
liver with a tumor". The share of the attention that goes to the abnormal text is the map. In equations (known
secondhand, with one deviation)::

    A_l = (W_q F'_l) (W_k t_l)^T / sqrt(C_l)      t_l = LN(W_2 GELU(W_1 t))
    AOVA = softmax over {normal, abnormal} of the mean over l of A_l on a common grid

The deviation: we average the logits before the softmax. The reimplementation that we know of adds up
softmaxes and applies a sigmoid to the sum, which is above 0.5 everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentseg.methods.diffugts.adapters import Adapters

NORMAL, ABNORMAL = 0, 1
DROPOUT = 0.15  # of whole channels of frozen features, against overfitting
FALL = 50.0  # how much the abnormal logit is lowered at a distance of one image edge from the organ
TOP_SHARE = 0.002  # share of the positions whose abnormal logits make the image-level score


class AttentionMaps(NamedTuple):
    """What a network says about ``B`` images under two texts each.

    Attributes:
        logits: ``(B, 2, ...)`` on the finest grid of the stages, for the normal and the abnormal text.
        class_embeddings: ``(B, 2, D)``, the image as seen by each text, in the space of the texts.
        score: ``(B,)``, logit of the image showing what the abnormal text says.
    """

    logits: Tensor
    class_embeddings: Tensor
    score: Tensor

    @property
    def margin(self) -> Tensor:
        """Log-odds of the abnormal text, ``(B, 1, ...)``."""
        return self.logits[:, [ABNORMAL]] - self.logits[:, [NORMAL]]

    def chance(self, grid: Sequence[int]) -> Tensor:
        """The map on another grid, its log-odds interpolated, ``(B, 1, ...)``."""
        return resized(self.margin, grid).sigmoid()


class TextAttention(nn.Module):
    """Attention of one stage's positions to texts.

    Args:
        channels: ``C`` of the stage.
        text_dim: ``D`` of the texts.
    """

    def __init__(self, channels: int, text_dim: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Linear(text_dim, text_dim // 2),
            nn.GELU(),
            nn.Linear(text_dim // 2, channels),
            nn.LayerNorm(channels),
        )
        self.to_q = nn.Linear(channels, channels)  # its bias says how rare tumors are
        self.to_k = nn.Linear(channels, channels, bias=False)

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """Logits ``(B, N, ...)`` of features ``(B, C, ...)`` for texts ``(B, N, D)``."""
        queries = self.to_q(features.movedim(1, -1).flatten(1, -2))
        keys = self.to_k(self.reduce(texts))
        logits = queries @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
        maps: Tensor = logits.transpose(1, 2).unflatten(2, features.shape[2:])
        return maps


class Pyramid(nn.Module):
    """Merges the levels from coarse to fine, with a convolution each, which gives each position its context.

    It is our addition, see :class:`~latentseg.methods.tumor.features.TumorConfig`.

    Args:
        channels: Of the levels, finest first.
        width: Of what comes out.
        dims: 2 or 3.
    """

    def __init__(self, channels: Sequence[int], width: int, *, dims: int = 2) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.dropout = (nn.Dropout2d if dims == 2 else nn.Dropout3d)(DROPOUT)
        self.lateral = nn.ModuleList(conv(inputs, width, 1) for inputs in channels)
        self.mix = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, width), nn.GELU(), conv(width, width, 3, padding=1))
            for _ in channels
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Levels ``(B, width, ...)``, finest first."""
        merged: list[Tensor] = []
        for at in reversed(range(len(levels))):
            merged.append(self.level(at, levels[at], merged[-1] if merged else None))
        return merged[::-1]

    def level(self, at: int, values: Tensor, coarser: Tensor | None) -> Tensor:
        """One level ``(B, width, ...)``, of the next coarser one where there is one."""
        own: Tensor = self.lateral[at](self.dropout(values))
        if coarser is not None:
            own = own + resized(coarser, own.shape[2:])
        return own + torch.as_tensor(self.mix[at](own))


class AnomalyAttention(nn.Module):
    """All trained parts: adapters, attention of every level, class embeddings and the image-level score.

    Args:
        channels: Widths of the stages, those of one grid together, finest grid first.
        text_dim: ``D``.
        ratio: Of the adapters.
        pyramid: Channels of the pyramid; 0 is none.
        dims: 2 or 3.

    Attributes:
        judge: What the class embeddings have to say in the image-level score; without it the map makes it.
    """

    def __init__(
        self,
        channels: Sequence[Sequence[int]],
        *,
        text_dim: int,
        ratio: float = 0.1,
        pyramid: int = 0,
        dims: int = 2,
    ) -> None:
        super().__init__()
        sums = [sum(level) for level in channels]
        widths = [pyramid] * len(sums) if pyramid else sums
        self.sizes = [len(level) for level in channels]
        self.adapters = Adapters([width for level in channels for width in level], ratio=ratio)
        self.pyramid = Pyramid(sums, pyramid, dims=dims) if pyramid else None
        self.attention = nn.ModuleList(TextAttention(width, text_dim) for width in widths)
        self.embed = nn.Sequential(nn.Linear(sum(widths), text_dim), nn.GELU(), nn.Linear(text_dim, text_dim))
        self.judge: nn.Sequential | None = nn.Sequential(nn.Linear(text_dim, 64), nn.GELU(), nn.Linear(64, 1))

    def forward(
        self, stages: Sequence[Tensor], texts: Tensor, *, away: Tensor | None = None
    ) -> AttentionMaps:
        """Maps of stages ``[(B, C_l, ...)]``, finest first, for two texts ``(B, 2, D)``.

        Args:
            stages: Frozen.
            texts: Of the normal and the abnormal.
            away: ``(B, 1, ...)`` on the finest grid, how far a position is from the organ of the texts, as a
                share of the image's edge; left out where that is not known.
        """
        adapted = iter(self.adapters(stages))
        levels = [torch.cat([next(adapted) for _ in range(size)], 1) for size in self.sizes]
        levels = self.pyramid(levels) if self.pyramid is not None else levels
        grid = levels[0].shape[2:]
        maps = [attend(f, texts) for attend, f in zip(self.attention, levels, strict=True)]
        logits = torch.stack([resized(one, grid) for one in maps]).mean(0)
        if away is not None:
            logits = torch.cat([logits[:, [NORMAL]], logits[:, [ABNORMAL]] - FALL * away], 1)
        embeddings = self.embed(self._seen_by_each(levels, logits.softmax(1)))
        score = top_mean(logits[:, ABNORMAL] - logits[:, NORMAL])
        if self.judge is not None:
            score = score + self.judge(embeddings[:, ABNORMAL])[:, 0]
        return AttentionMaps(logits, embeddings, score)

    @staticmethod
    def _seen_by_each(stages: Sequence[Tensor], attention: Tensor) -> Tensor:
        """Features ``(B, N, sum C_l)`` averaged with the attention ``(B, N, ...)`` of each text."""
        means = []
        for stage in stages:
            weight = resized(attention, stage.shape[2:]).flatten(2)
            weight = weight / weight.sum(2, keepdim=True).clamp(min=1e-6)
            means.append(weight @ stage.flatten(2).transpose(1, 2))
        return torch.cat(means, 2)


def top_mean(values: Tensor, *, share: float = TOP_SHARE) -> Tensor:
    """Mean of the largest values ``(B, ...)`` of each item, ``(B,)``."""
    flat = values.flatten(1)
    return flat.topk(max(round(share * flat.shape[1]), 1), 1).values.mean(1)


def resized(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps ``(B, N, ...)`` on another grid, linear."""
    if tuple(maps.shape[2:]) == tuple(grid):
        return maps
    mode = {1: "bilinear", 2: "trilinear"}[len(grid) - 1]
    return F.interpolate(maps, size=list(grid), mode=mode, align_corners=False)
