"""The cells of scans and of examples, computed once where several targets are looked for or shown in one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from hashlib import blake2b

import torch
from torch import Tensor

from latentseg.methods.fewshot.cells import ScanCells
from latentseg.methods.fewshot.matching_features import MatchingFeatures

KEPT = 6  # scans; each takes about 40 MB


class CellsOfScans:
    """Describes scans and keeps the last ones; safe to ask from many threads.

    Args:
        features: Of the cells.
        slab: Slices that go through the network at a time.
    """

    def __init__(self, features: MatchingFeatures, *, slab: int = 8) -> None:
        self.features, self.slab = features, slab
        self._kept: OrderedDict[bytes, ScanCells] = OrderedDict()
        self._lock = threading.Lock()

    @torch.no_grad()
    def __call__(self, images: Tensor, *, along_mm: Tensor, side_mm: float) -> ScanCells:
        """The cells of slices ``(S, 1, H, W)``, see :meth:`.cells.ScanCells.of`."""
        digest = blake2b(images.numpy().tobytes(), digest_size=16)
        digest.update(along_mm.numpy().tobytes() + str(side_mm).encode())
        key = digest.digest()
        with self._lock:
            known = self._kept.get(key)
        cells = known or self._of(images, along_mm, side_mm)
        with self._lock:
            self._kept[key] = cells
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return cells

    def _of(self, images: Tensor, along_mm: Tensor, side_mm: float) -> ScanCells:
        maps = torch.cat([self.features(part.float()).half() for part in images.split(self.slab)])
        return ScanCells.of(maps, images, along_mm=along_mm, side_mm=side_mm)
