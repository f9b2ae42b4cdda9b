"""Reconstruction by the compact autoencoder on patients it never saw: images and masks.

Usage: ``python benchmarks/autoencoder.py [--every 8] [--output FILE]``; data through ``LATENTSEG_DATA``.

Every n-th slice of SABS fold 0 (CT) and of all CHAOS scans here (MR, a data set that was never trained on).
PSNR and SSIM on the slices scaled to [0, 1], Dice of organ masks after coding, through the decoder and
through the mask head, by area.
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
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import latentseg
from latentseg.evaluation.datasets import CHAOS, ORGANS, SABS, Dataset
from latentseg.evaluation.metrics import dice
from latentseg.evaluation.protocols import prepare
from latentseg.fewshot.mask_decoding import mask_images

AREAS = ((50, 200), (200, 65536))


@torch.no_grad()
def measure(dataset: Dataset, cases: list[str], *, every: int) -> dict[str, float]:
    """Means over slices and over organ masks."""
    parts = latentseg.load().parts
    figures: dict[str, list[float]] = defaultdict(list)
    for case in cases:
        query = prepare(dataset.load(case))
        at = np.arange(every // 2, len(query.images), every)
        images = torch.from_numpy(query.images[at])[:, None]
        back = parts.backbone.decode(parts.backbone.encode(images)).clamp(-1, 1)
        for a, b in zip((images[:, 0].numpy() + 1) / 2, (back[:, 0].numpy() + 1) / 2, strict=True):
            figures["PSNR dB"].append(float(peak_signal_noise_ratio(a, b, data_range=1)))
            figures["SSIM"].append(float(structural_similarity(a, b, data_range=1)))
        for organ in ORGANS:
            masks = query.mask_slices(organ)[at]
            masks = masks[masks.sum((1, 2)) >= AREAS[0][0]]
            if not len(masks):
                continue
            latents = parts.backbone.encode(mask_images(torch.from_numpy(masks.astype(np.float32))))
            readings = {"decoder": parts.backbone.decode(latents)[:, 0] > 0}
            readings["mask head"] = parts.mask_head(latents)[:, 0] > 0
            for name, reading in readings.items():
                for truth, found in zip(masks, reading.numpy(), strict=True):
                    low, high = next(area for area in AREAS if area[0] <= truth.sum() < area[1])
                    figures[f"mask Dice, {name}, {low} to {high} px"].append(dice(found, truth))
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def main() -> None:
    """Measure both data sets, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=8)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/autoencoder.json"))
    options = parser.parse_args()
    results = {
        "SABS fold 0": measure(SABS, SABS.fold(0), every=options.every),
        "CHAOS": measure(CHAOS, CHAOS.present(), every=max(options.every // 3, 1)),
    }
    for name, figures in results.items():
        for what, value in figures.items():
            sys.stdout.write(f"| {name} | {what} | {value} |\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": latentseg.load().parts.fingerprint}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
