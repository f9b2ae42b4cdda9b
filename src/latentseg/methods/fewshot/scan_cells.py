"""What is computed once where several targets are looked for in one scan, or shown in one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from hashlib import blake2b
from typing import Generic, TypeVar

import torch
from torch import Tensor

from latentseg.methods.fewshot.cells import ScanCells
from latentseg.methods.fewshot.matching_features import MatchingFeatures

KEPT = 6  # scans; each takes about 40 MB
Value = TypeVar("Value")


class LastUsed(Generic[Value]):
    """Keeps the values that were last asked for; safe to ask from many threads.

    Args:
        most: How many.
    """

    def __init__(self, most: int = KEPT) -> None:
        self.most = most
        self._kept: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not known."""
        with self._lock:
            known = self._kept.get(key)
        value = make() if known is None else known
        with self._lock:
            self._kept[key] = value
            self._kept.move_to_end(key)
            while len(self._kept) > self.most:
                self._kept.popitem(last=False)
        return value


class CellsOfScans:
    """Describes scans and keeps the last ones.

    Args:
        features: Of the cells.
        slab: Slices that go through the network at a time.
    """

    def __init__(self, features: MatchingFeatures, *, slab: int = 8) -> None:
        self.features, self.slab = features, slab
        self._kept: LastUsed[ScanCells] = LastUsed()

    @torch.no_grad()
    def __call__(self, images: Tensor, *, along_mm: Tensor, side_mm: float) -> ScanCells:
        """The cells of slices ``(S, 1, H, W)``, see :meth:`.cells.ScanCells.of`."""

        def described() -> ScanCells:
            maps = torch.cat([self.features(part.float()).half() for part in images.split(self.slab)])
            return ScanCells.of(maps, images, along_mm=along_mm, side_mm=side_mm)

        return self._kept.of(digest(images, along_mm, torch.tensor(side_mm)), described)


def digest(*tensors: Tensor) -> bytes:
    """Bytes that change with any of the values."""
    hashed = blake2b(digest_size=16)
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.digest()
