"""Decoded images to masks, and which components stay."""

from __future__ import annotations

import numpy as np
import torch

from latentseg.imaging.components import large_in_volume, largest_per_slice
from latentseg.methods.sdfsmis.mask_decoding import (
    decoded_uint8,
    mask_images,
    official_masks,
    probabilities,
)


def test_masks_go_to_the_encoder_as_black_and_white() -> None:
    assert mask_images(torch.tensor([[[0, 1]]])).tolist() == [[[[-1.0, 1.0]]]]


def test_bytes_are_clipped_and_truncated_not_rounded() -> None:
    decoded = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 7.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert decoded_uint8(decoded)[0, 0, :, 0].tolist() == [0, 0, 127, 254, 255, 255]


def test_official_threshold_depends_on_the_chunk() -> None:
    dim = np.full((1, 4, 4, 3), 60, np.uint8)
    bright = np.full((1, 4, 4, 3), 255, np.uint8)
    assert official_masks(dim).all()
    assert not official_masks(np.concatenate([dim, bright]))[0].any()


def test_official_maximum_is_over_channels_and_not_of_the_mean() -> None:
    rgb = np.zeros((1, 1, 2, 3), np.uint8)
    rgb[0, 0, 0] = (255, 0, 0)
    rgb[0, 0, 1] = (60, 60, 60)
    assert official_masks(rgb)[0, 0].tolist() == [True, False]


def test_probabilities_are_bounded() -> None:
    p = probabilities(torch.linspace(-3, 3, 16).view(1, 1, 4, 4))
    assert p.shape == (1, 4, 4)
    assert (p.min(), p.max()) == (0, 1)


def test_largest_component_touches_by_corners_and_is_per_slice() -> None:
    mask = np.zeros((3, 6, 6), bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 2] = True
    mask[0, 5, 4:] = True
    mask[1, 4, 4] = True
    kept = largest_per_slice(mask)
    assert kept[0].sum() == 3
    assert kept[1].sum() == 1
    assert not kept[2].any()
    assert largest_per_slice(mask[:0]).shape == (0, 6, 6)


def test_volume_filter_keeps_second_parts_and_drops_crumbs() -> None:
    mask = np.zeros((4, 12, 12), bool)
    mask[:, :4, :4] = True
    mask[1:3, 8:11, 8:11] = True
    mask[0, 11, 0] = True
    kept = large_in_volume(mask, fraction=0.2)
    assert kept[:, :4, :4].all()
    assert kept[1:3, 8:11, 8:11].all()
    assert not kept[0, 11, 0]
    assert not large_in_volume(np.zeros((2, 3, 3), bool)).any()
