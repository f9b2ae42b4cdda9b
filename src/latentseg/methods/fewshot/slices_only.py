"""Parts that compare slices with slices: they have nothing to add where whole scans are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors
from latentseg.methods.fewshot.volume_example import comparable

MARK = "slices"  # a tensor that says that slices were shown, also to parts that need nothing else


class SlicesOnly(Part):
    """A part that is left out for targets that were shown in whole scans.

    What it needs to know of a scan is computed when first asked for, and kept with the scan.

    Args:
        part: The part.
        edge: Cells along a side of a slice, by which whole scans are compared.
        slab: Slices at a time.
    """

    def __init__(self, part: Part, *, edge: int = 32, slab: int = 8) -> None:
        self.part, self.edge, self.slab = part, edge, slab
        self.name = part.name  # type: ignore[misc]  # a part's name is that of its class

    def of_support(self, examples: Examples) -> Tensors:
        """What the part needs to know of slices; nothing of whole scans."""
        if comparable(examples.scans, self.edge):
            return {}
        return self.part.of_support(examples) | {MARK: torch.ones(1)}

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Take the search further where slices were shown."""
        if MARK not in support:
            return search
        if not scan.of(self.name):
            scan.tensors.update(self._of_scan(scan.images))
        return self.part(search, scan, {name: t for name, t in support.items() if name != MARK})

    @torch.no_grad()
    def _of_scan(self, images: Tensor) -> Tensors:
        slabs = [self.part.of_scan(slab) for slab in images.split(self.slab)]
        return {f"{self.name}/{name}": torch.cat([slab[name] for slab in slabs]) for name in slabs[0]}
