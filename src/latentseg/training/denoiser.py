"""Training the compact denoiser: a rectified flow on the latents of real slices that listens to phrases.

At time ``t`` the network sees ``z_t = (1 - t) z + t noise`` and predicts the velocity ``noise - z`` (Liu et
al. 2023); times are drawn from a logit-normal distribution (Esser et al. 2024). Each phrase that describes a
slice is one condition token; tokens are dropped at random, alone and all together, which gives the
unconditional flow that classifier-free guidance needs.
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
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from latentseg.backbones.compact import TEXT_DIM, TOKENS, CompactBackbone, new_denoiser, save_denoiser
from latentseg.backbones.weights import read_weights, start_from
from latentseg.training.augment import Geometry, sampling_grid, warp
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack
from latentseg.training.shares import slice_chances

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
PRESENT = 20  # pixels from which on a labelled structure is mentioned


class DenoiserOptions(BaseModel):
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Batch(NamedTuple):
    """Clean latents and noise ``(B, 4, h, w)``, times ``(B,)`` in (0, 1), tokens ``(B, 4, 384)``."""

    latents: Tensor
    noise: Tensor
    times: Tensor
    tokens: Tensor


class DenoiserTask:
    """What the loop trains.

    Latents are encoded when they are first drawn and kept in memory: a denoiser sees each many times, and the
    encoder costs a third of a step.
    """

    def __init__(
        self, options: DenoiserOptions, packed: Pack, backbone: CompactBackbone, *, embed: Embed
    ) -> None:
        self.options, self.packed, self.backbone = options, packed, backbone
        self.model: UNet2DConditionModel = new_denoiser()
        scans = packed.scans
        sources = np.repeat([scan.source for scan in scans], [scan.count for scan in scans])
        self.chance = slice_chances(sources, np.ones(len(sources), bool), options.shares)
        self.descriptions = describe(packed, options)
        side = packed.images.shape[1] // backbone.downscale
        shape = (len(sources) * options.variants, backbone.latent_channels, side, side)
        self.latents = np.zeros(shape, np.float16)
        self.encoded = np.zeros(len(self.latents), bool)
        phrases = sorted({p for d in self.descriptions for p in (*d.always, *d.structures)})
        self.embedding = dict(zip(phrases, torch.from_numpy(embed(phrases)), strict=True))

    def images(self, batch: Batch) -> int:
        """Slices."""
        return len(batch.latents)

    def to(self, device: torch.device) -> None:
        """Move the denoiser and the autoencoder."""
        self.model.to(device)
        self.backbone.to(device)

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
        tokens = torch.stack([self._tokens(rng, self.descriptions[i]) for i in index])
        return Batch(latents, noise, times, tokens)

    def _encode(self, rows: NDArray[np.integer]) -> None:
        for row in np.unique(rows[~self.encoded[rows]]):
            index, variant = divmod(int(row), self.options.variants)
            image = torch.tensor(self.packed.images[index], dtype=torch.float32)[None, None] / 127.5 - 1
            if variant:
                rng = np.random.default_rng((index, variant))
                image = warp(image, sampling_grid(rng, 1, image.shape[-1], self.options.geometry))
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
        velocity = self.model(noisy, 1000 * batch.times, batch.tokens, return_dict=False)[0]
        error = F.mse_loss(velocity, batch.noise - batch.latents, reduction="none").mean((1, 2, 3))
        early = batch.times > 0.5
        halves = {"noisy": error[early], "clean": error[~early]}
        return error.mean(), {name: float(half.detach().mean()) for name, half in halves.items() if len(half)}

    def export(self, model: UNet2DConditionModel, folder: Path) -> None:
        """Write ``denoiser.safetensors`` and ``denoiser.json``."""
        save_denoiser(model, folder)


class Description(NamedTuple):
    """Phrases of a slice: those that always hold, and structures of which one is mentioned at a time."""

    always: tuple[str, ...]
    structures: tuple[str, ...]


def describe(packed: Pack, options: DenoiserOptions) -> list[Description]:
    """What is known of every slice of a pack: modality, region, health, structures."""
    out = []
    for scan in packed.scans:
        names = {i: options.names.get(name, name.replace("_", " ")) for i, name in scan.labels.items()}
        lesions = {i for i, name in scan.labels.items() if name in options.findings}
        known = (scan.modality, *options.phrases.get(scan.source, ()))
        for labels in packed.labels[scan.first : scan.first + scan.count]:
            areas = np.bincount(labels.ravel(), minlength=256)
            present = [i for i in names if areas[i] >= PRESENT]
            found = lesions.intersection(present)
            health = (("with tumor" if found else "healthy"),) if lesions else ()
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
        options: See there.
        packed: Slices with labels.
        backbone: Whose latents are learned.
        embed: Embeddings of phrases.
        weights: A ``denoiser.safetensors`` to start from instead.

    Raises:
        ModelError: The weights are missing, damaged or do not fit.
    """
    torch.manual_seed(options.loop.seed)
    task = DenoiserTask(options, packed, backbone, embed=embed)
    if weights:
        start_from(task.model, read_weights(weights), where=weights)
    return task
