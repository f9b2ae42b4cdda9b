"""Reconstruction by the compact autoencoder on patients it never saw: images and masks.

Usage: ``python benchmarks/autoencoder.py [--every 8] [--picture FILE] [--output FILE] [--backbone FOLDER]
[--pack HELD-OUT]``; data through ``LATENTSEG_DATA``.

Every n-th slice of SABS fold 0 (CT) and of all CHAOS scans here (MR, a data set that was never trained on).
PSNR and SSIM on the slices scaled to [0, 1], Dice of organ masks after coding, through the decoder and
through the mask head, by area. "But for the noise" is the PSNR of an image that lacks nothing else: the
median absolute high-pass of the slice, taken for Gaussian noise. ``--picture`` draws phantoms and masks of
several sizes before and after. A pack of held-out patients (``latentseg train pack configs/pack-real.yaml
--held-out``) is measured by data set, images alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import latentseg
from latentseg.backbones import registry
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.identity import fingerprint
from latentseg.evaluation.datasets import CHAOS, ORGANS, SABS, Dataset
from latentseg.evaluation.slices import prepare
from latentseg.imaging import Volume, fit_square, normalize, to_canonical
from latentseg.imaging.intensity import scan_noise
from latentseg.methods.sdfsmis.mask_decoding import mask_images
from latentseg.metrics.overlap import dice
from latentseg.phantom.bodies import abdomen, chest
from latentseg.training.pack import Pack

AIR = -0.95  # in [-1, 1]
AREAS = ((50, 200), (200, 65536))


@torch.no_grad()
def measure(backbone: CompactBackbone, dataset: Dataset, cases: list[str], *, every: int) -> dict[str, float]:
    """Means over slices and over organ masks; the mask head is that of the few-shot weights."""
    head = latentseg.load().networks.sdfsmis.mask_head
    figures: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        query = prepare(dataset.load(case))
        at = np.arange(every // 2, len(query.images), every)
        add_reconstructions(backbone, query.images[at], figures)
        for organ in ORGANS:
            masks = query.mask_slices(organ)[at]
            masks = masks[masks.sum((1, 2)) >= AREAS[0][0]]
            if not len(masks):
                continue
            latents = backbone.encode(mask_images(torch.from_numpy(masks.astype(np.float32))))
            readings = {"decoder": backbone.decode(latents)[:, 0] > 0}
            readings["mask head"] = head(latents)[:, 0] > 0
            for name, reading in readings.items():
                for truth, found in zip(masks, reading.numpy(), strict=True):
                    low, high = next(area for area in AREAS if area[0] <= truth.sum() < area[1])
                    figures[f"mask Dice, {name}, {low} to {high} px"].append(dice(found, truth))
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def add_reconstructions(
    backbone: CompactBackbone, slices: NDArray[np.float32], figures: dict[str, list[float]]
) -> None:
    """Add the figures of slices ``(n, H, W)`` in [-1, 1]."""
    images = torch.from_numpy(slices)[:, None]
    back = backbone.decode(backbone.encode(images)).clamp(-1, 1)
    for a, b in zip((images[:, 0].numpy() + 1) / 2, (back[:, 0].numpy() + 1) / 2, strict=True):
        figures["PSNR dB"].append(float(peak_signal_noise_ratio(a, b, data_range=1)))
        figures["SSIM"].append(float(structural_similarity(a, b, data_range=1)))
        figures["PSNR dB, but for the noise"].append(noise_limit(2 * a - 1))


@torch.no_grad()
def measure_pack(backbone: CompactBackbone, packed: Pack, *, slices: int) -> dict[str, dict[str, float]]:
    """Means over slices of held-out patients, by data set."""
    results = {}
    for source in dict.fromkeys(scan.source for scan in packed.scans):
        rows = [range(s.first, s.first + s.count) for s in packed.scans if s.source == source]
        every = np.concatenate([np.array(row) for row in rows])
        chosen = every[np.unique(np.linspace(0, len(every) - 1, slices).astype(int))]
        figures: dict[str, list[float]] = defaultdict(list)
        add_reconstructions(backbone, packed.images[chosen].astype(np.float32) / 127.5 - 1, figures)
        means = {name: round(float(np.mean(values)), 4) for name, values in figures.items()}
        results[f"held out: {source}"] = means
    return results


def noise_limit(image: NDArray[np.float32]) -> float:
    """PSNR in dB of a slice in [-1, 1] against itself without noise, which air has none of."""
    variance = max(scan_noise(image) ** 2 * float((image > AIR).mean()), 1e-9)
    return 10 * float(np.log10(4 / variance))


@torch.no_grad()
def draw(backbone: CompactBackbone, path: Path) -> None:
    """Draw phantoms and masks, what is decoded, and the difference."""
    images = {
        "CT abdomen": phantom_slice(abdomen(seed=3, shape=(256, 256, 9)).image),
        "MR abdomen": phantom_slice(abdomen(seed=4, modality="MR", shape=(256, 256, 9)).image),
        "CT chest": phantom_slice(chest(seed=2, shape=(256, 256, 9)).image),
        "masks": discs(),
    }
    back = backbone.decode(backbone.encode(torch.from_numpy(np.stack(list(images.values())))[:, None]))[:, 0]
    figure = Figure(figsize=(8.4, 6.6), layout="constrained")
    axes = figure.subplots(3, len(images))
    for column, (name, image), decoded in zip(axes.T, images.items(), back.numpy(), strict=True):
        for axis, shown, limit in zip(column, (image, decoded, decoded - image), (1, 1, 0.5), strict=True):
            axis.imshow(shown, cmap="gray", vmin=-limit, vmax=limit)
            axis.set_xticks([])
            axis.set_yticks([])
        column[0].set_title(name, fontsize=9)
    for axis, name in zip(axes[:, 0], ("image", "decoded", "difference x 2"), strict=True):
        axis.set_ylabel(name, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)


def phantom_slice(volume: Volume) -> NDArray[np.float32]:
    """The middle slice ``(256, 256)`` as the networks see it."""
    canonical = to_canonical(volume)
    values = normalize(canonical.slices, modality=volume.modality)
    middle = values[[len(values) // 2]]
    return np.asarray(fit_square(middle, 256, pixel_mm=canonical.spacing_mm[1:])[0][0], np.float32)


def discs() -> NDArray[np.float32]:
    """Discs of 3 to 40 pixels across, 1 on -1."""
    rows, columns = np.indices((256, 256))
    image = np.full((256, 256), -1, np.float32)
    for number, radius in enumerate((1.5, 2.5, 4, 6, 8, 10, 13, 16, 20)):
        center = 43 + 85 * np.array(divmod(number, 3))
        image[np.hypot(rows - center[0], columns - center[1]) < radius] = 1
    return image


def main() -> None:
    """Measure both data sets, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/autoencoder.json"))
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--backbone", type=Path, help="Folder of a model; the shipped one when left out.")
    parser.add_argument("--pack", type=Path, help="Slices of held-out patients.")
    parser.add_argument("--slices", type=int, default=24, help="Of each data set of the pack.")
    options = parser.parse_args()
    folder = registry.resolve(options.backbone or "compact")
    backbone = CompactBackbone.from_folder(folder)
    if options.picture:
        draw(backbone, options.picture)
    results = {
        "SABS fold 0": measure(backbone, SABS, SABS.fold(0), every=options.every),
        "CHAOS": measure(backbone, CHAOS, CHAOS.present(), every=max(options.every // 3, 1)),
    }
    if options.pack:
        results |= measure_pack(backbone, Pack(options.pack), slices=options.slices)
    for name, figures in results.items():
        for what, value in figures.items():
            sys.stdout.write(f"| {name} | {what} | {value} |\n")
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "weights": fingerprint([folder / "autoencoder.safetensors"]),
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
