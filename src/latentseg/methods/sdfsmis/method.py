"""SD-FSMIS on slices: the support is encoded once, then each query slice takes one evaluation of the UNet.

    z_s, z_m  = E(support image), E(support mask as an image)
    fg, bg    = masked means of z_s                                      (QE)
    c         = MLP(masked mean of frozen features of the support)       (VTCT)
    K, V      = keys and values of UNet([z_s, z_m], c)                   (SQI)
    mask      = D(-UNet([z_q, prototype of z_q by fg, bg] | K, V, c))

``E`` and ``D`` are the encoder and decoder of the frozen autoencoder. The method that users call, which adds
matching, whole volumes and refinement to these networks, is in :mod:`latentseg.methods.fewshot`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.imaging.components import largest_per_slice
from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.methods.sdfsmis.compat import Compat
from latentseg.methods.sdfsmis.condition import (
    ConditionTranslator,
    FeatureSource,
    latents_and_features,
    masked_features,
)
from latentseg.methods.sdfsmis.mask_decoding import decoded_uint8, mask_images, official_masks
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import Prototypes, Rule, enhance, prototypes


@dataclass(frozen=True, eq=False)
class EncodedSupport:
    """``G`` groups of supports, encoded for any number of queries.

    Attributes:
        cache: Keys, values and condition of each layer.
        fg: Foreground prototypes ``(G, C)``.
        bg: Background prototypes ``(G, C)``.
    """

    cache: SupportCache
    fg: Tensor
    bg: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor under a flat name, as safetensors wants it."""
        return {f"cache/{name}": t for name, t in self.cache.tensors().items()} | {
            "fg": self.fg,
            "bg": self.bg,
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> EncodedSupport:
        """The inverse of :meth:`tensors`."""
        cache = {name.removeprefix("cache/"): t for name, t in tensors.items() if name.startswith("cache/")}
        return cls(SupportCache.from_tensors(cache), tensors["fg"], tensors["bg"])


@dataclass(frozen=True, eq=False)
class SDFSMIS:
    """The networks of SD-FSMIS on one backbone.

    Attributes:
        backbone: The frozen autoencoder.
        network: The UNet with two entrances.
        translator: From features to a condition token.
        features: Frozen features from which the condition token is made.
        mask_head: A light decoder of mask latents ``(B, C, h, w)`` to logits ``(B, 1, H, W)``; without one,
            masks are decoded by the autoencoder, as published.
        rule: Of the query enhancement, the one that the network was trained with.
    """

    backbone: Backbone
    network: FewShotUNet
    translator: ConditionTranslator
    features: FeatureSource
    mask_head: Callable[[Tensor], Tensor] | None = None
    rule: Rule = "probability"

    @property
    def device(self) -> torch.device:
        """The device of the networks."""
        return self.network.conv_in.weight.device

    @torch.no_grad()
    def encode_support(
        self, images: Tensor, masks: Tensor, *, shots: int = 1, compat: Compat = "fixed"
    ) -> EncodedSupport:
        """Encode supports, once for any number of queries.

        Args:
            images: ``(G * n, 1, H, W)`` in [-1, 1], the shots of a group next to each other.
            masks: ``(G * n, H, W)`` in {0, 1}.
            shots: ``n``.
            compat: Rules of the release, or the repaired ones.
        """
        images, masks = images.to(self.device), masks.float().to(self.device)
        z_img, features = latents_and_features(self.backbone, self.features, images, compat=compat)
        z_mask = self.backbone.encode(mask_images(masks))
        tokens = self.translator(masked_features(features, masks, shots=shots, compat=compat))
        cache = self.network.encode_support(torch.cat([z_img, z_mask], 1), tokens, shots=shots)
        return EncodedSupport(cache, *prototypes(z_img, masks, compat=compat).over_shots(shots))

    @torch.no_grad()
    def mask_latents(
        self,
        latents: Tensor,
        support: EncodedSupport,
        *,
        group: Tensor | None = None,
        hint: Tensor | None = None,
        compat: Compat = "fixed",
    ) -> Tensor:
        """``z_m`` ``(B, C, h, w)`` of query latents ``(B, C, h, w)``, one evaluation of the network.

        Args:
            latents: ``z_q``.
            support: Of ``G`` groups.
            group: ``(B,)`` long, the group of each query; not needed for ``G == 1``.
            hint: ``(B, D, h, w)``, for a network with more input channels than the paper's.
            compat: As in :meth:`encode_support`.
        """
        known = Prototypes(support.fg, support.bg)
        x = enhance(latents, *known, compat=compat, rule=self.rule, group=group)
        inputs = x if hint is None else torch.cat([x, hint.to(x.device)], 1)
        return self.network.segment(inputs, support.cache, group=group)

    @torch.no_grad()
    def official_masks(self, mask_latents: Tensor) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probability and mask ``(S, H, W)`` by the released rules.

        The threshold depends on all slices that are given together, and of each slice the largest component
        is kept.
        """
        rgb = np.concatenate([decoded_uint8(self.backbone.decode_rgb(z)) for z in mask_latents.split(8)])
        return rgb.mean(-1, dtype=np.float32) / 255, largest_per_slice(official_masks(rgb))
