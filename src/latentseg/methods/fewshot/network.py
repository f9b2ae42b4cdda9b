"""SD-FSMIS as a part: its mask latents as log-odds, added to what is known; or the released rules alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentseg.methods.fewshot.part import EncodedScan, Examples, Part, Search, Tensors, in_slabs
from latentseg.methods.log_odds import log_odds
from latentseg.methods.sdfsmis.compat import Compat
from latentseg.methods.sdfsmis.mask_decoding import probabilities
from latentseg.methods.sdfsmis.method import SDFSMIS, EncodedSupport


class Network(Part):
    """The network of SD-FSMIS.

    Args:
        sdfsmis: The networks.
        slab: Slices at a time.
        compat: ``official`` decides by the released threshold and component filter what is in the mask.
    """

    name = "network"

    def __init__(self, sdfsmis: SDFSMIS, *, slab: int = 8, compat: Compat = "fixed") -> None:
        self.sdfsmis, self.slab, self.compat = sdfsmis, slab, compat

    def of_support(self, examples: Examples) -> Tensors:
        """Keys, values, condition and prototypes."""
        encoded = self.sdfsmis.encode_support(
            examples.images, examples.masks, shots=examples.shots, compat=self.compat
        )
        return encoded.tensors()

    def of_scan(self, images: Tensor) -> Tensors:
        """``latents`` ``(B, C, h, w)``."""
        return {"latents": self.sdfsmis.backbone.encode(images)}

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Add the network's log-odds; by the released rules set the mask."""
        known = EncodedSupport.from_tensors({name: t.to(self.sdfsmis.device) for name, t in support.items()})
        latents = scan.of(self.name)["latents"]

        def mask_latents(z: Tensor, group: Tensor | None, hint: Tensor | None) -> Tensor:
            return self.sdfsmis.mask_latents(z, known, group=group, hint=hint, compat=self.compat)

        group = None if search.group is None else search.group.to(latents.device)
        hint = self._hint(search, latents)
        if self.compat == "official":
            z_mask = in_slabs(mask_latents, self.slab, latents, group, hint)
            chance, mask = self.sdfsmis.official_masks(z_mask)
            return replace(search, log_odds=log_odds(torch.from_numpy(chance)), mask=mask)

        def found(z: Tensor, group: Tensor | None, hint: Tensor | None) -> Tensor:
            return self._decoded(mask_latents(z, group, hint)).float().cpu()

        return replace(search, log_odds=search.log_odds + in_slabs(found, self.slab, latents, group, hint))

    def _hint(self, search: Search, latents: Tensor) -> Tensor | None:
        """What the network is told beside the paper's inputs; zeros where no part has anything to tell."""
        channels = self.sdfsmis.network.prior_channels
        if not channels:
            return None
        return (
            latents.new_zeros(len(latents), channels, *latents.shape[2:])
            if search.hint is None
            else search.hint
        )

    @torch.no_grad()
    def _decoded(self, mask_latents: Tensor) -> Tensor:
        """Log-odds ``(B, H, W)`` of mask latents."""
        if self.sdfsmis.mask_head is None:
            return log_odds(probabilities(self.sdfsmis.backbone.decode(mask_latents)))
        return self.sdfsmis.mask_head(mask_latents)[:, 0]
