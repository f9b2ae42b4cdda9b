"""The body network in torch, for its training; `imaging/body_network.py` computes the same with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from latentseg.imaging.body_network import DENSE, HEIGHT_UNIT_MM, PICTURE, PLANES, STRIDES
from latentseg.imaging.files import write_file

KERNELS = (5, 3, 3, 3, 3, 1)
WIDTHS = (16, 32, 64, 64, 96, 64)
PLANE_HIDDEN, HEIGHT_HIDDEN = 128, 192
EPSILON = 1e-5


class BodyModel(nn.Module):
    """Convolutions with batch normalization, and two dense layers.

    Args:
        dropout: share of hidden values that are dropped in training.
    """

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before, side = 1, PICTURE
        for kernel, width, stride in zip(KERNELS, WIDTHS, STRIDES, strict=True):
            convolution = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=False)
            blocks += [convolution, nn.BatchNorm2d(width, EPSILON), nn.ReLU()]
            before, side = width, side // stride
        self.blocks = nn.Sequential(*blocks)
        self.drop = nn.Dropout(dropout)
        self.plane_hidden = nn.Linear(before * side * side, PLANE_HIDDEN)
        self.plane = nn.Linear(PLANE_HIDDEN, len(PLANES))
        self.height_hidden = nn.Linear(before * side * side, HEIGHT_HIDDEN)
        self.height = nn.Linear(HEIGHT_HIDDEN, 2)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read pictures `(N, 1, PICTURE, PICTURE)` in [-1, 1].

        Returns:
            Scores `(N, 3)` of the planes; heights and expected absolute errors `(N,)` in mm.
        """
        features = self.features(pictures)
        planes = self.plane(self.drop(self.plane_hidden(self.drop(features)).relu()))
        return (planes, *self.heights(features))

    def features(self, pictures: Tensor) -> Tensor:
        """What both answers are read from, `(N, F)`."""
        seen: Tensor = self.blocks(pictures + 1)
        return seen.permute(0, 2, 3, 1).flatten(1)

    def heights(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Heights and expected absolute errors `(N,)` in mm, from features."""
        out = self.height(self.drop(self.height_hidden(self.drop(features)).relu()))
        return HEIGHT_UNIT_MM * out[:, 0], HEIGHT_UNIT_MM * out[:, 1].clamp(-4, 3).exp()


def folded(model: BodyModel) -> dict[str, NDArray[np.float16]]:
    """The tensors that `imaging.body_network.BodyNetwork` takes, batch normalization folded in."""
    state = model.state_dict()
    tensors: dict[str, Tensor] = {}
    for n in range(len(STRIDES)):
        block, norm = f"blocks.{3 * n}", f"blocks.{3 * n + 1}"
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + EPSILON).sqrt()
        weight = state[f"{block}.weight"] * scale[:, None, None, None]
        tensors[f"conv{n}.weight"] = weight.permute(2, 3, 1, 0)
        tensors[f"conv{n}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    for name in DENSE:
        tensors[f"{name}.weight"] = state[f"{name}.weight"].T
        tensors[f"{name}.bias"] = state[f"{name}.bias"]
    return {name: tensor.cpu().half().contiguous().numpy() for name, tensor in tensors.items()}


def export(model: BodyModel, path: Path) -> None:
    """Write the weights in half precision, whole or not at all."""
    from safetensors.numpy import save

    write_file(path, save(folded(model)))
