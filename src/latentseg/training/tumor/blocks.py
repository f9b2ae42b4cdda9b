"""Training blocks for 3-D backbones: cut from volumes with tumors, on the grid that the networks see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy import ndimage

from latentseg.backbones.base import Backbone, TakesVolumes
from latentseg.errors import InputError
from latentseg.imaging import Volume
from latentseg.imaging.network_input import resampled_shape, volume_block
from latentseg.imaging.resize import resampled
from latentseg.methods.last_used import LastUsed
from latentseg.text.vocabulary import concept_named, vocabulary
from latentseg.training.tumor.volumes import TumorFolder, VolumeFiles

KEPT = 4  # volumes in memory
AIR, TISSUE = -1.0, -0.85
CLOSER = 0.5  # of the edge of voxels: the closer look's
CONTRAST = (0.05, 0.3)  # of a synthetic lesion, in [-1, 1]


class BlockOptions(BaseModel):
    """What is trained on.

    Attributes:
        edges: Voxels of a block; multiples of 32 where features of the denoiser are looked at, else of 4.
        voxel_mm: Finest voxels.
        multiple: Of the edges of volumes.
        lesion: Share of blocks around an outlined lesion.
        synthetic: Share of the other blocks that are given a synthetic lesion.
        mismatched: Share of blocks with a lesion for which a tumor of another organ is asked: not there.
        finer: Share of blocks in voxels of half the edge, as the closer look sees them.
        without: Findings that are left out: data sets that hold them, and prompts for a tumor in their organ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    edges: tuple[int, int, int] = (96, 128, 128)
    voxel_mm: float = Field(default=1.5, gt=0)
    multiple: int = Field(default=32, gt=0)
    lesion: float = Field(default=0.5, ge=0, le=1)
    synthetic: float = Field(default=0.3, ge=0, le=1)
    mismatched: float = Field(default=0.05, ge=0, le=1)
    finer: float = Field(default=0.0, ge=0, le=1)
    without: tuple[str, ...] = ()


class Block(NamedTuple):
    """One training block.

    Attributes:
        image: ``(D, H, W)`` in [-1, 1].
        mask: ``(D, H, W)``, empty where the finding is not there; or the numbers of organs.
        finding: What is asked for.
        modality: "CT" or "MR".
        spacing_mm: Of the voxels.
    """

    image: NDArray[np.float32]
    mask: NDArray[Any]
    finding: str
    modality: str
    spacing_mm: tuple[float, float, float]


class Blocks:
    """Draws blocks from data sets.

    Args:
        options: See :class:`BlockOptions`.
        data: Data sets.
        window_hu: Of CT, that the backbone was trained with.

    Raises:
        InputError: Nothing is left to train on, or a folder cannot be used.
    """

    def __init__(
        self, options: BlockOptions, data: Sequence[TumorFolder], *, window_hu: tuple[float, float]
    ) -> None:
        self.options, self.window_hu = options, window_hu
        closed = {organ_of(name) for name in options.without}
        used = [VolumeFiles(one) for one in data if one.labels and organ_of(one.finding) not in closed]
        self.places = [(files, number) for files in used for number in files.training]
        if not self.places:
            left_out = ", ".join(options.without) or "nothing"
            fix = "name other data sets, or leave out fewer findings"
            raise InputError(f"no volume to train on (left out: {left_out})", where="data", fix=fix)
        names = [c.name for c in vocabulary() if c.kind == "finding" and c.organ and c.organ not in closed]
        self.others = names
        self._volumes: LastUsed[Block] = LastUsed(KEPT)

    def draw(self, rng: np.random.Generator, *, healthy: bool = False) -> Block:
        """Draw one block; a healthy one is as it was scanned, without a lesion in it."""
        place = int(rng.integers(len(self.places)))
        share = CLOSER if rng.random() < self.options.finer else 1.0
        whole = self._volume(place, self.options.voxel_mm * share)
        around = whole.mask.any() and not healthy and rng.random() < self.options.lesion
        block = cut_out(whole, rng, whole.mask if around else whole.image > TISSUE, self.options.edges)
        if healthy:
            return block._replace(mask=np.zeros_like(block.mask), image=without_lesion(block))
        if not block.mask.any() and rng.random() < self.options.synthetic:
            image, mask = with_lesion(block.image, rng)
            block = block._replace(image=image, mask=mask)
        if block.mask.any() and rng.random() < self.options.mismatched:
            others = [name for name in self.others if organ_of(name) != organ_of(block.finding)]
            block = block._replace(mask=np.zeros_like(block.mask), finding=str(rng.choice(others)))
        return block

    def _volume(self, place: int, voxel_mm: float) -> Block:
        """A volume on the grid of the networks; a few are kept."""

        def read() -> Block:
            files, number = self.places[place]
            case, options = files.case(number), self.options.model_copy(update={"voxel_mm": voxel_mm})
            return on_network_grid(case.image, case.mask, files.data.finding, options, self.window_hu)

        return self._volumes.of((place, voxel_mm), read)


def on_network_grid(
    scan: Volume, labels: NDArray[Any], finding: str, options: BlockOptions, window_hu: tuple[float, float]
) -> Block:
    """A scan and its labels ``(I, J, K)`` as the networks see them, whole; errors as of ``volume_block``."""
    seen = volume_block(scan, voxel_mm=options.voxel_mm, multiple=options.multiple, window_hu=window_hu)
    grid = resampled_shape(seen.canonical, voxel_mm=options.voxel_mm)
    fitted = resampled(seen.canonical.apply(labels), grid)
    pads = [(0, have - n) for have, n in zip(seen.images.shape, grid, strict=True)]
    return Block(seen.images, np.pad(fitted, pads), finding, str(scan.modality), seen.spacing_mm)


def cut_out(whole: Block, rng: np.random.Generator, inside: NDArray[np.bool_], edges: Sequence[int]) -> Block:
    """A block of a volume that holds some voxel of a mask; air where the volume is smaller."""
    points = np.argwhere(inside)
    at = points[rng.integers(len(points))] if len(points) else np.array(whole.image.shape) // 2
    box, pads = [], []
    for place, size, edge in zip(at, whole.image.shape, edges, strict=True):
        start = int(np.clip(place - rng.integers(edge // 4, 3 * edge // 4), 0, max(size - edge, 0)))
        box.append(slice(start, start + edge))
        pads.append((0, max(edge - size, 0)))
    image = np.pad(whole.image[tuple(box)], pads, constant_values=AIR)
    return whole._replace(image=image, mask=np.pad(whole.mask[tuple(box)], pads))


def with_lesion(
    image: NDArray[np.float32], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A block with a synthetic lesion in its tissue: a bent ball, darker or brighter, with a soft border.

    Returns:
        Image and mask ``(D, H, W)``; the block as it is, and nothing, where it shows no tissue.
    """
    tissue = np.argwhere((image > -0.3) & (image < 0.5))
    if not len(tissue):
        return image, np.zeros(image.shape, bool)
    center, radius = tissue[rng.integers(len(tissue))], rng.uniform(0.05, 0.2) * min(image.shape)
    axes = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    stretch = rng.uniform(0.7, 1.4, 3)
    distance = np.sqrt(sum(((a - c) / s) ** 2 for a, c, s in zip(axes, center, stretch, strict=True)))
    bends = ndimage.gaussian_filter(rng.standard_normal(image.shape), radius / 2 + 0.5, mode="wrap")
    depth = radius - distance + radius * 0.4 * bends / (bends.std() + 1e-6)
    share = np.clip(depth / 2 + 0.5, 0, 1) * (image > -0.6)
    change = rng.choice([-1, 1]) * rng.uniform(*CONTRAST)
    return (image + change * share).clip(-1, 1).astype(np.float32), share > 0.5


def without_lesion(block: Block) -> NDArray[np.float32]:
    """The image of a block whose lesions are smoothed away, so that what is left is healthy."""
    if not block.mask.any():
        return block.image
    import torch

    from latentseg.methods.diffugts.inpainting import smooth_fill

    image, hole = (
        torch.from_numpy(array)[None, None] for array in (block.image, block.mask.astype(np.float32))
    )
    return np.asarray(smooth_fill(image, hole)[0, 0].numpy(), np.float32)


def organ_of(finding: str) -> str:
    """Organ of a finding of the vocabulary, or the finding itself where it has none."""
    if not any(concept.name == finding for concept in vocabulary()):
        return finding
    concept = concept_named(finding)
    return concept.organ or concept.name


def backbone_for(backbone: Backbone, block: Block) -> Backbone:
    """A backbone for volumes of a block's size and spacing."""
    if not isinstance(backbone, TakesVolumes):
        return backbone
    depth, height, width = block.image.shape
    return backbone.for_volume((depth, height, width), spacing_mm=block.spacing_mm)
