"""The few-shot segmenter as a method of the protocols, which hand over slices rather than scans."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.slices import ScanAnswer, SupportSlices
from latentseg.methods.fewshot.support import Support
from latentseg.metrics.presence import presence_scores

if TYPE_CHECKING:
    from torch import Tensor

    from latentseg.methods.fewshot.context import SupportContext
    from latentseg.methods.fewshot.encoded import Encoded
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter

KEPT = 4  # encoded chunks and supports: a protocol asks for the same slices once per organ


class FewShotMethod:
    """SD-FSMIS on slices. Encoded queries and supports are kept for a while, as a scan comes once per organ.

    Attributes:
        name: Name in tables.
        fingerprint: Of the weights.
    """

    def __init__(self, segmenter: FewShotSegmenter, *, name: str = "") -> None:
        self.name = name or f"SD-FSMIS ({segmenter.parts.backbone.name})"
        self.fingerprint = segmenter.parts.fingerprint
        self.segmenter = segmenter
        self._slices: OrderedDict[bytes, Encoded] = OrderedDict()
        self._contexts: OrderedDict[bytes, SupportContext] = OrderedDict()

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probability ``(S, H, W)`` for slices ``(S, H, W)``."""
        from latentseg.methods.fewshot.groups import nearest

        encoded, context, signature = self._asked(support, query_slices)
        return self.segmenter.probability_slices(encoded, context, nearest(signature, context))

    def scan(
        self, support: SupportSlices, query_slices: NDArray[np.float32], *, step_mm: float
    ) -> ScanAnswer:
        """All slices of a scan, searched where the segmenter would search them."""
        encoded, context, signature = self._asked(support, query_slices)
        chance, shown = self.segmenter.search(encoded, context, signature, step_mm=step_mm)
        return ScanAnswer(chance, presence_scores(chance) * shown)

    def decide(self, answer: ScanAnswer, fine: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Mask of a whole scan by the segmenter's own rules for presence and for components."""
        from latentseg.imaging.components import large_in_volume

        options = self.segmenter.options
        if answer.scores.max() < options.min_presence:
            return np.zeros(fine.shape, bool)
        return large_in_volume(fine >= options.threshold)

    def _asked(
        self, support: SupportSlices, query_slices: NDArray[np.float32]
    ) -> tuple[Encoded, SupportContext, Tensor]:
        """Encoded slices, the encoded support, and what each slice looks like as a whole."""
        from latentseg.methods.fewshot.groups import signatures

        context, images = self._context(support), _tensor(query_slices)
        return self._encoded(images), context, signatures(images)

    def _context(self, support: SupportSlices) -> SupportContext:
        key = _key(support.images) + _key(support.masks) + b"".join(_key(s.holds) for s in support.scans)
        if key not in self._contexts:
            sources = ("",) * len(support.images)
            example = Support("target", support.images, support.masks, sources, scans=support.scans)
            self._contexts[key] = self.segmenter.encode_support(example)
        return _kept(self._contexts, key, 12 * KEPT)

    def _encoded(self, images: Tensor) -> Encoded:
        """Slices as the networks take them, each encoded once: chunks of different organs overlap."""
        from latentseg.methods.fewshot.encoded import Encoded

        keys = [_key(image.numpy()) for image in images]
        new = [i for i, key in enumerate(keys) if key not in self._slices]
        if new:
            encoded = self.segmenter.encode_slices(images[new])
            self._slices.update({keys[i]: encoded[n : n + 1] for n, i in enumerate(new)})
        out = Encoded.join([self._slices[key] for key in keys])
        while len(self._slices) > 400 * KEPT:
            self._slices.popitem(last=False)
        return out


def _tensor(slices: NDArray[np.float32]) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(slices, np.float32))[:, None]


def _key(array: NDArray[np.generic]) -> bytes:
    return blake2b(np.ascontiguousarray(array).tobytes(), digest_size=16).digest()


def _kept(store: OrderedDict[bytes, SupportContext], key: bytes, most: int) -> SupportContext:
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)
    return store[key]
