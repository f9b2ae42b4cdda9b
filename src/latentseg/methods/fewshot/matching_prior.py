"""The matching prior as a part; see :mod:`.matching`."""

from __future__ import annotations

from dataclasses import replace

from latentseg.methods.fewshot.matching import MatchingSupport, prior_logits, scan_prior
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.fewshot.scan_features import ScanFeatures


class Matching(Part):
    """Adds the vote of the prior, and tells the network what the prior found.

    Args:
        features: Of the prior.
        slab: Slices at a time.
    """

    name = "matching prior"

    def __init__(self, features: MatchingFeatures, *, slab: int = 8) -> None:
        self.features, self.slab = features, slab

    def of_support(self, examples: Examples) -> Tensors:
        """Features, masks and places of all cells."""
        cells = self.features(examples.images)
        return MatchingSupport.of(cells, examples.masks.to(cells.device), shots=examples.shots).tensors()

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Add the margin with distance to the log-odds, and set the hint."""
        cells = scan.of(ScanFeatures.name)["cells"]
        known = MatchingSupport.from_tensors(support, cells.device)
        group = None if search.group is None else search.group.to(cells.device)
        prior = scan_prior(cells, known, group=group, slab=self.slab)
        vote = prior_logits(prior, search.log_odds.shape[-1])[:, 0].cpu()
        return replace(search, log_odds=search.log_odds + vote, hint=prior)
