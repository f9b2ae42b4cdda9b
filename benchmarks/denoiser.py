"""Samples of the compact denoiser beside real slices: Frechet distance, nearest neighbors, a picture.

Usage: ``python benchmarks/denoiser.py [--count 300] [--pack runs/pack] [--grid FILE] [--output FILE]``;
data through ``LATENTSEG_DATA``.

Features: EfficientNet-Lite0 (ImageNet), pooled, in the first 64 principal components of the held-out slices.
Samples are asked for by what the training said of random slices of SABS. Held out: SABS cases 0-6, which
nothing was trained on. Floor: two halves of all SABS patients, mean over five splits. Ceiling: slices of the
phantom. Reconstructions of the held-out slices show the decoder's own share. A sample is a copy if its
nearest training slice is nearer than such neighbors are to held-out real slices.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from image_quality import Subspace, frechet_distance
from latentseg.backbones.base import Backbone
from latentseg.backbones.compact import condition_tokens
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import FeatureNetwork, load_feature_network
from latentseg.evaluation.datasets import SABS
from latentseg.evaluation.slices import prepare
from latentseg.imaging import fit_square, normalize, to_canonical
from latentseg.phantom.bodies import abdomen
from latentseg.text import embed
from latentseg.training.config import read_config
from latentseg.training.denoiser import DenoiserOptions, describe
from latentseg.training.pack import Pack
from plain_sampler import SamplingOptions, sample

ROWS = (
    ("CT", "abdomen"),
    ("CT", "abdomen", "healthy"),
    ("CT", "abdomen", "with tumor", "liver tumor"),
    ("CT", "thorax", "with tumor", "lung tumor"),
    ("MR", "brain", "healthy"),
    ("MR", "brain", "with tumor", "brain tumor"),
    (),
)
SETTINGS = ((10, 1.0), (25, 1.0), (25, 2.0))


def held_out() -> list[NDArray[np.float32]]:
    """Slices ``(S, 256, 256)`` of each SABS test patient that is here."""
    return [prepare(SABS.load(case)).images for case in SABS.fold(0)]


def training(folder: Path) -> list[NDArray[np.float32]]:
    """Slices of each SABS patient that was trained on."""
    packed = Pack(folder)
    scans = [scan for scan in packed.scans if scan.source == "sabs"]
    return [packed.images[s.first : s.first + s.count].astype(np.float32) / 127.5 - 1 for s in scans]


def phantoms(count: int) -> NDArray[np.float32]:
    """Slices of procedural abdomens."""
    out: list[NDArray[np.float32]] = []
    while sum(map(len, out)) < count:
        canonical = to_canonical(abdomen(seed=100 + len(out), shape=(192, 192, 24)).image)
        values = normalize(canonical.slices, modality="CT")
        out.append(fit_square(values, 256, pixel_mm=canonical.spacing_mm[1:])[0])
    return np.concatenate(out)[:count]


def pick(slices: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Evenly spread slices."""
    return slices[np.linspace(0, len(slices) - 1, min(count, len(slices))).round().astype(int)]


def features(network: FeatureNetwork, slices: NDArray[np.float32] | Tensor) -> NDArray[np.float32]:
    """Pooled features ``(N, 1280)`` of slices ``(N, 256, 256)``."""
    images = torch.as_tensor(slices)[:, None].clamp(-1, 1)
    return torch.cat([network.pooled(slab) for slab in images.split(16)]).numpy()


def draw(backbone: Backbone, asked: list[tuple[str, ...]], options: SamplingOptions) -> Tensor:
    """Decoded samples ``(N, 256, 256)``, one for each tuple of phrases."""
    nothing = torch.zeros(0, backbone.condition_dim)
    vectors = [torch.from_numpy(embed(phrases)) if phrases else nothing for phrases in asked]
    tokens = torch.cat([condition_tokens(one) for one in vectors])
    keys = [f"{'/'.join(phrases)}/{i}" for i, phrases in enumerate(asked)]
    return backbone.decode(sample(backbone, tokens, keys=keys, options=options))[:, 0].clamp(-1, 1)


def descriptions(folder: Path, config: Path, count: int) -> list[tuple[str, ...]]:
    """What the training said of random slices of SABS: modality, region, a structure that is there."""
    packed, rng = Pack(folder), np.random.default_rng(0)
    told = describe(packed, read_config(config, DenoiserOptions))
    rows = [s.first + i for s in packed.scans if s.source == "sabs" for i in range(s.count)]
    return [
        (*one.always, *(rng.choice(one.structures, 1).tolist() if one.structures else ()))
        for one in (told[row] for row in rng.choice(rows, count))
    ]


def floor(parts: list[NDArray[np.float32]], space: Subspace, count: int) -> float:
    """Distance between halves of the patients, given the features of each."""
    distances = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(parts))
        halves = [np.concatenate([parts[i] for i in order[k::2]]) for k in (0, 1)]
        a, b = (space.project(pick(half, count)) for half in halves)
        distances.append(frechet_distance(a, b))
    return float(np.mean(distances))


def nearest(features_of: NDArray[np.float64], references: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance from each row to its nearest reference."""
    squares = (features_of**2).sum(1)[:, None] + (references**2).sum(1) - 2 * features_of @ references.T
    return np.sqrt(squares.min(1).clip(0))


def show(backbone: Backbone, path: Path, *, columns: int = 8) -> None:
    """Draw a picture of samples, one condition a row."""
    figure = Figure(figsize=(1.5 * columns, 1.6 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), columns)
    for row, phrases in zip(axes, ROWS, strict=True):
        drawn = draw(backbone, [phrases] * columns, SamplingOptions(steps=25))
        for axis, image in zip(row, drawn, strict=True):
            axis.imshow(image, cmap="gray", vmin=-1, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        row[0].set_title(", ".join(phrases) or "unconditional", fontsize=7, loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def measure(backbone: Backbone, pack_folder: Path, asked: list[tuple[str, ...]]) -> dict[str, float]:
    """All figures, for as many samples as there are descriptions."""
    count = len(asked)
    network = load_feature_network()
    test, train = held_out(), training(pack_folder)
    of_test = [features(network, part) for part in test]
    of_train = [features(network, pick(part, 60)) for part in train]
    space = Subspace.of(np.concatenate(of_test))
    reference = space.project(pick(np.concatenate(of_test), count))
    real = pick(np.concatenate(test), count)
    decoded = backbone.decode(backbone.encode(torch.from_numpy(real)[:, None]))[:, 0]
    figures = {
        "floor: halves of the patients": floor([*of_test, *of_train], space, count),
        "training patients": frechet_distance(
            space.project(pick(np.concatenate(of_train), count)), reference
        ),
        "reconstructions": frechet_distance(space.project(features(network, decoded)), reference),
        "ceiling: phantom": frechet_distance(space.project(features(network, phantoms(count))), reference),
    }
    known = space.project(np.concatenate(of_train))
    figures["nearest training slice of a held-out slice"] = float(np.median(nearest(reference, known)))
    for steps, guidance in SETTINGS:
        drawn = draw(backbone, asked, SamplingOptions(steps=steps, guidance=guidance))
        of_drawn = space.project(features(network, drawn))
        name = f"samples, {steps} steps, guidance {guidance:g}"
        figures[name] = frechet_distance(of_drawn, reference)
        if (steps, guidance) == (25, 1.0):
            figures["nearest training slice of a sample"] = float(np.median(nearest(of_drawn, known)))
    return figures


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--pack", type=Path, default=Path("runs/pack"))
    parser.add_argument("--config", type=Path, default=Path("configs/denoiser.yaml"))
    parser.add_argument("--backbone", help="Folder of a model; the shipped one when left out.", type=Path)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/denoiser.json"))
    options = parser.parse_args()
    from latentseg.backbones import registry
    from latentseg.backbones.compact import CompactBackbone

    folder = registry.resolve(options.backbone or "compact")
    backbone = CompactBackbone.from_folder(folder)
    if options.grid:
        show(backbone, options.grid)
    asked = descriptions(options.pack, options.config, options.count)
    figures = measure(backbone, options.pack, asked)
    for what, value in figures.items():
        sys.stdout.write(f"| {what} | {value:.2f} |\n")
    weights = fingerprint([folder / "autoencoder.safetensors", folder / "denoiser.safetensors"])
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": weights, "count": options.count}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
