"""The small network that knows where in the body a slice lies and whether it is the right way round.

It was trained with torch (`latentseg train body`) and is computed with numpy, its batch normalization folded
into the convolutions, so that reading a scan needs no torch. It sees pictures of `PICTURE` x `PICTURE` cells
of `CELL_MM` millimeters, cut from a scan along any of its three axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import ModelError

Array = NDArray[np.float32]

CELL_MM = 6.5
"""Edge of a cell of the pictures."""

PICTURE = 64
"""Cells along each side of a picture: 416 mm."""

PLANES = ("PL", "IL", "IP")
"""Where rows and columns of an axial, a coronal and a sagittal picture run to that is the right way round."""

HEIGHT_UNIT_MM = 100.0
STRIDES = (2, 2, 2, 1, 2, 1)
"""Of the convolutions, in order."""

DENSE = ("plane_hidden", "plane", "height_hidden", "height")
"""Two pairs of dense layers on the same features: one for the planes, one for height and expected error."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What the network says of N pictures.

    Attributes:
        planes: `(N, 3)` scores that a picture is axial, coronal or sagittal and the right way round
            (`PLANES`); softmax over the three planes and the eight turns of a picture gives probabilities.
        height_mm: `(N,)` height above the middle of the kidneys, should it be axial and the right way round.
        spread_mm: `(N,)` expected absolute error of it.
    """

    planes: Array
    height_mm: Array
    spread_mm: Array


class BodyNetwork:
    """Weights of the network, and its forward pass.

    Args:
        tensors: ``conv<n>.weight`` `(height, width, in, out)`, ``conv<n>.bias``, and for each of ``DENSE``
            ``<name>.weight`` `(in, out)` and ``<name>.bias``, of any floating type.

    Raises:
        ModelError: a tensor is missing.
    """

    def __init__(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        try:
            self.convolutions = [self._pair(tensors, f"conv{n}") for n in range(len(STRIDES))]
            self.dense = {name: self._pair(tensors, name) for name in DENSE}
        except KeyError as error:
            raise ModelError(f"the body network has no tensor {error}") from error

    def __call__(self, pictures: Array, *, batch: int = 64) -> Reading:
        """Read pictures `(N, PICTURE, PICTURE)` in [-1, 1], -1 being air."""
        parts = [self._forward(pictures[n : n + batch]) for n in range(0, len(pictures), batch)]
        out = np.concatenate(parts) if parts else np.zeros((0, len(PLANES) + 2), np.float32)
        planes, height, spread = np.split(out, [len(PLANES), len(PLANES) + 1], axis=1)
        spread_mm = (HEIGHT_UNIT_MM * np.exp(np.clip(spread[:, 0], -4, 3))).astype(np.float32)
        return Reading(planes, HEIGHT_UNIT_MM * height[:, 0], spread_mm)

    def _forward(self, pictures: Array) -> Array:
        values = pictures[..., None].astype(np.float32) + 1
        for (weight, bias), stride in zip(self.convolutions, STRIDES, strict=True):
            values = np.maximum(_convolved(values, weight, stride) + bias, 0)
        flat = values.reshape(len(values), -1)
        said = [self._perceived(flat, hidden, out) for hidden, out in (DENSE[:2], DENSE[2:])]
        return np.concatenate(said, axis=1)

    def _perceived(self, flat: Array, hidden: str, out: str) -> Array:
        (first, bias), (second, offset) = self.dense[hidden], self.dense[out]
        return np.asarray(np.maximum(flat @ first + bias, 0) @ second + offset, np.float32)

    @staticmethod
    def _pair(tensors: Mapping[str, NDArray[np.generic]], name: str) -> tuple[Array, Array]:
        weight, bias = (np.asarray(tensors[f"{name}.{part}"], np.float32) for part in ("weight", "bias"))
        return weight, bias


def _convolved(values: Array, weight: Array, stride: int) -> Array:
    """Convolve `(N, H, W, C)` with a kernel `(k, k, C, D)`; zeros outside, as torch with padding k // 2."""
    size = weight.shape[0]
    if size == 1:
        return np.asarray(values @ weight[0, 0], np.float32)
    edge = size // 2
    padded = np.pad(values, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    windows = windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)
    n, height, width = windows.shape[:3]
    columns = windows.reshape(n * height * width, -1)
    return (columns @ weight.reshape(-1, weight.shape[-1])).reshape(n, height, width, -1)


def load_network(path: Path) -> BodyNetwork:
    """Read exported weights.

    Raises:
        ModelError: no such file, or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return BodyNetwork(load_file(path))
    except (OSError, SafetensorError, ValueError) as error:
        what = f"the weights of the body network cannot be read ({error})"
        raise ModelError(what, where=str(path), fix="Reinstall latentseg") from error


@lru_cache(maxsize=1)
def embedded_network() -> BodyNetwork:
    """The network that ships with the package."""
    return load_network(Path(str(resources.files("latentseg") / "weights" / "body" / "body.safetensors")))
