"""The UNet of SD-FSMIS: a denoiser that was turned into a one-step few-shot segmenter.

The UNet of a latent diffusion model gets two input convolutions of ``2C`` channels: ``conv_in_ref`` for the
support (image and mask latents) and ``conv_in`` for the query (image latent and query prototype). One
evaluation at ``t = 1`` predicts the negative latent of the query mask. There is no noise, no scheduler and no
iteration.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional

from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.methods.sdfsmis.interaction import (
    FoldedCondition,
    Interaction,
    SupportQueryInteraction,
    SupportWritten,
)

# The scheduler of the release has all betas equal to 1: it visits t = 1 alone and returns x0 = -UNet(x).
TIMESTEP = 1


class FewShotUNet(nn.Module):
    """A UNet whose self-attentions see the support; both passes are pure functions and differentiable.

    Args:
        unet: Takes ``2C`` channels and predicts ``C``. It is taken over, not copied: its ``conv_in`` moves
            here.
        conv_in_ref: The entrance of the supports; a copy of the query's entrance when left out.
    """

    def __init__(self, unet: UNet2DConditionModel, *, conv_in_ref: nn.Conv2d | None = None) -> None:
        super().__init__()
        self.conv_in: nn.Conv2d = unet.conv_in
        self.conv_in_ref = conv_in_ref if conv_in_ref is not None else copy.deepcopy(self.conv_in)
        unet.conv_in = nn.Identity()  # the entrance is chosen here, so that the UNet need not know the role
        self.unet = unet
        install_processors(unet)

    @classmethod
    def from_denoiser(cls, unet: UNet2DConditionModel, *, prior: int = 0) -> FewShotUNet:
        """Start from a denoiser of ``C`` channels, which stays as it is.

        Both entrances become ``cat([W, W], 1) / 2`` with the bias unchanged, so that the first features are
        those of the mean of the two inputs (for a query: of its latent and its prototype). The query's has
        ``prior`` further channels, which start without effect.
        """
        unet = copy.deepcopy(unet)
        entrance = widen(unet.conv_in)
        unet.conv_in = with_channels(entrance, prior)
        unet.encoder_hid_proj = None  # the condition is made for the width of cross-attention itself
        unet.register_to_config(
            in_channels=unet.conv_in.in_channels, encoder_hid_dim=None, encoder_hid_dim_type=None
        )
        return cls(unet, conv_in_ref=entrance)

    @property
    def prior_channels(self) -> int:
        """Channels that a query has beyond its latent and its prototype, see :mod:`prior`."""
        return self.conv_in.in_channels - self.conv_in_ref.in_channels

    @property
    def condition_dim(self) -> int:
        """``D``, the width of a condition token."""
        return int(self.unet.config["cross_attention_dim"])

    def encode_support(self, latents: Tensor, condition: Tensor, *, shots: int = 1) -> SupportCache:
        """Run the supports once; each attends only to itself.

        Args:
            latents: Image and mask latents ``(G * n, 2C, h, w)``, the shots of a group next to each other.
            condition: Condition tokens ``(G, T, D)``.
            shots: ``n``.

        Returns:
            Keys and values of every layer. The pass ends when the last of them is written.

        Raises:
            ValueError: When the batch is not ``G * n``.
        """
        if latents.shape[0] != condition.shape[0] * shots:
            raise ValueError(f"{len(latents)} supports are not {len(condition)} groups of {shots} shots")
        cache = self._encode_condition(SupportCache(), condition)
        with contextlib.suppress(SupportWritten):
            self._run(self.conv_in_ref, latents, Interaction(cache, "write", shots=shots))
        return cache

    def segment(
        self,
        latents: Tensor,
        cache: SupportCache,
        condition: Tensor | None = None,
        group: Tensor | None = None,
        *,
        matches: list[tuple[Tensor, Tensor]] | None = None,
    ) -> Tensor:
        """Predict the latents of the query masks.

        Args:
            latents: Query latent and prototype, ``(B, 2C, h, w)``, and the prior where the network has one.
            cache: From :meth:`encode_support`, of ``G`` supports.
            condition: Condition tokens ``(G, T, D)``. Left out: those the support was encoded with, whose
                share in every layer is in the cache already.
            group: ``(B,)`` long, the support that each query uses. Not needed for ``G == 1``, nor for ``B ==
                G``.
            matches: Collects what each layer compares, see :class:`Interaction`.

        Returns:
            Mask latents ``(B, C, h, w)``, float32.
        """
        if condition is not None:
            cache = self._encode_condition(SupportCache(keys=cache.keys, values=cache.values), condition)
        return -self._run(self.conv_in, latents, Interaction(cache, "read", group=group, matches=matches))

    def _encode_condition(self, cache: SupportCache, condition: Tensor) -> SupportCache:
        for processor in self.unet.attn_processors.values():
            if isinstance(processor, FoldedCondition):
                attn = self.unet.get_submodule(processor.layer)
                processor.write(attn, cache, condition.to(self.conv_in.weight.dtype))
        return cache

    def _run(self, entrance: nn.Conv2d, latents: Tensor, interaction: Interaction) -> Tensor:
        x = entrance(latents.to(entrance.weight.dtype))
        kwargs = {"interaction": interaction}  # the condition is in the cache
        out: Tensor = self.unet(x, TIMESTEP, None, cross_attention_kwargs=kwargs, return_dict=False)[0]
        return out.float()


def widen(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution of twice the input channels that averages what ``conv`` makes of the two halves."""
    wide = nn.Conv2d(2 * conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    weight = torch.cat([conv.weight, conv.weight], 1) / 2
    wide.load_state_dict(
        {"weight": weight.detach(), "bias": conv.bias.detach()} if conv.bias is not None else {}
    )
    return wide.to(conv.weight)


def with_channels(conv: nn.Conv2d, more: int) -> nn.Conv2d:
    """A copy of a convolution with further input channels that it ignores."""
    wide = nn.Conv2d(conv.in_channels + more, conv.out_channels, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    weight = functional.pad(conv.weight.detach(), (0, 0, 0, 0, 0, more))
    wide.load_state_dict({"weight": weight} | ({"bias": conv.bias.detach()} if conv.bias is not None else {}))
    return wide.to(conv.weight)


def install_processors(unet: UNet2DConditionModel) -> None:
    """Give every attention of a UNet its processor, named after its layer; they hold no tensors."""
    layers = [name.removesuffix(".processor") for name in unet.attn_processors]
    last = last_self_attention(layers)
    unet.set_attn_processor(
        {
            f"{layer}.processor": SupportQueryInteraction(layer, last=layer == last)
            if layer.endswith("attn1")
            else FoldedCondition(layer)
            for layer in layers
        }
    )


def last_self_attention(layers: Iterable[str]) -> str:
    """The self-attention that a UNet runs last; diffusers lists the middle block after the up blocks."""
    order = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    names = [layer for layer in layers if layer.endswith("attn1")]
    stage = max(order[name.split(".")[0]] for name in names)
    return [name for name in names if order[name.split(".")[0]] == stage][-1]
