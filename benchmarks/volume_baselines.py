"""What a registration of the example and a 3-D network of the usual size reach on whole volumes.

Usage: ``python benchmarks/volume_baselines.py [--settings "SABS 0;CHAOS 0, 3 examples"] [--speed]
[--output FILE]``; data through ``LATENTSEG_DATA``. Needs ``pip install convexadam`` and, for ``--speed``,
``dynamic-network-architectures``.

**ConvexAdam** (Siebert et al. 2021; MIND features, coupled convex optimization, then Adam; the defaults of
the package) registers each example with the scan at 3 mm; the masks of several examples are averaged. It
starts from the placement that latentseg found itself, since from the middles of the scans it fails on CT.
Settings are those of ``accuracy_volumes.py``, which measures latentseg on the same scans.

**Speed**: one pass of a 3-D U-Net with the size and the patches of what nnU-Net plans at 3 mm over a CT of
100 slices of 512 x 512 pixels, whose pixels are 0.8 mm wide and 3 mm apart, with random weights: they do not
change its time. What latentseg takes for such a scan is measured by ``speed_compact.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import latentseg as ls
from accuracy_volumes import Setting
from latentseg.evaluation.datasets.base import Case
from latentseg.methods.fewshot.alignment import Alignment
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.methods.fewshot.volume_matching import VolumeMatching, examples_of
from latentseg.metrics.overlap import dice

EDGE_MM = 3.0
PATCH = (96, 128, 128)  # voxels of 3 mm: along the body, down, right
SCAN = (100, 137, 137)  # likewise


def registered(fixed: Tensor, moving: Tensor) -> NDArray[np.float32]:
    """Displacement ``(D, H, W, 3)`` in voxels that takes the moving image ``(D, H, W)`` to the fixed one."""
    from convexAdam.convex_adam_MIND import convex_adam_pt  # type: ignore[import-not-found]

    found = convex_adam_pt(fixed, moving, dtype=torch.float32, device=torch.device("cpu"))
    return np.asarray(found, np.float32)


def grid_mm(slices: int, spacing_mm: tuple[float, float, float], pixels: int) -> Tensor:
    """Places ``(D, H, W, 3)`` of voxels of 3 mm in a scan, in mm as its cells have them."""
    side = spacing_mm[1] * pixels
    along = torch.arange(0, max(slices * spacing_mm[0], 10 * EDGE_MM), EDGE_MM)
    across = torch.arange(EDGE_MM / 2, side, EDGE_MM) - side / 2
    return torch.stack(torch.meshgrid(along, across, across, indexing="ij"), -1)


def sampled(images: Tensor, step_mm: float, side_mm: float, places_mm: Tensor) -> Tensor:
    """Values of slices ``(S, H, W)`` at places ``(D, H, W, 3)``; those of the border beyond it."""
    length = torch.tensor([max(len(images) - 1, 1) * step_mm, side_mm, side_mm])
    where = 2 * places_mm / length - torch.tensor([1.0, 0.0, 0.0])
    square = images.shape[-1]
    where[..., 1:] *= square / (square - 1)
    return F.grid_sample(
        images[None, None].float(), where[None].flip(-1), padding_mode="border", align_corners=True
    )[0, 0]


def placement(segmenter: FewShotSegmenter, case: Case, support: ls.Support) -> Alignment:
    """Where the scan lies in the frame of an example, as the first step of latentseg finds it."""
    part = next(part for part in segmenter.parts if isinstance(part, VolumeMatching))
    encoded = segmenter.prepare(case.image).encoded
    at, along_mm, side_mm = encoded.described()
    cells = part.cells(encoded.images[at], along_mm=along_mm, side_mm=side_mm)
    (example,) = examples_of(segmenter.encode(support).of(part.name), cells.features.device)
    return part.placed(cells, example).alignment


def carried(segmenter: FewShotSegmenter, case: Case, example: Case, organs: Mapping[str, int]) -> Tensor:
    """Masks ``(organs, D, H, W)`` of an example on voxels of 3 mm of a scan, after the registration."""
    supports = [
        ls.Support.from_volumes(example.image, example.labels, name=organ, label=label)
        for organ, label in organs.items()
    ]
    alignment = placement(segmenter, case, supports[0])
    encoded = segmenter.prepare(case.image).encoded
    step_mm, side_mm = encoded.spacing_mm[0], encoded.spacing_mm[1] * encoded.images.shape[-1]
    here = grid_mm(len(encoded), encoded.spacing_mm, encoded.images.shape[-1])
    there = alignment(here.reshape(-1, 3)).reshape(here.shape)
    shown: list[SupportScan] = [support.scans[0] for support in supports]
    steps = [float(np.median(np.diff(scan.places_mm))) for scan in shown]
    fixed = sampled(encoded.images[:, 0], step_mm, side_mm, here)
    moving = sampled(torch.from_numpy(shown[0].images).float(), steps[0], shown[0].side_mm, there)
    moved = torch.from_numpy(registered(fixed, moving)) + voxels(fixed)
    masks = [
        sampled(torch.from_numpy(scan.masks).float(), step, scan.side_mm, there)
        for scan, step in zip(shown, steps, strict=True)
    ]
    size = torch.tensor(fixed.shape) - 1
    return F.grid_sample(torch.stack(masks)[None], (2 * moved / size - 1)[None].flip(-1), align_corners=True)[
        0
    ]


def voxels(image: Tensor) -> Tensor:
    """Indices ``(D, H, W, 3)`` of the voxels of an image."""
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in image.shape), indexing="ij"), -1)


def measure(segmenter: FewShotSegmenter, setting: Setting) -> dict[str, float]:
    """Mean Dice of each organ over the scans of a setting."""
    examples = [setting.supports.load(i) for i in setting.example_ids()]
    organs = {organ: examples[0].label_of[organ] for organ in setting.organs}
    scores: dict[str, list[float]] = {organ: [] for organ in organs}
    for case_id in setting.query_ids():
        case = setting.queries.load(case_id)
        masks = torch.stack([carried(segmenter, case, example, organs) for example in examples]).mean(0)
        seen = segmenter.prepare(case.image).seen
        slices, pixels = seen.images.shape[0], seen.images.shape[-1]
        fine = F.interpolate(masks[None], size=(slices, pixels, pixels), mode="trilinear")[0].numpy()
        for organ, chance in zip(organs, fine, strict=True):
            if case.mask(organ).any():
                scores[organ].append(dice(seen.back(chance) >= 0.5, case.mask(organ)))
        sys.stderr.write(f"{setting.queries.name} {case_id}: {[round(s[-1], 3) for s in scores.values()]}\n")
    figures = {organ: round(float(np.mean(values)), 3) for organ, values in scores.items() if values}
    return {**figures, "mean Dice": round(float(np.mean(list(figures.values()))), 3)}


def network_seconds(scan: Tensor) -> float:
    """Time of a 3-D U-Net over a scan ``(D, H, W)`` at 3 mm, in patches that overlap by half."""
    from dynamic_network_architectures.architectures.unet import (  # type: ignore[import-not-found]
        PlainConvUNet,
    )
    from monai.inferers.inferer import SlidingWindowInferer

    features = (32, 64, 128, 256, 320, 320)
    strides = ((1, 1, 1), *[(2, 2, 2)] * 5)
    network = PlainConvUNet(
        1, 6, features, torch.nn.Conv3d, 3, strides, 2, 118, 2, conv_bias=True,
        norm_op=torch.nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=torch.nn.LeakyReLU,
    ).eval()  # fmt: skip
    started = time.perf_counter()
    with torch.inference_mode():
        SlidingWindowInferer(PATCH, overlap=0.5)(scan[None, None], network)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/volume_baselines.json"))
    parser.add_argument("--settings", default="SABS 0;CHAOS 0;CHAOS 0, CT support;SABS 0, 3 examples")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    results: dict[str, object] = {"date": datetime.now(UTC).date().isoformat()}
    segmenter = ls.load()
    for name in filter(None, options.settings.split(";")):
        results[name] = measure(segmenter, Setting.named(name))
        sys.stdout.write(f"| {name} | {results[name]} |\n")
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if options.speed:
        results["3-D U-Net, seconds"] = round(network_seconds(torch.rand(SCAN)), 1)
        sys.stdout.write(f"| 3-D U-Net, seconds | {results['3-D U-Net, seconds']} |\n")
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
