"""Making a bank of healthy cells: every few slices of a pack, cut to the body, a random part of the cells."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.imaging import fit_square
from latentseg.imaging.intensity import Modality, brightened
from latentseg.methods.tumor.body_crop import BODY, THIN, body_box, denoised, large_pieces
from latentseg.methods.tumor.healthy_bank import (
    GRID,
    Cells,
    HealthyBank,
    cell_features,
    grid_places,
)
from latentseg.training.pack import Pack, PackedScan

log = logging.getLogger(__name__)
FULL = 0.5  # of a cell's pixels that are body
ABOVE_AIR = 0.15  # on the [-1, 1] scale, by which a body is brighter than the corners of a slice
SLAB = 8


class BankOptions(BaseModel):
    """What a bank is made of, as read from a YAML file.

    Attributes:
        groups: Data sets of healthy people by the name of the group, such as ``"CT abdomen"``.
        findings: Labels that are lesions; their cells, and those beside them, are left out.
        slices: Of each scan, at most, evenly spread.
        cells: Of each group, at most, drawn at random.
        dimensions: Principal axes that features are projected to.
        seed: Of the draw.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: dict[str, tuple[str, ...]]
    findings: tuple[str, ...] = ()
    slices: int = Field(24, gt=0)
    cells: int = Field(20000, gt=0)
    dimensions: int = Field(64, gt=0)
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
        log.info("%s: %d cells of %d scans", name, sum(len(c.places) for c in slabs), len(scans))
        every = Cells(*(torch.cat(parts) for parts in zip(*slabs, strict=True)))
        count = len(every.places)
        chosen = torch.from_numpy(rng.permutation(count)[: self.options.cells])
        return Cells(*(part[chosen].float() for part in every))

    def _scan(self, packed: Pack, scan: PackedScan) -> Iterator[Cells]:
        """Cells of a scan, a few slices at a time."""
        rows = scan.first + np.unique(np.linspace(0, scan.count - 1, self.options.slices).astype(int))
        findings = [label for label, name in scan.labels.items() if name in self.options.findings]
        for at in np.array_split(rows, -(-len(rows) // SLAB)):
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
