"""Holes that no map decides: patches that take turns, so that every pixel is filled once.

Not of the paper; ours. A hole that is a map dilated says where the map already is; these say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask, smooth_fill

TURNS = 4  # of the patches; those of one turn do not touch


def complementary_holes(region: NDArray[np.bool_], *, edge: int) -> NDArray[np.bool_]:
    """Holes ``(4, H, W)`` that cover a region ``(H, W)``: every fourth square of ``edge`` pixels a turn.

    Around each square its neighbors stay as they are; together the turns fill every pixel of the region once.
    """
    rows, columns = np.indices(region.shape) // edge
    turn = 2 * (rows % 2) + columns % 2
    return np.stack([region & (turn == number) for number in range(TURNS)])


@torch.no_grad()
def filled_smoothly(images: Tensor, holes: Tensor) -> Tensor:
    """Images ``(B, 1, H, W)`` with every part of ``(T, 1, H, W)`` filled in its turn."""
    out = images.clone()
    for hole in holes:
        out = torch.where(hole > 0, smooth_fill(images, hole.expand_as(images)), out)
    return out


@torch.no_grad()
def filled_by(
    backbone: Backbone,
    image: Tensor,
    holes: Tensor,
    condition: Tensor,
    *,
    keys: Sequence[str],
    options: InpaintingOptions,
) -> Tensor:
    """Versions of an image whose parts were inpainted in turn.

    Args:
        backbone: With a denoiser.
        image: ``(1, 1, H, W)`` in [-1, 1].
        holes: ``(T, 1, H, W)``, 1 inside.
        condition: Tokens ``(1, t, D)``.
        keys: One for each version; its noise depends on it.
        options: Of the inpainting.

    Returns:
        ``(len(keys), 1, H, W)``, decoded; outside of all holes the image through the autoencoder.
    """
    open_turns = holes[holes.flatten(1).any(1)]
    latents = backbone.encode(smooth_fill(image.expand_as(open_turns), open_turns))
    cells = pool_mask(open_turns, backbone.downscale)
    out = backbone.decode(backbone.encode(image)).expand(len(keys), -1, -1, -1).clone()
    for version, key in enumerate(keys):
        names = [f"{key}/{turn}" for turn in range(len(open_turns))]
        filled = inpaint(backbone, latents, cells, condition, keys=names, options=options)
        for hole, decoded in zip(open_turns, backbone.decode(filled).clamp(-1, 1), strict=True):
            out[version] = torch.where(hole > 0, decoded, out[version])
    return out
