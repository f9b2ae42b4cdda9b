"""Masks as images and back: for the autoencoder a mask is an image that is white inside and black outside."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

THRESHOLD_OF_MAXIMUM = 0.25  # official: of the maximum over all slices that were decoded together


def mask_images(masks: Tensor) -> Tensor:
    """Masks ``(N, H, W)`` in {0, 1} as images ``(N, 1, H, W)`` in {-1, 1} for the encoder."""
    return masks.float()[:, None] * 2 - 1


def decoded_0_255(decoded: Tensor) -> Tensor:
    """Clip decoded images to [-1, 1] and scale them to [0, 255]."""
    return (decoded.clamp(-1, 1) + 1) / 2 * 255


def decoded_uint8(decoded: Tensor) -> npt.NDArray[np.uint8]:
    """Decoded images ``(B, 3, H, W)`` as the release keeps them: truncated, ``(B, H, W, 3)``."""
    return decoded_0_255(decoded).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def official_masks(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Masks of the released rule, which depends on the slices that are thresholded together.

    Args:
        rgb: One chunk of a volume, ``(B, H, W, 3)``.

    Returns:
        ``(B, H, W)``: mean of the channels above a quarter of the maximum of the chunk.
    """
    values = torch.from_numpy(rgb).float() / 255
    return (values.mean(-1) > THRESHOLD_OF_MAXIMUM * values.max()).numpy()


def probabilities(grey: Tensor) -> Tensor:
    """Decoded grey images ``(B, 1, H, W)`` as probabilities ``(B, H, W)`` in [0, 1]."""
    return ((grey[:, 0] + 1) / 2).clamp(0, 1)
