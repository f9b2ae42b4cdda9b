"""What the scan's own intensities say about the mask, as a part; see :mod:`latentseg.methods.appearance`."""

from __future__ import annotations

from dataclasses import replace

import torch

from latentseg.methods.appearance import AppearanceOptions, refine
from latentseg.methods.fewshot.part import EncodedScan, Part, Search, Tensors
from latentseg.methods.log_odds import log_odds, probability


class Appearance(Part):
    """Refines the log-odds of all slices together."""

    name = "refinement"

    def __init__(self, options: AppearanceOptions) -> None:
        self.options = options

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:  # noqa: ARG002
        """Refine what the parts before it found."""
        chance = probability(search.log_odds).numpy()
        refined = refine(scan.images[:, 0].numpy(), chance, options=self.options)
        return replace(search, log_odds=log_odds(torch.from_numpy(refined)))
