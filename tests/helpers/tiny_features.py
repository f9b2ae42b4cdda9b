"""Random weights in the layout of EfficientNet-Lite0; loaded with ``runpy`` where they are needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def tiny_state(width: int = 4) -> dict[str, Tensor]:
    """Random weights under the published names: 16 narrow blocks, the first without expansion."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, *shape: int) -> None:
        state[f"{conv}.weight"] = torch.randn(*shape, generator=generator) * (2 / np.prod(shape[1:])) ** 0.5
        for name, value in (("weight", 1.0), ("bias", 0.1), ("running_mean", 0.0), ("running_var", 1.0)):
            state[f"{norm}.{name}"] = torch.full((shape[0],), value)

    layer("_conv_stem", "_bn0", width, 3, 3, 3)
    for i in range(16):
        inner = width if i == 0 else 2 * width
        if i:
            layer(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", inner, width, 1, 1)
        layer(
            f"_blocks.{i}._depthwise_conv",
            f"_blocks.{i}._bn1",
            inner,
            1,
            5 if i % 2 else 3,
            5 if i % 2 else 3,
        )
        layer(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", width, inner, 1, 1)
    layer("_conv_head", "_bn1", 3 * width, width, 1, 1)
    return state | {"_fc.weight": torch.zeros(2, 3 * width), "_fc.bias": torch.zeros(2)}
