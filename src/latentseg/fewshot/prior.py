"""The matching prior: where features of photographs say that a query resembles the support's target.

Not in SD-FSMIS, whose prior is a full-size diffusion model. The small backbone's latents cannot tell a kidney
from a psoas muscle; features of a frozen ImageNet network can, as in PFENet (Tian et al. 2020), and better
when an adapter has learned what they mean in scans (:mod:`matching_features`)::

    s_m(q) = mean of the 3 largest over support cells p in m of  cos(f_q, f_p) - d |q - p|^2
    prior(q) = s_fg(q) - s_bg(q)

once with ``d = 0`` and once with ``d = 2``, where positions run from 0 to 1: scans of one body region show
an organ in about the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.fewshot.cache import pick_group

DISTANCES = (0.0, 2.0)
NEAREST = 3
SCALE = 10.0  # brings margins to about unit size
VOTE = 2.0  # logits per unit of the scaled margin
CHANNELS = len(DISTANCES) + 1


@dataclass(frozen=True, eq=False)
class MatchingSupport:
    """What queries are compared with.

    Attributes:
        features: ``(G, D, L)`` of all cells of all shots of a group.
        masks: ``(G, L)``, share of each cell that belongs to the target.
    """

    features: Tensor
    masks: Tensor

    @classmethod
    def of(cls, features: Tensor, masks: Tensor, *, shots: int = 1) -> MatchingSupport:
        """From features ``(G * n, D, h, w)`` and masks ``(G * n, H, W)``, shots next to each other."""
        size = features.shape[2], features.shape[3]
        cells = F.adaptive_avg_pool2d(masks.float()[:, None], size).flatten(1)
        by_group = features.flatten(2).unflatten(0, (-1, shots)).transpose(1, 2).flatten(2)
        return cls(by_group, cells.unflatten(0, (-1, shots)).flatten(1))


def matching_prior(features: Tensor, support: MatchingSupport, *, group: Tensor | None = None) -> Tensor:
    """Compare queries with supports.

    Args:
        features: Of the queries, ``(B, D, h, w)``.
        support: Of ``G`` groups.
        group: ``(B,)`` long, the support of each query. Not needed for ``G == 1``, nor for ``B == G``.

    Returns:
        ``(B, 3, h, w)``: the margin of foreground over background without and with distance, and the
        similarity to the foreground with distance.
    """
    batch, (height, width) = len(features), features.shape[2:]
    known = pick_group(support.features, batch=batch, group=group)
    masks = pick_group(support.masks, batch=batch, group=group)
    cosine = features.flatten(2).transpose(1, 2).float() @ known.float()
    apart = squared_distances(height, width).repeat(1, cosine.shape[2] // (height * width))
    largest = masks.amax(1, keepdim=True)
    inside, outside = masks >= 0.5 * largest, masks < 0.2 * largest
    out = []
    for weight in DISTANCES:
        similar = cosine - weight * apart
        foreground, background = (best(similar, cells) for cells in (inside, outside))
        out.append(foreground - background)
    out.append(foreground - 0.8)
    prior: Tensor = SCALE * torch.stack(out, 1).unflatten(2, (height, width))
    return prior


def prior_logits(prior: Tensor, size: int) -> Tensor:
    """The prior's own vote ``(B, 1, size, size)``, its margin with distance; the network's is added to it."""
    return VOTE * F.interpolate(prior[:, 1:2], size=(size, size), mode="bilinear", align_corners=False)


def best(similar: Tensor, cells: Tensor) -> Tensor:
    """Mean ``(B, Q)`` of the largest of ``(B, Q, L)`` among some cells ``(B, L)``; -1 where there is none."""
    top = similar.masked_fill(~cells[:, None], -torch.inf).topk(NEAREST, 2).values
    there = torch.isfinite(top)
    mean = torch.where(there, top, 0.0).sum(2) / there.sum(2).clamp(min=1)
    return torch.where(there.any(2), mean, -1.0)


def squared_distances(height: int, width: int) -> Tensor:
    """``(L, L)`` between the cells of a grid whose sides have length 1."""
    rows, columns = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    at = torch.stack([rows, columns], -1).flatten(0, 1)
    return (at[:, None] - at[None]).square().sum(-1)
