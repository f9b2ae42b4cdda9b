"""A closer look: the matching prior once more, on cut-outs around what was found.

Not in SD-FSMIS. On the grid of the latents a kidney is four cells wide; cut out and enlarged, in the support
and in the scan alike, it has ten, and its neighbors are told apart. The first look says where to cut::

    logit = (1 - w) logit_first + w logit_closer        within the cut-out of a slice

Targets that fill most of a slice are large enough as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.cutouts import CutOuts, box_of
from latentseg.methods.fewshot.matching import MatchingSupport, margin_logits, scan_prior

FEWEST = 8  # pixels found in a slice, without which there is no second look at it
WEIGHT = 0.7  # of the closer look beside the first
SLAB = 8  # cut-outs that go through the network at a time
SURE = 1e-4  # probabilities nearer to 0 or 1 have the logit of this one

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
        seen = torch.cat([features(image) for image in cuts.of(images).split(1)])
        return cls(edge, MatchingSupport.of(seen, cuts.of(masks[:, None])[:, 0], shots=shots))

    @torch.no_grad()
    def look(
        self,
        images: Tensor,
        chance: NDArray[np.float32],
        found: NDArray[np.float32],
        *,
        features: Features,
        group: Tensor | None = None,
    ) -> NDArray[np.float32]:
        """Probability ``(S, H, W)`` of the target after a closer look at what was found.

        Args:
            images: ``(S, 1, H, W)`` in [-1, 1].
            chance: Of the first look.
            found: The same, refined; says where to cut.
            features: Of the prior.
            group: ``(S,)``, the support group of each slice.
        """
        masks = torch.from_numpy(found >= 0.5)
        at = torch.nonzero(masks.flatten(1).sum(1) >= FEWEST)[:, 0]
        if not len(at):
            return chance
        cuts = CutOuts.around(masks[at].float(), self.edge.expand(len(at)))
        seen = torch.cat([features(slab) for slab in cuts.of(images[at]).split(SLAB)])
        own = None if group is None else group[at]
        margin = scan_prior(seen, self.matching, group=own, slab=SLAB, near_only=True)
        closer, inside = cuts.back(margin_logits(margin, images.shape[-1]))
        out = torch.from_numpy(chance.copy())
        mixed = (1 - WEIGHT) * out[at].logit(SURE) + WEIGHT * closer[:, 0]
        out[at] = torch.where(inside[:, 0], mixed.sigmoid(), out[at])
        return out.numpy()
