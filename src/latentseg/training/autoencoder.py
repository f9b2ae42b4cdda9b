"""Training the compact autoencoder: real slices, painted anatomy and masks, one network for all.

SD-FSMIS codes masks with the autoencoder that codes images, so masks are a quarter of what it sees. Beside
the decoder a small mask head learns to read mask latents at a thirtieth of the decoder's price.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor, nn

from latentseg.backbones.compact import CompactAutoencoder, load_autoencoder, save_autoencoder
from latentseg.backbones.weights import read_weights
from latentseg.errors import UsageError
from latentseg.training.augment import Geometry, recolor, sampling_grid, warp
from latentseg.training.discriminator import PatchDiscriminator, adaptive_weight
from latentseg.training.growth import grow_from
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.pack import Pack
from latentseg.training.painting import blobs, paint
from latentseg.training.shares import slice_chances

# Adam does not mind the scale of a loss, but all gradients are clipped together, and those of the
# discriminator are large.
QUIET = 0.01


class AutoencoderOptions(BaseModel, extra="forbid", frozen=True):
    """A training of the autoencoder, as read from YAML.

    Attributes:
        network: What is different from the shipped network, see
            :func:`~latentseg.backbones.compact.new_vae`.
        frozen_encoder: Whether only the decoder and the mask head learn, so that everything that stands on
            the latents stays fit; the encoder must come from trained weights then.
        source_shares: Share of the real slices by data set; the others divide the rest by the root of their
            number of slices.
        batch: Crops per step.
        crop: Edge of the crops; the last ``whole_share`` of the steps uses whole slices, a quarter as many.
        shares: Parts of a batch that are painted anatomy and masks; the rest are real slices.
        edges: Weight of the difference of image gradients, which keeps borders sharp.
        kl: Weight of the Kullback-Leibler term, which keeps the latents near unit variance.
        adversarial: Share of the decoder's gradient that the discriminator's opinion gets, against the
            reconstruction's, for texture in place of blur.
        adversarial_from: Share of the steps after which the discriminator takes part.
    """

    loop: LoopOptions
    network: dict[str, Any] = {}
    frozen_encoder: bool = False
    source_shares: dict[str, float] = {}
    batch: int = 10
    crop: int = 128
    whole_share: float = 0.1
    shares: tuple[float, float] = (0.2, 0.2)
    edges: float = 1.0
    kl: float = 1e-4
    adversarial: float = 0.1
    adversarial_from: float = 0.6


class Batch(NamedTuple):
    """Images ``(B, 1, H, W)`` in [-1, 1]; the last ``masks`` of them are masks.

    Attributes:
        adversarial: Whether the discriminator takes part yet.
    """

    images: Tensor
    masks: int
    adversarial: bool


class TrainedAutoencoder(nn.Module):
    """The autoencoder and the discriminator that is thrown away after training."""

    def __init__(self, network: Mapping[str, Any]) -> None:
        super().__init__()
        self.autoencoder = CompactAutoencoder(network)
        self.discriminator = PatchDiscriminator()


class AutoencoderTask(Task[TrainedAutoencoder]):
    """What the loop trains: reconstruct images and masks, and read masks with the head."""

    counted = "images"

    def __init__(self, options: AutoencoderOptions, packed: Pack) -> None:
        self.options, self.packed = options, packed
        self.model = TrainedAutoencoder(options.network)
        if options.frozen_encoder:
            for part in (self.model.autoencoder.vae.encoder, self.model.autoencoder.vae.quant_conv):
                part.requires_grad_(False)
        self.chance = scan_chances(packed, options.source_shares)

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """Draw crops of real slices, painted anatomy and masks."""
        options = self.options
        whole = progress >= 1 - options.whole_share
        total = max(options.batch // 4, 4) if whole else options.batch
        size = self.packed.images.shape[1] if whole else options.crop
        painted, masks = (max(round(total * share), 1) for share in options.shares)
        real = total - painted - masks
        zoom = (0.75, 1.15) if whole else (0.3, 0.75)
        geometry = Geometry(degrees=20, zoom=zoom, shift=0.1 if whole else 0.3, flip=0.5)
        images = self._images(rng, real)
        images = warp(images, sampling_grid(rng, real, size, geometry))
        images = torch.where(torch.tensor(rng.random((real, 1, 1, 1)) < 0.5), recolor(images, rng), images)
        maps = self._maps(rng, painted + masks)
        grid = sampling_grid(rng, len(maps), size, geometry)
        maps = warp(maps[:, None].float(), grid, nearest=True)[:, 0].long()
        colored = paint(maps[:painted], rng)
        binary = random_masks(maps[painted:], rng)
        return Batch(
            torch.cat([images, colored, binary]), masks, adversarial=progress >= options.adversarial_from
        )

    def _images(self, rng: np.random.Generator, n: int) -> Tensor:
        index = np.sort(rng.choice(len(self.chance), n, p=self.chance))
        return torch.tensor(self.packed.images[index], dtype=torch.float32)[:, None] / 127.5 - 1

    def _maps(self, rng: np.random.Generator, n: int) -> Tensor:
        """Label maps ``(n, S, S)``: supervoxels of real slices merged to a few regions, or blobs."""
        size = self.packed.images.shape[1]
        maps = blobs(rng, n, size)
        if self.packed.supervoxels is not None:
            real = rng.random(n) < 0.6
            index = np.sort(rng.choice(len(self.chance), int(real.sum()), p=self.chance))
            ids = torch.tensor(self.packed.supervoxels[index].astype(np.int64))
            maps[torch.tensor(real)] = torch.where(ids > 0, 1 + (ids * int(rng.integers(1, 97))) % 24, 0)
        return maps

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """L1, gradient L1, KL and hinge losses, and cross-entropy of the mask head for the masks."""
        model = self.model.autoencoder
        posterior = model.vae.encode(batch.images).latent_dist
        latents = posterior.sample()
        output = model.vae.decode(latents).sample
        pixel = F.l1_loss(output, batch.images)
        edges = gradient_difference(output, batch.images)
        kl = posterior.kl().mean() / latents[0].numel()
        logits = model.mask_head(latents[-batch.masks :].detach() * model.scaling)
        truth = (batch.images[-batch.masks :] > 0).float()
        head = F.binary_cross_entropy_with_logits(logits, truth)
        if not self.options.frozen_encoder:
            with torch.no_grad():
                model.track(posterior.mean)
        reconstruction = pixel + self.options.edges * edges
        figures = {"l1": pixel, "edges": edges, "kl": kl, "mask_head": head}
        total = reconstruction + self.options.kl * kl + head
        if batch.adversarial:
            real, decoded = batch.images[: -batch.masks], output[: -batch.masks]
            judge = self.model.discriminator
            figures["realism"] = judge.realism(decoded)
            figures["discriminator"] = judge.loss(real, decoded)
            last_layer = model.vae.decoder.conv_out.weight
            weight = adaptive_weight(reconstruction, figures["realism"], last_layer)
            total = total - self.options.adversarial * weight * figures["realism"]
            total = total + QUIET * figures["discriminator"]
        return total, {name: float(value.detach()) for name, value in figures.items()}

    def export(self, model: TrainedAutoencoder, folder: Path) -> None:
        """Write ``autoencoder.safetensors`` and ``autoencoder.json``."""
        save_autoencoder(model.autoencoder, folder)


def random_masks(maps: Tensor, rng: np.random.Generator) -> Tensor:
    """Binary images ``(n, 1, H, W)`` in {-1, 1}: one or two labels of each map; some are empty."""
    out = []
    for labels in maps:
        present = torch.unique(labels)
        chosen = present[torch.tensor(rng.integers(0, len(present), int(rng.integers(1, 3))))]
        out.append(torch.isin(labels, chosen) & (rng.random() > 0.08))
    return torch.stack(out)[:, None].float() * 2 - 1


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical gradients, at two scales."""
    total = a.new_zeros(())
    for _ in range(2):
        for axis in (2, 3):
            total = total + (a.diff(dim=axis) - b.diff(dim=axis)).abs().mean()
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return total / 2


def scan_chances(packed: Pack, shares: dict[str, float]) -> NDArray[np.floating]:
    """Chance of each slice to be drawn: scans count by the root of their slices, data sets by their share."""
    counts = [scan.count for scan in packed.scans]
    sources = np.repeat([scan.source for scan in packed.scans], counts)
    weight = np.repeat(1 / np.sqrt(counts), counts)
    if not shares:
        return np.asarray(weight / weight.sum())
    by_source = slice_chances(sources, np.ones(len(sources), bool), shares)
    for name in np.unique(sources):
        here = sources == name
        by_source[here] = by_source[here].sum() * weight[here] / weight[here].sum()
    return by_source


def build(options: AutoencoderOptions, packed: Pack, *, weights: Path | None = None) -> AutoencoderTask:
    """The task of a configuration; the seed of the loop also seeds the initial weights.

    Args:
        options: See :class:`AutoencoderOptions`.
        packed: Slices.
        weights: An ``autoencoder.safetensors`` of this network or a smaller one to start from instead, with
            the ``autoencoder.json`` beside it.

    Raises:
        ModelError: The weights are missing, damaged or do not fit.
        UsageError: The encoder is to stay as it is, and there are no weights.
    """
    torch.manual_seed(options.loop.seed)
    task = AutoencoderTask(options, packed)
    if weights:
        model, tensors = task.model.autoencoder, read_weights(weights)
        grow_from(model, {"latent_variance": model.latent_variance, **tensors}, where=weights)
        scaling = float(load_autoencoder(weights.parent)[0].config["scaling_factor"])
        model.latent_variance.fill_(scaling**-2)
    elif options.frozen_encoder:
        raise UsageError("an encoder that learns nothing needs trained weights", fix="give --weights")
    return task
