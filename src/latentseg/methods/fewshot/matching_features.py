"""What the matching prior compares: features of photographs, adapted to scans.

The network is frozen; the adapter is trained on episodes whose contrasts are drawn independently
(:mod:`matching_training`), so that a structure resembles itself in CT and in MR more than it resembles its
neighbors in either. It starts as the identity.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentseg.backbones.grids import on_grid
from latentseg.backbones.image_features import FeatureNetwork, headless, read_feature_network
from latentseg.backbones.weights import reason, write_weights
from latentseg.errors import ModelError

STAGES = (2, 3, 4)  # of the network, on 1/8, 1/16 and 1/32 of the image
PREFIX = "adapter."


class MatchingAdapter(nn.Module):
    """Unit vectors to unit vectors, cell by cell: ``f' = exp(g) f + MLP(f)``, normalized.

    Args:
        features: Their number.
        width: Of the hidden layers.
    """

    def __init__(self, features: int, width: int = 128) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(1, features, 1, 1))
        self.layers = nn.Sequential(
            nn.Conv2d(features, width, 1), nn.GELU(), nn.Conv2d(width, width, 1), nn.GELU()
        )
        self.out = nn.Conv2d(width, features, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """``(N, D, h, w)`` to the same."""
        unit_variance = features * features.shape[1] ** 0.5
        return F.normalize(features * self.log_gain.exp() + self.out(self.layers(unit_variance)), dim=1)


class MatchingFeatures(nn.Module):
    """Unit vectors of every cell of a slice.

    Args:
        network: Frozen.
        adapter: Of its features; None leaves them as they are.
        grid: Edge of the grid of the latents.
    """

    def __init__(
        self, network: FeatureNetwork, adapter: MatchingAdapter | None = None, *, grid: int = 32
    ) -> None:
        super().__init__()
        self.network, self.adapter, self.grid = network, adapter, grid

    @property
    def device(self) -> torch.device:
        """Where the features are computed; images follow."""
        return self.network.device

    def forward(self, images: Tensor) -> Tensor:
        """Features ``(N, D, h, w)`` of images ``(N, 1, H, W)`` in [-1, 1]."""
        return self.adapted(self.plain(images))

    def plain(self, images: Tensor) -> Tensor:
        """The same, without the adapter."""
        maps = self.network.maps(images)
        joined = torch.cat([F.normalize(on_grid(maps[i], self.grid), dim=1) for i in STAGES], 1)
        return F.normalize(joined, dim=1)

    def adapted(self, features: Tensor) -> Tensor:
        """What the adapter makes of plain features."""
        return self.adapter(features) if self.adapter else features


def width_of(network: FeatureNetwork) -> int:
    """Number of features of a cell."""
    return sum(network.channels[stage] for stage in STAGES)


def save(features: MatchingFeatures, path: Path) -> None:
    """Write the network without its head, and the adapter, in half precision."""
    adapter = features.adapter.state_dict() if features.adapter else {}
    write_weights(path, headless(features.network) | {PREFIX + name: t for name, t in adapter.items()})


def load(path: Path, *, grid: int = 32) -> MatchingFeatures:
    """Read what :func:`save` wrote, frozen.

    Raises:
        ModelError: The file is missing, damaged or of another kind.
    """
    network = read_feature_network(path)
    state = {name.removeprefix(PREFIX): t for name, t in network.state.items() if name.startswith(PREFIX)}
    if not state:
        return MatchingFeatures(network, grid=grid)
    try:
        adapter = MatchingAdapter(width_of(network), len(state["layers.0.bias"]))
        adapter.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        fix = "train or pull the model again, or reinstall latentseg"
        raise ModelError(f"not matching features ({reason(error)})", where=str(path), fix=fix) from error
    return MatchingFeatures(network, adapter.requires_grad_(requires_grad=False), grid=grid)
