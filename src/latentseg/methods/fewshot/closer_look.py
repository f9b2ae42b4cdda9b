"""A closer look: the matching prior once more, on cut-outs around what was found.

Not in SD-FSMIS. On the grid of the latents a kidney is four cells wide; cut out and enlarged, in the support
and in the scan alike, it has ten, and its neighbors are told apart. The first look says where to cut::

    logit = (1 - w) logit_first + w logit_closer        within the cut-out of a slice

Targets that fill most of a slice are large enough as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from latentseg.methods.cutouts import CutOuts, box_of
from latentseg.methods.fewshot.matching import MatchingSupport, margin_logits, scan_prior
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.log_odds import limited

FEWEST = 8  # pixels found in a slice, without which there is no second look at it
WEIGHT = 0.7  # of the closer look beside the first
SLAB = 8  # cut-outs that go through the network at a time

Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CloserOptions:
    """How cut-outs are made.

    Attributes:
        margin: Edge of a cut-out relative to the longest side of the target in the support.
        smallest: Edge in pixels.
        largest: Edge in pixels above which there is no closer look.
    """

    margin: float = 1.6
    smallest: int = 64
    largest: int = 230


@dataclass(frozen=True, eq=False)
class CloserSupport:
    """A support seen from near.

    Attributes:
        edge: ``(1,)``, of all cut-outs in pixels, those of scans as well.
        matching: What the prior compares cut-outs with.
    """

    edge: Tensor
    matching: MatchingSupport

    @classmethod
    def of(
        cls, images: Tensor, masks: Tensor, features: Features, *, shots: int, options: CloserOptions
    ) -> Self | None:
        """Of support slices ``(n, 1, H, W)`` with masks ``(n, H, W)``; None where the target is too large."""
        sides = torch.stack([box_of(mask)[2:] - box_of(mask)[:2] for mask in masks])
        edge = (options.margin * sides.amax()).clamp(min=options.smallest)[None]
        if edge > options.largest:
            return None
        cuts = CutOuts.around(masks, edge.expand(len(masks)))
        cells = torch.cat([features(image) for image in cuts.of(images).split(1)])
        near = cuts.of(masks[:, None])[:, 0].to(cells.device)
        return cls(edge, MatchingSupport.of(cells, near, shots=shots))

    @torch.no_grad()
    def compare(
        self,
        images: Tensor,
        first: Tensor,
        found: Tensor,
        *,
        features: Features,
        group: Tensor | None = None,
    ) -> Tensor:
        """Log-odds ``(S, H, W)`` after a closer look at what was found.

        Args:
            images: ``(S, 1, H, W)`` in [-1, 1].
            first: Log-odds of the first look.
            found: The same, refined; says where to cut.
            features: Of the prior.
            group: ``(S,)``, the support group of each slice.
        """
        masks = found >= 0
        at = torch.nonzero(masks.flatten(1).sum(1) >= FEWEST)[:, 0]
        if not len(at):
            return first
        cuts = CutOuts.around(masks[at].float(), self.edge.expand(len(at)))
        cells = torch.cat([features(slab) for slab in cuts.of(images[at]).split(SLAB)])
        own = None if group is None else group[at].to(cells.device)
        margin = scan_prior(cells, self.matching, group=own, slab=SLAB, near_only=True)
        closer, inside = cuts.back(margin_logits(margin, images.shape[-1]).cpu())
        mixed = (1 - WEIGHT) * limited(first[at]) + WEIGHT * closer[:, 0]
        out = first.clone()
        out[at] = torch.where(inside[:, 0], mixed, out[at])
        return out


class CloserLook(Part):
    """Compares enlarged cut-outs once more, where the target is small enough for that.

    Args:
        features: Of the matching prior.
        options: See there.
        refine: The refinement of masks, if there is one: what it makes of the first look says where to cut.
    """

    name = "closer look"

    def __init__(
        self, features: MatchingFeatures, options: CloserOptions, *, refine: Part | None = None
    ) -> None:
        self.features, self.options, self.refine = features, options, refine

    def of_support(self, examples: Examples) -> Tensors:
        """The edge of cut-outs, and what they are compared with; nothing for a large target."""
        about = (examples.images, examples.masks, self.features)
        near = CloserSupport.of(*about, shots=examples.shots, options=self.options)
        return {} if near is None else near.matching.tensors() | {"edge": near.edge}

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Mix what the closer look says with the first, within the cut-outs."""
        if not support:
            return search
        found = self.refine(search, scan, {}) if self.refine else search
        near = CloserSupport(support["edge"], MatchingSupport.from_tensors(support, self.features.device))
        about = (scan.images, search.log_odds, found.log_odds)
        closer = near.compare(*about, features=self.features, group=search.group)
        return replace(search, log_odds=closer)
