"""What is computed once where several targets are looked for in one scan, or shown in one."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from latentseg.methods.fewshot.cells import ScanCells
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.last_used import LastUsed

KEPT, KEPT_AT_MOST = 6, 24  # scans; each takes about 40 MB
KEPT_SLICES = 120  # each takes about 1 MB


class CellsOfScans:
    """Describes scans and keeps the last ones, and the last slices.

    A slice is described by itself and in half precision, as supports keep their scans: a scan that is an
    example and is searched as well is described once, and the numbers do not depend on what came before.

    Args:
        features: Of the cells.
    """

    def __init__(self, features: MatchingFeatures) -> None:
        self.features = features
        self._kept: LastUsed[ScanCells] = LastUsed(KEPT)
        self._slices: LastUsed[Tensor] = LastUsed(KEPT_SLICES)

    @torch.no_grad()
    def __call__(self, images: Tensor, *, along_mm: Tensor, side_mm: float) -> ScanCells:
        """The cells of slices ``(S, 1, H, W)``, see :meth:`.cells.ScanCells.of`."""

        def described() -> ScanCells:
            maps = torch.cat([self._slice(image[None]) for image in images.half()])
            return ScanCells.of(maps, images, along_mm=along_mm, side_mm=side_mm)

        return self._kept.of(digest(images, along_mm, torch.tensor(side_mm)), described)

    def grow(self, most: int) -> None:
        """Keep so many scans, so that those of one target are still there for the next."""
        self._kept.grow(min(most, KEPT_AT_MOST))

    def _slice(self, image: Tensor) -> Tensor:
        """Features ``(1, D, h, w)`` of a slice ``(1, 1, H, W)``."""
        return self._slices.of(digest(image), lambda: self.features(image.float()).half())


def digest(*tensors: Tensor) -> bytes:
    """Bytes that change with any of the values."""
    hashed = blake2b(digest_size=16)
    for tensor in tensors:
        hashed.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return hashed.digest()
