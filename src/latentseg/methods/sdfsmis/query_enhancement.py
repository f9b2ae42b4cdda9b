"""Query enhancement (QE): the query's latent is concatenated with a prototype of its own foreground.

The prototypes of the support select the pixels of the query that resemble the target. The mean latent of
these pixels, repeated over the whole grid, is the second half of the query's input (SD-FSMIS, "Query
Enhancement", by the rules of the release). All of this works on latents of the frozen autoencoder and has no
parameters.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from latentseg.methods.sdfsmis.cache import pick_group
from latentseg.methods.sdfsmis.compat import Compat

Rule = Literal["probability", "cosine"]
"""Which pixels are the query's foreground: by probability as released, or by cosine as the paper says."""

FOREGROUND_GATE = 0.7  # probability (or cosine) above which a pixel is foreground, by the official rule
TOP_K_OF_WIDTH = 0.1875  # official: when no pixel does, the best 6 of a 32 x 32 grid
TEMPERATURE = 0.05  # fixed: of the softmax over pixels, in units of the foreground probability


class Prototypes(NamedTuple):
    """Mean latents of foreground and background, each ``(N, C)``."""

    fg: Tensor
    bg: Tensor

    def over_shots(self, shots: int) -> Prototypes:
        """Mean over the ``n`` shots of each group, ``(G * n, C)`` to ``(G, C)``."""
        return Prototypes(*(p.unflatten(0, (-1, shots)).mean(1) for p in self))


def prototypes(latents: Tensor, masks: Tensor, *, compat: Compat = "fixed") -> Prototypes:
    """Masked means of support latents, per shot.

    ``fg = sum(z m) / (sum m + 1e-6)``, ``bg`` likewise with ``1 - m``, where ``m`` is the mask on the latent
    grid.

    Args:
        latents: Support image latents ``(N, C, h, w)``.
        masks: Support masks ``(N, H, W)`` in {0, 1}.
        compat: ``official`` samples the mask bilinearly with aligned corners, ``fixed`` pools it by area.
    """
    m = mask_on_grid(masks, (latents.shape[-2], latents.shape[-1]), compat=compat).to(latents.dtype)
    return Prototypes(masked_mean(latents, m), masked_mean(latents, 1 - m))


def mask_on_grid(masks: Tensor, size: tuple[int, int], *, compat: Compat) -> Tensor:
    """Soft masks ``(N, 1, h, w)`` on the latent grid."""
    m = masks.float()[:, None]
    if compat == "official":
        return functional.interpolate(m, size=size, mode="bilinear", align_corners=True)
    return functional.adaptive_avg_pool2d(m, size)


def masked_mean(z: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the pixels of ``z (B, C, h, w)`` with ``weight (B, 1, h, w)``: ``(B, C)``."""
    return (z * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-6)


def enhance(
    query_latents: Tensor,
    fg: Tensor,
    bg: Tensor,
    *,
    compat: Compat = "fixed",
    rule: Rule = "probability",
    group: Tensor | None = None,
) -> Tensor:
    """Append its prototype to each query latent.

    Args:
        query_latents: ``z_q``, ``(B, C, h, w)``.
        fg: Foreground prototypes ``(G, C)``, mean over shots.
        bg: Background prototypes ``(G, C)``.
        compat: ``official`` takes the mean over pixels above a gate, ``fixed`` a soft mean.
        rule: ``cosine`` takes, whatever ``compat`` says, the pixels whose cosine similarity with the
            foreground prototype is above 0.7, and the best ones where there are none.
        group: ``(B,)`` long, the support of each query. Not needed for ``G == 1``, nor for ``B == G``.

    Returns:
        ``(B, 2C, h, w)``, the input of the query pass.
    """
    if rule == "cosine":
        weight = gate(foreground_cosine(query_latents, fg, group=group))
    else:
        p_fg = foreground_probability(query_latents, fg, bg, group=group)
        weight = gate(p_fg) if compat == "official" else soft_weight(p_fg)
    p_q = (query_latents * weight).sum((2, 3)) / weight.sum((2, 3))
    return torch.cat([query_latents, p_q[:, :, None, None].expand_as(query_latents)], 1)


def foreground_probability(
    query_latents: Tensor, fg: Tensor, bg: Tensor, *, group: Tensor | None = None
) -> Tensor:
    """``softmax([cos(z_q, bg), cos(z_q, fg)])`` of the foreground, ``(B, 1, h, w)``; at most 0.881."""
    fg, bg = (pick_group(p, batch=len(query_latents), group=group)[:, :, None, None] for p in (fg, bg))
    s_fg, s_bg = (functional.cosine_similarity(query_latents, p, dim=1) for p in (fg, bg))
    return torch.sigmoid(s_fg - s_bg)[:, None]


def foreground_cosine(query_latents: Tensor, fg: Tensor, *, group: Tensor | None = None) -> Tensor:
    """``cos(z_q, fg)``, ``(B, 1, h, w)``: the rule of the paper knows no background."""
    prototype = pick_group(fg, batch=len(query_latents), group=group)[:, :, None, None]
    return functional.cosine_similarity(query_latents, prototype, dim=1)[:, None]


def gate(p_fg: Tensor) -> Tensor:
    """The released rule, ``(B, 1, h, w)`` in {0, 1}: above the gate, or the top ``k`` if no pixel is."""
    above = (p_fg > FOREGROUND_GATE).to(p_fg.dtype)
    best = p_fg.flatten(1).topk(int(p_fg.shape[-1] * TOP_K_OF_WIDTH), dim=1).indices
    top_k = torch.zeros_like(p_fg).flatten(1).scatter(1, best, 1.0).view_as(p_fg)
    return torch.where(above.any(3).any(2)[..., None, None], above, top_k)


def soft_weight(p_fg: Tensor) -> Tensor:
    """A softmax over the pixels of each slice: no gate to miss, differentiable, ``(B, 1, h, w)``."""
    return (p_fg.flatten(1) / TEMPERATURE).softmax(1).view_as(p_fg)
