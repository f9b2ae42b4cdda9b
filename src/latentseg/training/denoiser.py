"""Training the compact denoiser: a rectified flow on the latents of real slices that listens to phrases.

At time ``t`` the network sees ``z_t = (1 - t) z + t noise`` and predicts the velocity ``noise - z`` (Liu et
al. 2023); times are drawn from a logit-normal distribution (Esser et al. 2024). Each phrase that describes a
slice is one condition token; tokens are dropped at random, alone and all together, which gives the
unconditional flow that classifier-free guidance needs.

A denoiser for inpainting is also shown holes: of a share of the slices it knows all but a hole in healthy
tissue, and what counts is what it makes of the hole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from torch import Tensor

from latentseg.backbones.base import hole_context
from latentseg.backbones.compact import TEXT_DIM, TOKENS, CompactBackbone, new_denoiser, save_denoiser
from latentseg.backbones.weights import read_weights
from latentseg.methods.diffugts.inpainting import pool_mask, smooth_fill
from latentseg.training.augment import Geometry, sampling_grid, warp
from latentseg.training.growth import grow_from
from latentseg.training.holes import HoleOptions, draw_hole
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.pack import Pack
from latentseg.training.shares import slice_chances

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
HEALTHY, ILL = "healthy", "with tumor"  # as the vocabulary says it
PRESENT = 20  # pixels from which on a labelled structure is mentioned


class DenoiserOptions(BaseModel, extra="forbid", frozen=True):
    """A training of the denoiser, as read from YAML.

    Attributes:
        batch: Slices per step.
        variants: Augmented copies of a slice that are encoded; the first is the slice itself.
        shares: Share of draws by data set; the others divide the rest by the root of their number of slices.
        phrases: What is known of every slice of a data set, such as its region.
        findings: Labels that are lesions: a slice of a data set that has such labels is "with tumor" where
            one is present and "healthy" elsewhere.
        names: Phrases of labels whose name is not one, underscores aside.
        drop: Chance that a token says nothing.
        drop_all: Chance that all tokens of a slice say nothing.
        holes: How holes are drawn; without, the denoiser is told of none.
    """

    loop: LoopOptions
    batch: int = Field(32, gt=0)
    variants: int = Field(4, gt=0)
    shares: dict[str, float] = {}
    phrases: dict[str, tuple[str, ...]] = {}
    findings: tuple[str, ...] = ()
    names: dict[str, str] = {}
    drop: float = 0.15
    drop_all: float = 0.1
    geometry: Geometry = Geometry(degrees=8, zoom=(0.85, 1.1), shift=0.04, elastic=0.008, flip=0.0)
    holes: HoleOptions | None = None


class Batch(NamedTuple):
    """Slices of a step.

    Attributes:
        latents: Clean, ``(B, C, h, w)``.
        noise: The same shape.
        times: ``(B,)`` in (0, 1).
        tokens: ``(B, 4, 384)``.
        context: What is known around holes, ``(B, 1 + C, h, w)``; a slice without a hole is one.
    """

    latents: Tensor
    noise: Tensor
    times: Tensor
    tokens: Tensor
    context: Tensor


class Around(NamedTuple):
    """A hole in a slice.

    Attributes:
        latents: Of the slice without what is in the hole, ``(C, h, w)`` fp16.
        cells: The hole on their grid, ``(1, h, w)`` bool.
        words: What is said of the slice and of where the hole lies.
    """

    latents: Tensor
    cells: Tensor
    words: Description


class DenoiserTask(Task[UNet2DConditionModel]):
    """What the loop trains.

    Latents are encoded when they are first drawn and kept in memory: a denoiser sees each many times, and the
    encoder costs a third of a step.
    """

    counted = "latents"

    def __init__(
        self, options: DenoiserOptions, packed: Pack, backbone: CompactBackbone, *, embed: Embed
    ) -> None:
        self.options, self.packed, self.backbone = options, packed, backbone
        self.frozen_networks = [backbone]
        self.model: UNet2DConditionModel = new_denoiser(
            latent_channels=backbone.latent_channels, holes=options.holes is not None
        )
        scans = packed.scans
        sources = np.repeat([scan.source for scan in scans], [scan.count for scan in scans])
        self.chance = slice_chances(sources, np.ones(len(sources), bool), options.shares)
        self.descriptions = describe(packed, options)
        side = packed.images.shape[1] // backbone.downscale
        shape = (len(sources) * options.variants, backbone.latent_channels, side, side)
        self.latents = np.zeros(shape, np.float16)
        self.encoded = np.zeros(len(self.latents), bool)
        self.around: dict[tuple[int, int], Around | None] = {}
        self.scan_of = np.repeat(np.arange(len(scans)), [scan.count for scan in scans])
        phrases = sorted({HEALTHY, *(p for d in self.descriptions for p in (*d.always, *d.structures))})
        self.embedding = dict(zip(phrases, torch.from_numpy(embed(phrases)), strict=True))

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """Draw slices with their phrases, noise and times."""
        del progress
        options = self.options
        index = rng.choice(len(self.chance), options.batch, p=self.chance)
        rows = index * options.variants + rng.integers(0, options.variants, options.batch)
        self._encode(rows)
        latents = torch.from_numpy(self.latents[rows].astype(np.float32))
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        times = torch.from_numpy(rng.standard_normal(options.batch, np.float32)).sigmoid()
        descriptions = [self.descriptions[i] for i in index]
        holes = torch.ones_like(latents[:, :1])
        asked = options.holes
        for item, row in enumerate(rows if asked else ()):
            hole = asked is not None and rng.random() < asked.share
            around = self._around(int(row), int(rng.integers(asked.kept)), asked) if asked and hole else None
            if around is not None:
                latents[item] = torch.where(around.cells, latents[item], around.latents.float())
                holes[item], descriptions[item] = around.cells.float(), around.words
        context = hole_context(latents, holes)
        tokens = torch.stack([self._tokens(rng, description) for description in descriptions])
        return Batch(latents, noise, times, tokens, context)

    def _around(self, row: int, number: int, options: HoleOptions) -> Around | None:
        """A hole in a variant of a slice; nothing in data sets without, or where no tissue is healthy."""
        if (row, number) not in self.around:
            self.around[row, number] = self._draw_around(row, number, options)
        return self.around[row, number]

    def _draw_around(self, row: int, number: int, options: HoleOptions) -> Around | None:
        index, variant = divmod(row, self.options.variants)
        scan = self.packed.scans[self.scan_of[index]]
        if scan.source not in options.healthy:
            return None
        findings = tuple(i for i, name in scan.labels.items() if name in self.options.findings)
        organs = tuple(i for i in scan.labels if i not in findings)
        image, labels = self._slice(row)
        rng = np.random.default_rng((index, variant, number))
        hole = draw_hole(image, labels, rng, options, organs=organs, findings=findings)
        if hole is None:
            return None
        mask = torch.from_numpy(hole.mask)[None, None].float()
        shaded = smooth_fill(torch.from_numpy(image.astype(np.float32))[None, None] / 127.5 - 1, mask)
        cells = pool_mask(mask, self.backbone.downscale)[0] > 0
        always = [p for p in self.descriptions[index].always if p not in (HEALTHY, ILL)]
        organ = [phrase_of(scan.labels[hole.label], self.options)] if hole.label else []
        words = Description((*always[: TOKENS - 2], HEALTHY), tuple(organ))
        return Around(self.backbone.encode(shaded)[0].half().cpu(), cells, words)

    def _slice(self, row: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Image and labels ``(H, W)`` of a variant of a slice."""
        index, variant = divmod(row, self.options.variants)
        image, labels = (np.array(array[index]) for array in (self.packed.images, self.packed.labels))
        if not variant:
            return image, labels
        grid = sampling_grid(
            np.random.default_rng((index, variant)), 1, image.shape[-1], self.options.geometry
        )
        moved = [torch.from_numpy(array.astype(np.float32))[None, None] for array in (image, labels)]
        image, labels = (
            warp(array, grid, nearest=nearest)[0, 0].round().byte().numpy()
            for array, nearest in zip(moved, (False, True), strict=True)
        )
        return image, labels

    def _encode(self, rows: NDArray[np.integer]) -> None:
        for row in np.unique(rows[~self.encoded[rows]]):
            image = torch.from_numpy(self._slice(int(row))[0].astype(np.float32))[None, None] / 127.5 - 1
            self.latents[row] = self.backbone.encode(image)[0].half().cpu().numpy()
            self.encoded[row] = True

    def _tokens(self, rng: np.random.Generator, description: Description) -> Tensor:
        phrases = list(description.always)
        if description.structures and len(phrases) < TOKENS:
            phrases.append(str(rng.choice(description.structures)))
        tokens = torch.zeros(TOKENS, TEXT_DIM)
        for i, phrase in enumerate(phrases[:TOKENS]):
            if rng.random() >= self.options.drop:
                tokens[i] = self.embedding[phrase]
        return tokens * float(rng.random() >= self.options.drop_all)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Mean squared error of the velocity; also for the noisy and the clean half of the times."""
        t = batch.times[:, None, None, None]
        noisy = (1 - t) * batch.latents + t * batch.noise
        if self.options.holes is not None:
            noisy = torch.cat([noisy, batch.context], 1)
        velocity = self.model(noisy, 1000 * batch.times, batch.tokens, return_dict=False)[0]
        inside = batch.context[:, :1]
        each = F.mse_loss(velocity, batch.noise - batch.latents, reduction="none").mean(1, keepdim=True)
        error = (each * inside).sum((1, 2, 3)) / inside.sum((1, 2, 3))
        early, holes = batch.times > 0.5, inside.mean((1, 2, 3)) < 1
        parts = {"noisy": error[early], "clean": error[~early], "holes": error[holes], "whole": error[~holes]}
        return error.mean(), {name: float(part.detach().mean()) for name, part in parts.items() if len(part)}

    def export(self, model: UNet2DConditionModel, folder: Path) -> None:
        """Write ``denoiser.safetensors`` and ``denoiser.json``."""
        save_denoiser(model, folder)


class Description(NamedTuple):
    """Phrases of a slice: those that always hold, and structures of which one is mentioned at a time."""

    always: tuple[str, ...]
    structures: tuple[str, ...]


def phrase_of(name: str, options: DenoiserOptions) -> str:
    """What a label is called in a condition."""
    return options.names.get(name, name.replace("_", " "))


def describe(packed: Pack, options: DenoiserOptions) -> list[Description]:
    """What is known of every slice of a pack: modality, region, health, structures."""
    out = []
    for scan in packed.scans:
        names = {i: phrase_of(name, options) for i, name in scan.labels.items()}
        lesions = {i for i, name in scan.labels.items() if name in options.findings}
        known = (scan.modality, *options.phrases.get(scan.source, ()))
        for labels in packed.labels[scan.first : scan.first + scan.count]:
            areas = np.bincount(labels.ravel(), minlength=256)
            present = [i for i in names if areas[i] >= PRESENT]
            found = lesions.intersection(present)
            health = ((ILL if found else HEALTHY),) if lesions else ()
            shown = found or present
            out.append(Description((*known, *health), tuple(names[i] for i in present if i in shown)))
    return out


def build(
    options: DenoiserOptions,
    packed: Pack,
    backbone: CompactBackbone,
    *,
    embed: Embed,
    weights: Path | None = None,
) -> DenoiserTask:
    """The task of a configuration; the seed of the loop also seeds the initial weights.

    Args:
        options: See :class:`DenoiserOptions`.
        packed: Slices with labels.
        backbone: Whose latents are learned.
        embed: Embeddings of phrases.
        weights: A ``denoiser.safetensors`` to start from instead; one that saw no holes will do.

    Raises:
        ModelError: The weights are missing, damaged or do not fit.
    """
    torch.manual_seed(options.loop.seed)
    task = DenoiserTask(options, packed, backbone, embed=embed)
    if weights:
        grow_from(task.model, read_weights(weights), where=weights)
    return task
