"""Random weights of the body network, and scans stored in any of the 48 ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.affine import orientation_from
from latentseg.imaging.body_network import PICTURE, PLANES, STRIDES, BodyNetwork

CHANNELS = 4


def random_network(seed: int) -> BodyNetwork:
    """A narrow network with random weights."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {}
    before, side = 1, PICTURE
    for n, stride in enumerate(STRIDES):
        tensors[f"conv{n}.weight"] = rng.normal(0, 0.4, (3, 3, before, CHANNELS))
        tensors[f"conv{n}.bias"] = rng.normal(0, 0.1, CHANNELS)
        before, side = CHANNELS, side // stride
    for name, count in (("plane", len(PLANES)), ("height", 2)):
        tensors[f"{name}_hidden.weight"] = rng.normal(0, 0.2, (side * side * CHANNELS, 8))
        tensors[f"{name}_hidden.bias"] = rng.normal(0, 0.1, 8)
        tensors[f"{name}.weight"] = rng.normal(0, 0.3, (8, count))
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, count)
    return BodyNetwork(tensors)


def stored_as(canonical: NDArray[Any], codes: str) -> NDArray[Any]:
    """Canonical slices `(S, H, W)`, as an array with the axis codes given."""
    (right, anterior, superior), (to_right, to_anterior, to_superior) = orientation_from(codes)
    flips = [(0, not to_superior), (1, to_anterior), (2, to_right)]
    flipped = np.flip(canonical, [axis for axis, flip in flips if flip])
    return np.ascontiguousarray(np.transpose(flipped, np.argsort([superior, anterior, right])))
