"""The body network in torch, for its training; `imaging/body_network.py` computes the same with numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from latentseg.imaging.body_network import HEIGHT_UNIT_MM, PICTURE, PLANES, STRIDES
from latentseg.imaging.files import written_whole

KERNELS = (5, 3, 3, 3, 3, 1)
WIDTHS = (16, 32, 64, 64, 96, 64)
HIDDEN = 128
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
        self.hidden = nn.Linear(before * side * side, HIDDEN)
        self.out = nn.Linear(HIDDEN, len(PLANES) + 2)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read pictures `(N, 1, PICTURE, PICTURE)` in [-1, 1].

        Returns:
            Scores `(N, 3)` of the planes; heights and expected absolute errors `(N,)` in mm.
        """
        flat = self.blocks(pictures + 1).permute(0, 2, 3, 1).flatten(1)
        out = self.out(self.drop(self.hidden(self.drop(flat)).relu()))
        planes, height, spread = out.split([len(PLANES), 1, 1], 1)
        return planes, HEIGHT_UNIT_MM * height[:, 0], HEIGHT_UNIT_MM * spread[:, 0].clamp(-4, 3).exp()


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
    for name, layer in (("hidden", model.hidden), ("out", model.out)):
        tensors[f"{name}.weight"] = layer.weight.detach().T
        tensors[f"{name}.bias"] = layer.bias.detach()
    return {name: tensor.cpu().half().contiguous().numpy() for name, tensor in tensors.items()}


def export(model: BodyModel, path: Path) -> None:
    """Write the weights in half precision, whole or not at all."""
    from safetensors.numpy import save_file

    with written_whole(path) as temporary:
        save_file(folded(model), temporary)
