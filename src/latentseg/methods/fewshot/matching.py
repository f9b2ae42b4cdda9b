"""The matching prior: where features of photographs say that a query resembles the support's target.

Not in SD-FSMIS, whose prior is a full-size diffusion model. The small backbone's latents cannot tell a kidney
from a psoas muscle; features of a frozen ImageNet network can, as in PFENet (Tian et al. 2020), and better
when an adapter has learned what they mean in scans (:mod:`.matching_features`)::

    s_m(q) = mean of the 3 largest over support cells p in m of  cos(f_q, f_p) - d |q - p|^2
    prior(q) = s_fg(q) - s_bg(q)

once with ``d = 0`` and once with ``d = 2``, where positions run from 0 to 1: scans of one body region show
an organ in about the same place. Where several slices are shown, the nearest one and all together count half
each (:func:`scan_prior`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.part import Tensors

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
        places: ``(L, 2)``, row and column of each cell in [0, 1).
    """

    features: Tensor
    masks: Tensor
    places: Tensor

    @classmethod
    def of(cls, features: Tensor, masks: Tensor, *, shots: int = 1) -> MatchingSupport:
        """From features ``(G * n, D, h, w)`` and masks ``(G * n, H, W)``, shots next to each other."""
        size = features.shape[2], features.shape[3]
        cells = F.adaptive_avg_pool2d(masks.float()[:, None], size).flatten(1)
        by_group = features.flatten(2).unflatten(0, (-1, shots)).transpose(1, 2).flatten(2)
        return cls(
            by_group,
            cells.unflatten(0, (-1, shots)).flatten(1),
            places(*size, device=features.device).repeat(shots, 1),
        )

    def tensors(self) -> Tensors:
        """For a file: features in half precision."""
        return {"features": self.features.half(), "masks": self.masks, "places": self.places}

    @classmethod
    def from_tensors(cls, tensors: Tensors, device: torch.device) -> MatchingSupport:
        """The inverse of :meth:`tensors`, where queries are compared."""
        return cls(*(tensors[name].float().to(device) for name in ("features", "masks", "places")))

    def joined(self) -> MatchingSupport:
        """All groups as one."""
        features = self.features.transpose(0, 1).flatten(1)[None]
        return MatchingSupport(features, self.masks.flatten()[None], self.places.repeat(len(self.masks), 1))


@torch.no_grad()
def scan_prior(
    features: Tensor,
    support: MatchingSupport,
    *,
    group: Tensor | None = None,
    slab: int = 8,
    near_only: bool = False,
) -> Tensor:
    """The prior of a whole scan: the mean of that by each slice's own support and that by all supports.

    Args:
        features: Of all its slices, ``(S, D, h, w)``.
        support: Of ``G`` groups.
        group: ``(S,)`` long, the support of each slice; None for ``G == 1``.
        slab: Slices at a time.
        near_only: Whether the margin with distance is enough.

    Returns:
        ``(S, 3, h, w)``, see :func:`matching_prior`, or ``(S, 1, h, w)``.
    """

    def compare(with_: MatchingSupport, group: Tensor | None = None) -> Tensor:
        parts = features.split(slab)
        groups = [None] * len(parts) if group is None else group.split(slab)
        pairs = zip(parts, groups, strict=True)
        return torch.cat([matching_prior(p, with_, group=g, near_only=near_only) for p, g in pairs])

    shown = compare(support, group)
    return shown if len(support.masks) == 1 else (shown + compare(support.joined())) / 2


def matching_prior(
    features: Tensor, support: MatchingSupport, *, group: Tensor | None = None, near_only: bool = False
) -> Tensor:
    """Compare queries with supports.

    Args:
        features: Of the queries, ``(B, D, h, w)``.
        support: Of ``G`` groups.
        group: ``(B,)`` long, the support of each query. Not needed for ``G == 1``, nor for ``B == G``.
        near_only: Whether the margin with distance is enough.

    Returns:
        ``(B, 3, h, w)``: the margin of foreground over background without and with distance, and the
        similarity to the foreground with distance; or the second of them, ``(B, 1, h, w)``.
    """
    groups = len(support.masks)
    if group is None and groups not in (1, len(features)):
        raise ValueError(f"{len(features)} queries and {groups} supports need a group index")
    compare = _near_margin if near_only else _compare
    if groups == 1:
        return compare(features, support, 0)
    index = torch.arange(groups, device=features.device) if group is None else group
    numbers = index.unique().tolist()
    found = {number: compare(features[index == number], support, number) for number in numbers}
    first = found[numbers[0]]
    prior = first.new_empty(len(features), *first.shape[1:])
    for number, one in found.items():
        prior[index == number] = one
    return prior


def _compare(features: Tensor, support: MatchingSupport, group: int) -> Tensor:
    """The prior ``(B, 3, h, w)`` of queries that share a support."""
    (target, near), beside = _similar(features, support, group, DISTANCES)
    margins = torch.stack([target - beside[0], near - beside[1], near - 0.8], 1)
    prior: Tensor = SCALE * margins.unflatten(2, features.shape[2:])
    return prior


def _near_margin(features: Tensor, support: MatchingSupport, group: int) -> Tensor:
    """The margin with distance ``(B, 1, h, w)`` alone."""
    (near,), (beside,) = _similar(features, support, group, DISTANCES[1:])
    margin: Tensor = SCALE * (near - beside)[:, None].unflatten(2, features.shape[2:])
    return margin


def _similar(
    features: Tensor, support: MatchingSupport, group: int, distances: Sequence[float]
) -> list[list[Tensor]]:
    """Similarity ``(B, L)`` to the target, and to what lies beside it, with each weight of the distance."""
    queries, known = features.flatten(2).transpose(1, 2).float(), support.features[group].float()
    masks, at = support.masks[group], places(*features.shape[2:], device=features.device)
    similar = []
    for cells in (masks >= 0.5 * masks.max(), masks < 0.2):
        cosine = queries @ known[:, cells]
        apart = torch.cdist(at, support.places[cells].float()).square()
        similar.append([best(cosine - weight * apart if weight else cosine) for weight in distances])
    return similar


def prior_logits(prior: Tensor, size: int) -> Tensor:
    """The prior's own vote ``(B, 1, size, size)``, its margin with distance; the network's is added to it."""
    return margin_logits(prior[:, 1:2], size)


def margin_logits(margin: Tensor, size: int) -> Tensor:
    """The vote ``(B, 1, size, size)`` of a margin ``(B, 1, h, w)``."""
    return VOTE * F.interpolate(margin, size=(size, size), mode="bilinear", align_corners=False)


def best(similar: Tensor) -> Tensor:
    """Mean ``(B, Q)`` of the largest of ``(B, Q, L)``; -1 where ``L`` is 0."""
    count = min(NEAREST, similar.shape[2])
    return similar.topk(count, 2).values.mean(2) if count else similar.new_full(similar.shape[:2], -1.0)


def places(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Row and column ``(L, 2)`` of the cells of a grid whose sides have length 1."""
    down, across = (torch.arange(count, device=device) / count for count in (height, width))
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([rows, columns], -1).flatten(0, 1)
