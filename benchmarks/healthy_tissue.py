"""Healthy tissue without any map: patches that take turns, and cells of healthy people that are looked up.

Not of the paper; ours. A hole that is a map dilated says where the map already is. Patches that take turns
say nothing: every pixel is filled once, smoothly or by the denoiser, from what is around it. A bank holds
cells of slices of healthy people: what a frozen network for photographs makes of a cell, where in the body
it lies, and its latent. A cell of a scan is compared with the nearest of them, cells at the same place
being preferred; the mean of their latents is what the cell would be if it were healthy, and how far away
they are is how unlike healthy tissue it is (retrieval after PatchCore, Roth et al. 2022).

Usage, to make a bank: ``python benchmarks/healthy_tissue.py --pack PACK --output FILE [--backbone
FOLDER]``, of a pack of ``configs/pack-real.yaml``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from latentseg.backbones import registry
from latentseg.backbones.base import Backbone
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.grids import on_grid
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.backbones.weights import read_weights, write_weights
from latentseg.imaging import fit_square
from latentseg.imaging.intensity import Modality, brightened
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask, smooth_fill
from latentseg.methods.tumor.body_crop import BODY, THIN, body_box, denoised, large_pieces
from latentseg.training.pack import Pack, PackedScan

TURNS = 4  # of the patches; those of one turn do not touch
STAGES = (2, 3, 4)  # of the network, on 1/8, 1/16 and 1/32 of the image
GRID = 32
SLAB = 1024  # cells that are compared at a time
FULL = 0.5  # of a cell's pixels that are body
ABOVE_AIR = 0.15  # on the [-1, 1] scale, by which a body is brighter than the corners of a slice
SCANNED = 8  # slices that are encoded at a time
HEALTHY = {
    "CT abdomen": ("sabs", "pancreas-ct"),
    "CT chest": ("chest-normal",),
    "MR brain": ("brain-healthy", "brain-tumor"),
}
"""Data sets by group; the tumor slices are healthy but for what is outlined."""


def complementary_holes(region: NDArray[np.bool_], *, edge: int) -> NDArray[np.bool_]:
    """Holes ``(4, H, W)`` that cover a region ``(H, W)``: every fourth square of ``edge`` pixels a turn.

    Around each square its neighbors stay as they are; together the turns fill every pixel of the region once.
    """
    rows, columns = np.indices(region.shape) // edge
    turn = 2 * (rows % 2) + columns % 2
    return np.stack([region & (turn == number) for number in range(TURNS)])


@torch.no_grad()
def filled_smoothly(images: Tensor, holes: Tensor) -> Tensor:
    """Images ``(B, 1, H, W)`` with every part of ``(T, 1, H, W)`` filled in its turn."""
    out = images.clone()
    for hole in holes:
        out = torch.where(hole > 0, smooth_fill(images, hole.expand_as(images)), out)
    return out


@torch.no_grad()
def filled_by(
    backbone: Backbone,
    image: Tensor,
    holes: Tensor,
    condition: Tensor,
    *,
    keys: Sequence[str],
    options: InpaintingOptions,
) -> Tensor:
    """Versions of an image whose parts were inpainted in turn.

    Args:
        backbone: With a denoiser.
        image: ``(1, 1, H, W)`` in [-1, 1].
        holes: ``(T, 1, H, W)``, 1 inside.
        condition: Tokens ``(1, t, D)``.
        keys: One for each version; its noise depends on it.
        options: Of the inpainting.

    Returns:
        ``(len(keys), 1, H, W)``, decoded; outside of all holes the image through the autoencoder.
    """
    open_turns = holes[holes.flatten(1).any(1)]
    latents = backbone.encode(smooth_fill(image.expand_as(open_turns), open_turns))
    cells = pool_mask(open_turns, backbone.downscale)
    out = backbone.decode(backbone.encode(image)).expand(len(keys), -1, -1, -1).clone()
    for version, key in enumerate(keys):
        names = [f"{key}/{turn}" for turn in range(len(open_turns))]
        filled = inpaint(backbone, latents, cells, condition, keys=names, options=options)
        for hole, decoded in zip(open_turns, backbone.decode(filled).clamp(-1, 1), strict=True):
            out[version] = torch.where(hole > 0, decoded, out[version])
    return out


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
        """
        options = options or RetrievalOptions()
        cells = self.groups[group]
        queries = self.projected(features.flatten(2).transpose(1, 2)).flatten(0, 1)
        places = grid_places(features.shape[-1]).repeat(len(features), 1)
        found = [
            nearest(cells, one, place, options)
            for one, place in zip(queries.split(SLAB), places.split(SLAB), strict=True)
        ]
        distance, latents = (torch.cat(parts) for parts in zip(*found, strict=True))
        shape = (len(features), *features.shape[2:])
        return Retrieved(distance.view(shape)[:, None], latents.view(*shape, -1).movedim(-1, 1))


def nearest(
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
    """Read what :func:`save_bank` wrote."""
    tensors = read_weights(path)
    names = dict.fromkeys(key.rpartition("/")[0] for key in tensors if "/" in key)
    groups = {n: Cells(*(tensors[f"{n}/{part}"] for part in Cells._fields)) for n in names}
    return HealthyBank(groups, tensors["axes"], tensors["center"])


@dataclass(frozen=True)
class BankOptions:
    """What a bank is made of.

    Attributes:
        groups: Data sets of healthy people by the name of the group, such as ``"CT abdomen"``.
        findings: Labels that are lesions; their cells, and those beside them, are left out.
        slices: Of each scan, at most, evenly spread.
        cells: Of each group, at most, drawn at random.
        dimensions: Principal axes that features are projected to.
        seed: Of the draw.
    """

    groups: dict[str, tuple[str, ...]] = field(default_factory=lambda: HEALTHY)
    findings: tuple[str, ...] = ()
    slices: int = 24
    cells: int = 20000
    dimensions: int = 64
    seed: int = 0


@dataclass(frozen=True, eq=False)
class BankMaker:
    """Makes banks.

    Attributes:
        backbone: Whose latents are kept.
        network: Whose features are compared.
        options: See :class:`BankOptions`.
    """

    backbone: Backbone
    network: FeatureNetwork
    options: BankOptions

    def __call__(self, packed: Pack) -> HealthyBank:
        """Make a bank of the scans of a pack.

        Raises:
            ValueError: No scan belongs to a group.
        """
        rng = np.random.default_rng(self.options.seed)
        raw = {name: self._group(packed, name, rng) for name in self.options.groups}
        features = torch.cat([cells.directions for cells in raw.values()])
        center = features.mean(0)
        axes = principal_axes(features - center, self.options.dimensions)
        bank = HealthyBank({}, axes, center)
        groups = {n: c._replace(directions=bank.projected(c.directions)) for n, c in raw.items()}
        return HealthyBank(groups, axes, center)

    def _group(self, packed: Pack, name: str, rng: np.random.Generator) -> Cells:
        """Cells of a group, their features as they are."""
        scans = [scan for scan in packed.scans if scan.source in self.options.groups[name]]
        if not scans:
            raise ValueError(f"no scan of the pack belongs to {name!r}")
        slabs = [cells for scan in scans for cells in self._scan(packed, scan)]
        sys.stdout.write(f"{name}: {sum(len(c.places) for c in slabs)} cells of {len(scans)} scans\n")
        every = Cells(*(torch.cat(parts) for parts in zip(*slabs, strict=True)))
        count = len(every.places)
        chosen = torch.from_numpy(rng.permutation(count)[: self.options.cells])
        return Cells(*(part[chosen].float() for part in every))

    def _scan(self, packed: Pack, scan: PackedScan) -> Iterator[Cells]:
        """Cells of a scan, a few slices at a time."""
        rows = scan.first + np.unique(np.linspace(0, scan.count - 1, self.options.slices).astype(int))
        findings = [label for label, name in scan.labels.items() if name in self.options.findings]
        for at in np.array_split(rows, -(-len(rows) // SCANNED)):
            images, ill = prepared(packed.images[at], np.isin(packed.labels[at], findings), scan.modality)
            kept = healthy_cells(images, ill)
            features = cell_features(self.network, images).movedim(1, -1)[kept]
            latents = self.backbone.encode(images).movedim(1, -1)[kept]
            places = grid_places(GRID).view(1, GRID, GRID, 2).expand(len(at), -1, -1, -1)[kept]
            yield Cells(features.half(), places.half(), latents.half())


def prepared(
    images: NDArray[np.uint8], masks: NDArray[np.bool_], modality: Modality
) -> tuple[Tensor, Tensor]:
    """Packed slices ``(n, H, W)`` as the tumor networks see them, ``(n, 1, H, W)``, and masks beside them."""
    values = images.astype(np.float32) / 127.5 - 1
    bright = brightened(values) if modality == "CT" else values
    rows, columns = body_box(bright)
    size = values.shape[-1]
    field, _ = fit_square(bright[:, rows, columns], size)
    marks, _ = fit_square(masks[:, rows, columns].astype(np.uint8), size, kind="mask")
    quiet = brightened(denoised(field)) if modality == "CT" else field
    return torch.from_numpy(quiet)[:, None], torch.from_numpy(marks > 0)[:, None]


def healthy_cells(images: Tensor, ill: Tensor) -> Tensor:
    """Cells ``(n, 32, 32)`` that are body, and neither a finding nor beside one."""
    inside = torch.from_numpy(np.stack([body_mask(image) for image in images[:, 0].numpy()]))[:, None]
    body = F.adaptive_avg_pool2d(inside.float(), GRID) >= FULL
    near = F.max_pool2d(F.adaptive_avg_pool2d(ill.float(), GRID), 3, stride=1, padding=1) > 0
    return (body & ~near)[:, 0]


def body_mask(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The body in a slice ``(H, W)`` in [-1, 1] with its lungs and bowel; wide windows show air as grey."""
    height, width = image.shape
    thin = max(1, round(THIN * min(height, width)))
    corners = image[:: height - 1, :: width - 1]
    solid = large_pieces(image > max(BODY, float(np.median(corners)) + ABOVE_AIR), thin)
    return np.asarray(ndimage.binary_fill_holes(solid))


def principal_axes(features: Tensor, count: int) -> Tensor:
    """The ``count`` axes ``(D, count)`` along which centered features ``(N, D)`` vary most."""
    covariance = features.T @ features / len(features)
    axes: Tensor = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count]
    return axes


def main() -> None:
    """Make a bank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    folder = registry.resolve(options.backbone or "compact")
    network = read_feature_network(registry.resolve("compact") / "matching.safetensors")
    make = BankMaker(CompactBackbone.from_folder(folder), network, BankOptions(HEALTHY, ("brain_tumor",)))
    save_bank(make(Pack(options.pack)), options.output)


if __name__ == "__main__":
    main()
