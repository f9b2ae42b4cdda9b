"""Which of the examples each slice of a scan is compared with: the one that looks most like it."""

from __future__ import annotations

from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors

GRID = 8  # cells along the edge of a slice's coarse layout


class NearestExample(Part):
    """Chooses among the examples by coarse grey values; of one group there is nothing to choose."""

    name = "nearest example"

    def of_support(self, examples: Examples) -> Tensors:
        """``layout`` ``(G, D)``."""
        return {"layout": layouts(examples.images).unflatten(0, (-1, examples.shots)).mean(1)}

    def of_scan(self, images: Tensor) -> Tensors:
        """``layout`` ``(B, D)``."""
        return {"layout": layouts(images)}

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Set the group of each slice, among those that come into question."""
        known, own = support["layout"], scan.of(self.name)["layout"]
        if len(known) == 1:
            return search
        similar = own @ known.T.to(own)
        if search.among is None:
            return replace(search, group=similar.argmax(1))
        best = similar.gather(1, search.among).argmax(1, keepdim=True)
        return replace(search, group=search.among.gather(1, best)[:, 0])


def layouts(images: Tensor) -> Tensor:
    """Coarse grey values of slices ``(S, 1, H, W)``, centered and of unit length, ``(S, D)``."""
    coarse = F.adaptive_avg_pool2d(images, GRID).flatten(1)
    return F.normalize(coarse - coarse.mean(1, keepdim=True), dim=1)
