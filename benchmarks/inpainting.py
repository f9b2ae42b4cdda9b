"""Inpainting of healthy tissue against the truth and two baselines.

Usage: ``python benchmarks/inpainting.py [--limit 60] [--montage FILE] [--output FILE]``; data through
``LATENTSEG_DATA``.

In slices of SABS fold 0 and of CHAOS (never trained on) an ellipse inside an organ is removed and filled
again: by the compact denoiser (below time 1 starting from a smooth fill), by the smooth fill alone, by the
mean of a ring around the hole, by push and pull with a membrane, the smooth fill of earlier versions, and by
the biharmonic equation (scikit-image). "As shown" is what ``segment`` calls the pseudo-healthy image: the
smooth fill with the scan's own grain. "Decoded truth" is the slice through the autoencoder, the best that
anything in its latents can do. Inside the hole: PSNR, the mean
gradient relative to the truth's (1 is as textured), the Wasserstein distance of the gradients' distributions,
the perceptual distance (EfficientNet-Lite0), and which share of a way to fill, with the rest of the smooth
fill, is nearest to the truth over all holes (0: none of it).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import wasserstein_distance
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from image_quality import paste, perceptual_distance
from latentseg.backbones import registry
from latentseg.backbones.compact import CompactBackbone, condition_tokens
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import FeatureNetwork, load_feature_network
from latentseg.evaluation.datasets import CHAOS, ORGANS, SABS, Dataset
from latentseg.evaluation.slices import prepare
from latentseg.methods.diffugts import inpainting
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask, smooth_fill
from latentseg.methods.tumor.healthy_image import continued
from latentseg.text import embed

Slice = NDArray[np.float32]
RADIUS = (5, 14)  # pixels at 256 px
VARIANTS = {
    "ours, 20 steps": InpaintingOptions(),
    "ours, 8 steps from t = 0.5": InpaintingOptions(steps=8, start=0.5),
    "ours, 4 steps from t = 0.35": InpaintingOptions(steps=4, start=0.35),
    "ours, 4 steps from t = 0.2": InpaintingOptions(steps=4, start=0.2),
}


class Hole(NamedTuple):
    """A slice ``(256, 256)`` in [-1, 1] and the part of it that is removed."""

    key: str
    image: Slice
    mask: NDArray[np.bool_]
    phrases: tuple[str, ...]


def holes(dataset: Dataset, cases: list[str], phrases: tuple[str, ...], *, limit: int) -> Iterator[Hole]:
    """Up to ``limit`` holes, spread over the cases."""
    per_case = -(-limit // len(cases))
    for case in cases:
        query = prepare(dataset.load(case))
        rng = np.random.default_rng(int.from_bytes(case.encode()[-4:], "big"))
        organs = {organ: query.mask_slices(organ) for organ in ORGANS}
        places = [(o, int(i)) for o, masks in organs.items() for i in np.flatnonzero(masks.sum((1, 2)) > 600)]
        for n in rng.permutation(len(places))[:per_case]:
            organ, index = places[n]
            mask = ellipse_inside(organs[organ][index], rng)
            if mask is not None:
                yield Hole(f"{case}/{organ}/{index}", query.images[index], mask, (*phrases, "healthy"))


def ellipse_inside(organ: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_] | None:
    """A random ellipse that lies in an organ; None where there is no room."""
    depth = ndimage.distance_transform_edt(organ)
    radius = rng.uniform(RADIUS[0], min(RADIUS[1], max(float(depth.max()), RADIUS[0])))
    centers = np.argwhere(depth >= radius)
    if not len(centers):
        return None
    offsets = np.moveaxis(np.indices(organ.shape), 0, -1) - centers[rng.integers(len(centers))]
    axes = radius * np.array([1.0, rng.uniform(0.6, 1.0)])
    return np.asarray((((offsets / axes) ** 2).sum(-1) < 1) & organ)


def mean_fill(image: Slice, mask: NDArray[np.bool_]) -> Slice:
    """The mean of a ring around the hole."""
    ring = ndimage.binary_dilation(mask, iterations=4) & ~mask
    return np.where(mask, image[ring].mean(), image).astype(np.float32)


def figures_of(filled: Slice, hole: Hole, network: FeatureNetwork) -> dict[str, float]:
    """How well a hole was filled."""
    truth, inside = hole.image, hole.mask
    error = float(np.square(filled[inside] - truth[inside]).mean())
    slopes = [np.hypot(*np.gradient(image))[inside] for image in (filled, truth)]
    a, b, m = (torch.from_numpy(np.asarray(x, np.float32))[None, None] for x in (filled, truth, inside))
    return {
        "PSNR dB": 10 * float(np.log10(4 / max(error, 1e-9))),
        "gradient ratio": float(slopes[0].mean() / max(slopes[1].mean(), 1e-6)),
        "gradient Wasserstein": float(wasserstein_distance(*slopes)),
        "perceptual": float(perceptual_distance(network, a, b, inside=m)),
    }


def best_share(filled: list[Slice], smooth: list[Slice], found: list[Hole]) -> float:
    """Share of some fills, the rest being the smooth ones, with the least squared error in all holes."""
    changed, missing = (
        np.concatenate([(one - base)[hole.mask] for one, base, hole in zip(ones, smooth, found, strict=True)])
        for ones in (filled, [hole.image for hole in found])
    )
    return float((changed * missing).sum() / max(float(np.square(changed).sum()), 1e-9))


def fill_all(backbone: CompactBackbone, found: list[Hole]) -> dict[str, list[Slice]]:
    """Every way to fill every hole."""
    images = torch.from_numpy(np.stack([hole.image for hole in found]))[:, None]
    masks = torch.from_numpy(np.stack([hole.mask for hole in found]))[:, None].float()
    shaded = smooth_fill(images, masks)  # what is removed must not shine into its surroundings
    latents = backbone.encode(shaded)
    tokens = torch.cat([condition_tokens(torch.from_numpy(embed(hole.phrases))) for hole in found])
    keys = [hole.key for hole in found]
    out = {
        "decoded truth": list(paste(images, backbone.decode(backbone.encode(images)), masks)[:, 0].numpy()),
        "mean of a ring": [mean_fill(hole.image, hole.mask) for hole in found],
        "smooth fill": list(shaded[:, 0].numpy()),
        "as shown": list(continued(images, masks)[:, 0].numpy()),
        "membrane": list(membrane(images, masks)[:, 0].numpy()),
        "biharmonic": [inpaint_biharmonic(hole.image, hole.mask).astype(np.float32) for hole in found],
    }
    for name, options in VARIANTS.items():
        filled = inpaint(
            backbone, latents, pool_mask(masks, backbone.downscale), tokens, keys=keys, options=options
        )
        decoded = backbone.decode(filled).clamp(-1, 1)
        out[name] = list(paste(images, decoded, masks)[:, 0].numpy())
    return out


def membrane(images: Tensor, masks: Tensor) -> Tensor:
    """Push and pull that relaxes to a membrane, which is flat where a spline in tension has a slope."""
    with mock.patch.object(inpainting, "TENSION", 1.0):
        return smooth_fill(images, masks)


def montage(found: list[Hole], filled: dict[str, list[Slice]], path: Path, *, rows: int = 6) -> None:
    """Draw crops around the first holes: truth, hole, and each way to fill it."""
    names = ["truth", "hole", *filled]
    figure = Figure(figsize=(1.7 * len(names), 1.8 * rows), layout="constrained")
    axes = figure.subplots(rows, len(names))
    for i, (row, hole) in enumerate(zip(axes, found[:: max(len(found) // rows, 1)], strict=False)):
        index = found.index(hole) if i else 0
        r, c = (int(axis.mean()) for axis in np.nonzero(hole.mask))
        window = (slice(max(r - 40, 0), r + 40), slice(max(c - 40, 0), c + 40))
        shown = [
            hole.image,
            np.where(hole.mask, -1, hole.image),
            *(fills[index] for fills in filled.values()),
        ]
        for axis, name, image in zip(row, names, shown, strict=True):
            axis.imshow(image[window], cmap="gray", vmin=-1, vmax=1)
            axis.set_axis_off()
            if not i:
                axis.set_title(name, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def main() -> None:
    """Measure both data sets, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--backbone", type=Path, help="Folder of a model; the shipped one when left out.")
    parser.add_argument("--montage", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/inpainting.json"))
    options = parser.parse_args()
    folder = registry.resolve(options.backbone or "compact")
    backbone, network = CompactBackbone.from_folder(folder), load_feature_network()
    results: dict[str, dict[str, dict[str, float]]] = {}
    sets = {
        "SABS fold 0": (SABS, SABS.fold(0), ("CT", "abdomen")),
        "CHAOS": (CHAOS, CHAOS.present(), ("MR", "abdomen")),
    }
    for title, (dataset, cases, phrases) in sets.items():
        found = list(holes(dataset, cases, phrases, limit=options.limit))
        filled = fill_all(backbone, found)
        for name, fills in filled.items():
            sums: dict[str, list[float]] = defaultdict(list)
            for hole, image in zip(found, fills, strict=True):
                for what, value in figures_of(image, hole, network).items():
                    sums[what].append(value)
            figures = {what: round(float(np.mean(values)), 4) for what, values in sums.items()}
            figures["best share"] = round(best_share(fills, filled["smooth fill"], found), 3)
            results.setdefault(title, {})[name] = figures
            sys.stdout.write(f"| {title} | {name} | " + " | ".join(map(str, figures.values())) + " |\n")
        if options.montage and dataset is SABS:
            montage(found, filled, options.montage)
    weights = fingerprint([folder / "autoencoder.safetensors", folder / "denoiser.safetensors"])
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": weights, "holes": options.limit}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
