"""The frozen features that matching compares, as a part: computed once per scan, on two grids."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Part, Search, Tensors

GRID = 8  # cells along the edge of a slice's coarse features


class ScanFeatures(Part):
    """Keeps the features of a scan's slices for the parts that follow; finds nothing itself."""

    name = "features"

    def __init__(self, features: MatchingFeatures) -> None:
        self.features = features

    @torch.no_grad()
    def of_scan(self, images: Tensor) -> Tensors:
        """``cells`` ``(B, D, h, w)``, adapted to scans, and ``coarse`` ``(B, D, 8, 8)``; half precision."""
        plain = self.features.plain(images)
        return {"cells": self.features.adapted(plain).half(), "coarse": coarse(plain)}

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:  # noqa: ARG002
        """Nothing is found by features alone."""
        return search


def coarse(features: Tensor) -> Tensor:
    """Features ``(S, D, h, w)`` on a coarse grid, ``(S, D, 8, 8)`` in half precision."""
    return F.adaptive_avg_pool2d(features, GRID).half()
