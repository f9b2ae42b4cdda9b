"""SD-FSMIS once more, as plainly as it can be written, to compare ours with: no caches, batches or tricks.

Supports go one at a time through a stock UNet of diffusers and leave the keys and values of every
self-attention; queries go one at a time through the same UNet and find them appended to their own. The
condition is given to the stock cross-attention, pixel for pixel. Nothing here is shared with the package.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn

TINY = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": [2, 4, 4],
}
GATE, TOP_K, TIMESTEP = 0.7, 6, 1


class NaiveAttention:
    """An attention of diffusers, head by head; a self-attention writes or reads the banks of its layer."""

    def __init__(self, network: NaiveNetwork, layer: str) -> None:
        self.network, self.layer = network, layer

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states[0]), attn.to_k(context[0]), attn.to_v(context[0])
        if encoder_hidden_states is None and self.network.writes:
            self.network.keys.setdefault(self.layer, []).append(k)
            self.network.values.setdefault(self.layer, []).append(v)
        elif encoder_hidden_states is None:
            k = torch.cat([k, *self.network.keys[self.layer]])
            v = torch.cat([v, *self.network.values[self.layer]])
        width, heads = q.shape[1] // attn.heads, []
        for head in range(attn.heads):
            of = slice(head * width, (head + 1) * width)
            weights = torch.softmax(q[:, of] @ k[:, of].T / width**0.5, dim=1)
            heads.append(weights @ v[:, of])
        return attn.to_out[1](attn.to_out[0](torch.cat(heads, 1)))[None]


@dataclass(eq=False)
class NaiveNetwork:
    """A stock UNet of 2C input channels, and a second entrance for supports."""

    unet: UNet2DConditionModel
    conv_in_ref: nn.Conv2d
    keys: dict[str, list[Tensor]] = field(default_factory=dict)
    values: dict[str, list[Tensor]] = field(default_factory=dict)
    writes: bool = False

    @classmethod
    def random(cls, seed: int, **changes: Any) -> NaiveNetwork:
        """In float64, which leaves no doubt about what is rounding."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            unet = UNet2DConditionModel(**(TINY | changes)).double().eval()
            entrance = nn.Conv2d(8, unet.config["block_out_channels"][0], 3, padding=1).double()
        network = cls(unet, entrance)
        layers = [name.removesuffix(".processor") for name in unet.attn_processors]
        unet.set_attn_processor({f"{name}.processor": NaiveAttention(network, name) for name in layers})
        return network

    def show(self, supports: Tensor, token: Tensor) -> None:
        """Run supports ``(n, 2C, h, w)`` one by one; each attends to itself alone."""
        self.keys, self.values, self.writes = {}, {}, True
        entrance, self.unet.conv_in = self.unet.conv_in, self.conv_in_ref
        for support in supports:
            self.unet(support[None], TIMESTEP, token)
        self.unet.conv_in, self.writes = entrance, False

    def ask(self, queries: Tensor, token: Tensor) -> Tensor:
        """What the UNet says of queries ``(B, 2C, h, w)``, one by one: minus the latent of their masks."""
        return torch.cat([self.unet(query[None], TIMESTEP, token).sample for query in queries])

    def gradients(self) -> dict[str, Tensor]:
        """The gradient of every weight by its name in a released file."""
        named = dict(self.unet.named_parameters())
        named |= {f"conv_in_ref.{name}": p for name, p in self.conv_in_ref.named_parameters()}
        return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named.items()}

    def parts(self) -> tuple[UNet2DConditionModel, nn.Conv2d]:
        """Copies with the same weights, for ours."""
        stock = UNet2DConditionModel.from_config(self.unet.config).double().eval()
        stock.load_state_dict(self.unet.state_dict())
        return stock, copy.deepcopy(self.conv_in_ref)


def soft_mask(mask: Tensor, edge: int) -> Tensor:
    """A mask ``(H, W)`` sampled on a grid whose corners are the corners of the image, ``(edge, edge)``."""
    height, width = mask.shape
    out = torch.zeros(edge, edge, dtype=torch.float64)
    for row in range(edge):
        for column in range(edge):
            y, x = row * (height - 1) / (edge - 1), column * (width - 1) / (edge - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            below, right = y - top, x - left
            upper = (1 - right) * mask[top, left] + right * mask[top, left + 1]
            lower = (1 - right) * mask[top + 1, left] + right * mask[top + 1, left + 1]
            out[row, column] = (1 - below) * upper + below * lower
    return out


def mean_prototypes(latents: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Foreground and background prototype ``(C,)`` of support latents ``(n, C, h, w)``, mean over shots."""
    fg, bg = [], []
    for z, mask in zip(latents, masks, strict=True):
        m = soft_mask(mask.double(), z.shape[1])
        fg.append((z * m).sum((1, 2)) / (m.sum() + 1e-6))
        bg.append((z * (1 - m)).sum((1, 2)) / ((1 - m).sum() + 1e-6))
    return torch.stack(fg).mean(0), torch.stack(bg).mean(0)


def enhanced(z: Tensor, fg: Tensor, bg: Tensor) -> Tensor:
    """A query latent ``(C, h, w)`` with its own prototype beside it, ``(2C, h, w)``."""

    def cosine(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum() / (a.norm() * b.norm())

    pixels = z.flatten(1).T
    chance = [torch.sigmoid(cosine(pixel, fg) - cosine(pixel, bg)) for pixel in pixels]
    chosen = [n for n, p in enumerate(chance) if p > GATE]
    if not chosen:
        chosen = sorted(range(len(pixels)), key=lambda n: -float(chance[n]))[:TOP_K]
    prototype = pixels[chosen].mean(0)
    return torch.cat([z, prototype[:, None, None].expand_as(z)])


def dino_input(image: Tensor) -> Tensor:
    """RGB ``(3, 224, 224)`` of a grey image ``(256, 256)`` in [-1, 1], through an eight-bit picture."""
    grey = Image.fromarray((((image + 1) / 2) * 255).to(torch.uint8).numpy())
    middle = np.asarray(grey.crop((16, 16, 240, 240)), np.float32) / 255
    means, spreads = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return torch.stack([(torch.from_numpy(middle) - m) / s for m, s in zip(means, spreads, strict=True)])


def condition_token(features: Tensor, masks: Tensor, mlp: nn.Module) -> Tensor:
    """Token ``(1, 1, D)`` of features ``(n, dim, 16, 16)`` where masks ``(n, 256, 256)`` are."""
    means = []
    for grid, mask in zip(features, masks, strict=True):
        total, count = torch.zeros(len(grid), dtype=grid.dtype), 0
        for row in range(16):
            for column in range(16):
                middle = mask[row * 16 + 7 : row * 16 + 9, column * 16 + 7 : column * 16 + 9]
                if middle.double().mean() > 0.5:  # a bilinear sample at the center of a cell of 16 pixels
                    total, count = total + grid[:, row, column], count + 1
        means.append(total / (count + 1e-6))
    return mlp(torch.stack(means).mean(0))[None, None]
