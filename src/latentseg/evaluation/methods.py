"""The few-shot segmenter as a method of the protocols, which pass slices instead of scans.

It calls the search and the decision of the segmenter itself, so the evaluation measures what users run.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.slices import ScanAnswer, SupportSlices
from latentseg.methods.fewshot.support import Support
from latentseg.methods.last_used import LastUsed
from latentseg.metrics.presence import presence_scores

if TYPE_CHECKING:
    from latentseg.methods.fewshot.context import SupportContext
    from latentseg.methods.fewshot.part import EncodedScan
    from latentseg.methods.fewshot.prepared import Found
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter

KEPT = 48  # encoded supports: a protocol asks for the same ones again and again
KEPT_SLICES = 1600
ONE_MM = (1.0, 1.0, 1.0)


class FewShotMethod:
    """Few-shot segmentation of slices; what is encoded is cached, as a scan comes once per organ.

    Attributes:
        name: Name in tables.
        fingerprint: Of the weights.
        whole_range: How slices have to be normalized, see :class:`FewShotProtocol`.
    """

    def __init__(self, segmenter: FewShotSegmenter, *, name: str = "") -> None:
        official = ", as released" if segmenter.options.compat == "official" else ""
        self.name = name or f"SD-FSMIS ({segmenter.networks.backbone.name}{official})"
        self.fingerprint = segmenter.fingerprint
        self.whole_range = segmenter.networks.whole_range
        self.segmenter = segmenter
        self._slices: OrderedDict[bytes, EncodedScan] = OrderedDict()
        self._contexts: LastUsed[SupportContext] = LastUsed(KEPT)

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability ``(S, H, W)`` of slices; by the released rules their mask, as 0 and 1."""
        found = self._found(support, query_slices, ONE_MM)
        return found.chance if found.mask is None else found.mask.astype(np.float32)

    def scan(
        self,
        support: SupportSlices,
        query_slices: NDArray[np.float32],
        *,
        spacing_mm: tuple[float, float, float],
    ) -> ScanAnswer:
        """All slices of a scan, searched where the segmenter searches them."""
        found = self._found(support, query_slices, spacing_mm)
        return ScanAnswer(found.chance, presence_scores(found.chance) * found.in_view, found.mask)

    def decide(self, answer: ScanAnswer, fine: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Mask of a whole scan by the segmenter's own rules for presence and for components."""
        return self.segmenter.decide(fine, float(answer.scores.max(initial=0.0)))

    def _found(
        self,
        support: SupportSlices,
        query_slices: NDArray[np.float32],
        spacing_mm: tuple[float, float, float],
    ) -> Found:
        return self.segmenter.search(self._encoded(query_slices, spacing_mm), self._context(support))

    def _context(self, support: SupportSlices) -> SupportContext:
        scans = [_key(scan.images) + _key(scan.masks) for scan in support.scans]
        key = b"".join([_key(support.images), _key(support.masks), *scans])
        sources, ranged = ("",) * len(support.images), support.images if self.whole_range else None
        example = Support(
            "target", support.images, support.masks, sources, scans=support.scans, ranged=ranged
        )
        return self._contexts.of(key, lambda: self.segmenter.encode(example))

    def _encoded(self, slices: NDArray[np.float32], spacing_mm: tuple[float, float, float]) -> EncodedScan:
        """Slices as the networks take them, each encoded once: chunks of different organs overlap."""
        from latentseg.methods.fewshot.part import EncodedScan

        keys = [_key(image) for image in slices]
        new = [i for i, key in enumerate(keys) if key not in self._slices]
        if new:
            encoded = self.segmenter.encode_slices(slices[new], spacing_mm)
            self._slices.update({keys[i]: encoded[n : n + 1] for n, i in enumerate(new)})
        out = EncodedScan.join([self._slices[key] for key in keys], spacing_mm)
        while len(self._slices) > KEPT_SLICES:
            self._slices.popitem(last=False)
        return out


def _key(array: NDArray[np.generic]) -> bytes:
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
