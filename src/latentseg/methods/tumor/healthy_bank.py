"""Healthy tissue that is looked up instead of imagined: a residual that does not depend on any map.

Not of the paper; ours. A bank holds cells of slices of healthy people: what a frozen network for photographs
makes of a cell, where in the body it lies, and its latent. A cell of a scan is compared with the nearest of
them, cells at the same place being preferred; the mean of their latents is what the cell would be if it were
healthy, and how far away they are is how unlike healthy tissue it is (retrieval after PatchCore, Roth et al.
2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.backbones.grids import on_grid
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.backbones.weights import read_weights, write_weights
from latentseg.errors import ModelError, UsageError

STAGES = (2, 3, 4)  # of the network, on 1/8, 1/16 and 1/32 of the image
GRID = 32
SLAB = 1024  # cells that are compared at a time


class Cells(NamedTuple):
    """Cells of healthy people.

    Attributes:
        directions: Unit vectors ``(N, d)``.
        places: ``(N, 2)``, row and column as shares of the body's box.
        latents: ``(N, C)``, scaled.
    """

    directions: Tensor
    places: Tensor
    latents: Tensor


class Retrieved(NamedTuple):
    """What the nearest healthy cells say of ``B`` slices.

    Attributes:
        distance: ``(B, 1, 32, 32)``, mean over the neighbors of one minus the cosine, and the pull.
        latents: ``(B, C, 32, 32)``, the mean of the neighbors'.
    """

    distance: Tensor
    latents: Tensor


@dataclass(frozen=True)
class RetrievalOptions:
    """How cells are compared.

    Attributes:
        nearest: Neighbors whose distances and latents are averaged.
        pull: Weight of the squared distance between places, in shares of the body's box, beside one minus
            the cosine; 0 compares everything with everything.
    """

    nearest: int = 5
    pull: float = 1.0

    def __post_init__(self) -> None:
        if self.nearest < 1 or self.pull < 0:
            what = f"{self.nearest} neighbors with a pull of {self.pull:g}"
            raise UsageError(what, fix="take one neighbor or more, and a pull of 0 or more")


@dataclass(frozen=True, eq=False)
class HealthyBank:
    """Healthy cells by the part of the body and the modality, such as ``"CT abdomen"``.

    Attributes:
        groups: By name.
        axes: ``(D, d)``, the principal axes that features are projected to before they are compared.
        center: ``(D,)``, the mean feature.
    """

    groups: dict[str, Cells]
    axes: Tensor
    center: Tensor

    def projected(self, features: Tensor) -> Tensor:
        """Unit vectors ``(..., d)`` of features ``(..., D)``."""
        return F.normalize((features - self.center) @ self.axes, dim=-1)

    @torch.no_grad()
    def compare(self, features: Tensor, group: str, *, options: RetrievalOptions | None = None) -> Retrieved:
        """Compare slices with healthy cells.

        Args:
            features: ``(B, D, 32, 32)`` of :func:`cell_features`, of slices cut to the body's box.
            group: Which cells.
            options: Neighbors and pull.

        Raises:
            UsageError: There are no cells of that name.
        """
        options = options or RetrievalOptions()
        if group not in self.groups:
            raise UsageError(f"no healthy cells {group!r}", fix=f"choose from {', '.join(self.groups)}")
        cells = self.groups[group]
        queries = self.projected(features.flatten(2).transpose(1, 2)).flatten(0, 1)
        places = grid_places(features.shape[-1]).repeat(len(features), 1)
        found = [
            _nearest(cells, one, place, options)
            for one, place in zip(queries.split(SLAB), places.split(SLAB), strict=True)
        ]
        distance, latents = (torch.cat(parts) for parts in zip(*found, strict=True))
        shape = (len(features), *features.shape[2:])
        return Retrieved(distance.view(shape)[:, None], latents.view(*shape, -1).movedim(-1, 1))


def _nearest(
    cells: Cells, queries: Tensor, places: Tensor, options: RetrievalOptions
) -> tuple[Tensor, Tensor]:
    """Distances ``(n,)`` and latents ``(n, C)`` of cells ``(n, d)`` at places ``(n, 2)``."""
    far = 1 - queries @ cells.directions.T + options.pull * torch.cdist(places, cells.places).square()
    best = far.topk(min(options.nearest, far.shape[1]), largest=False)
    return best.values.mean(1), cells.latents[best.indices].mean(1)


def grid_places(edge: int) -> Tensor:
    """Where the cells of a grid lie, ``(edge * edge, 2)`` in [0, 1]."""
    middles = (torch.arange(edge) + 0.5) / edge
    return torch.cartesian_prod(middles, middles)


@torch.no_grad()
def cell_features(network: FeatureNetwork, images: Tensor) -> Tensor:
    """Features ``(B, D, 32, 32)`` of slices ``(B, 1, H, W)`` in [-1, 1], each stage of unit length."""
    maps = network.maps(images)
    return torch.cat([F.normalize(on_grid(maps[stage], GRID), dim=1) for stage in STAGES], 1)


def pseudo_healthy(backbone: Backbone, retrieved: Retrieved) -> Tensor:
    """Images ``(B, 1, H, W)`` in [-1, 1] of what was retrieved."""
    return backbone.decode(retrieved.latents).clamp(-1, 1)


def save_bank(bank: HealthyBank, path: Path) -> None:
    """Write a bank in half precision, whole or not at all."""
    tensors = {"axes": bank.axes, "center": bank.center}
    for name, cells in bank.groups.items():
        tensors |= {f"{name}/{part}": tensor for part, tensor in cells._asdict().items()}
    write_weights(path, tensors)


def load_bank(path: Path) -> HealthyBank:
    """Read what :func:`save_bank` wrote.

    Raises:
        ModelError: The file is missing, damaged or no bank.
    """
    tensors = read_weights(path)
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors if "/" in key)
    try:
        groups = {n: Cells(*(tensors[f"{n}/{part}"] for part in Cells._fields)) for n in names}
        return HealthyBank(groups, tensors["axes"], tensors["center"])
    except KeyError as error:
        fix = "make one with `latentseg train healthy-bank`"
        raise ModelError(
            f"no bank of healthy cells ({error} is missing)", where=str(path), fix=fix
        ) from error
