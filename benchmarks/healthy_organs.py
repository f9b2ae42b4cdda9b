"""Whether what is unlike the healthy tissue of an organ adds to a map of its tumors.

Not of the paper; ours. Healthy tissue is the mean and the covariance of features of the frozen network for
photographs within outlined livers of healthy people (SABS 7-18), and a position is as unlike it as its
Mahalanobis distance says (PaDiM, Defard et al. 2021), compared with the rest of the liver in the same scan.
No map and no tumor decides it.

Usage: ``python benchmarks/healthy_organs.py --pack PACK [--held-out PACK] [--output FILE]``, packs of
``configs/pack-abdomen.yaml`` and of ``configs/pack-real.yaml --held-out``; data through ``LATENTSEG_DATA``,
with the ``liver_slices`` that ``liver_slices.py`` makes.

Asked are masses of livers (MSD Task03, outlined by a rule that finds dark ones) by weights that saw no
tumor of a liver (``weights/zero-shot``), and lesions that are planted in the livers of people whom no
training saw (SABS 0-6, ``--held-out``) by these and the shipped weights. Dice of the mask, whatever its
score: of the map alone, with healthy tissue beside it, and with two controls in its place, the best of four
weights of each: how deep in the organ a position lies, which looks at no tissue, and how far its grey value
is from the organ's median. Means over slices; an interval by bootstrap over the differences to the map.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import latentseg as ls
from latentseg.backbones import registry
from latentseg.backbones.grids import on_grid
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read, read_labels
from latentseg.methods.tumor import beside_map
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.networks import PreparedScan, TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention
from latentseg.metrics.overlap import dice
from latentseg.training.pack import Pack
from residual_fusion import abdomens, planted

ZERO_SHOT = Path(__file__).parent / "weights" / "zero-shot"
ORGAN, PROMPT = "liver", "liver tumor"
MASS = 2  # in the labels of liver_slices
WEIGHT = 0.5  # of healthy tissue, chosen on lesions planted in SABS 16-18, NIH 45-48, by tissue without them
WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # of the controls, whose values have a spread of 1 too
EVERY, DRAWS = 8, 2000

SHOWN = (1, 2)  # of the maps for photographs: textures of 1/4 and 1/8 of the image
GRID = 64
WITHIN = 0.7  # of a cell, from which on it is taken for the organ
SLICES = 24  # of a healthy scan, at most, evenly spread
SHRUNK = 0.1  # of the mean variance, added to each
FLOOR = 1e-3  # of a distance, before its logarithm
CLOSED = 4  # cells, up to which what an organ lacks is taken for a lesion in it
LIMIT = 4.0  # spreads, beyond which nothing is more unlike

Mask = NDArray[np.bool_]
Compare = Callable[[torch.Tensor, Mask], torch.Tensor]
"""How unlike the rest of the organ ``(S, 1, H, W)``, ``(S, 64, 64)``; ``(S, 64, 64)`` in spreads."""


class Tissue(NamedTuple):
    """Healthy tissue of one organ.

    Attributes:
        mean: ``(D,)``, of the features.
        axes: ``(D, D)``, that bring deviations from it to a variance of 1 each.
        spread: Of the logarithm of the distance, over the organ of one healthy person.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, people: Sequence[tuple[torch.Tensor, Mask]]) -> Tissue:
        """Fit it to features ``(S, D, h, w)`` of healthy people and masks ``(S, h, w)`` of their organ."""
        cells = torch.cat([features.movedim(1, -1)[torch.from_numpy(mask)] for features, mask in people])
        variances, axes = torch.linalg.eigh(torch.cov(cells.double().T))
        whitened = axes / (variances + SHRUNK * variances.mean()).sqrt()
        fitted = cls(cells.mean(0), whitened.float(), torch.ones(()))
        deviations = [fitted.compared(*one)[torch.from_numpy(one[1])] for one in people]
        return fitted._replace(spread=torch.cat(deviations).std())

    def compared(self, features: torch.Tensor, inside: Mask) -> torch.Tensor:
        """Spreads ``(S, h, w)`` that features ``(S, D, h, w)`` lie beyond the median of the organ."""
        apart = (features.movedim(1, -1) - self.mean) @ self.axes
        far = (apart.square().mean(-1) + FLOOR).log()[:, None]
        far = F.avg_pool2d(far, 3, stride=1, padding=1, count_include_pad=False)[:, 0]
        return (far - far[torch.from_numpy(inside)].median()) / self.spread


def organ_features(network: FeatureNetwork, images: torch.Tensor) -> torch.Tensor:
    """Features ``(S, D, 64, 64)`` of slices ``(S, 1, H, W)`` in [-1, 1], of each map of length 1."""
    maps = network.maps(images)
    return torch.cat([F.normalize(on_grid(maps[shown], GRID), dim=1) for shown in SHOWN], 1)


def healthy_liver(packed: Pack, network: FeatureNetwork) -> Tissue:
    """Healthy tissue of the livers that are outlined in a pack."""
    people = []
    for scan in (scan for scan in packed.scans if scan.source == "sabs"):
        rows = scan.first + np.unique(np.linspace(0, scan.count - 1, SLICES).astype(int))
        own = [label for label, name in scan.labels.items() if name == ORGAN]
        share = np.isin(packed.labels[rows], own).astype(np.float32)
        mask = (on_grid(torch.from_numpy(share)[:, None], GRID)[:, 0] >= WITHIN).numpy()
        images = denoised(packed.images[rows].astype(np.float32) / 127.5 - 1)
        people.append((organ_features(network, torch.from_numpy(images)[:, None]), mask))
    return Tissue.of(people)


def unlike(tissue: Tissue, network: FeatureNetwork) -> Compare:
    """How unlike healthy tissue a position is."""
    return lambda images, inside: tissue.compared(organ_features(network, images), inside)


def deep(images: torch.Tensor, inside: Mask) -> torch.Tensor:
    """How deep in the organ a position lies."""
    del images
    depth = np.stack([ndimage.distance_transform_edt(one) for one in inside])
    return standardized(torch.from_numpy(depth.astype(np.float32)), inside)


def grey(images: torch.Tensor, inside: Mask) -> torch.Tensor:
    """How far a grey value is from the organ's median."""
    values = on_grid(images, GRID)[:, 0]
    return standardized((values - values[torch.from_numpy(inside)].median()).abs(), inside)


def standardized(values: torch.Tensor, inside: Mask) -> torch.Tensor:
    """Values with a median of 0 and a spread of 1 within a mask."""
    own = values[torch.from_numpy(inside)]
    return (values - own.median()) / own.std().clamp(min=1e-6)


def filled(organ: Mask) -> Mask:
    """An organ ``(h, w)`` without gaps, as a lesion is not seen as organ."""
    closed = ndimage.binary_closing(np.pad(organ, CLOSED), iterations=CLOSED)
    return np.asarray(ndimage.binary_fill_holes(closed[CLOSED:-CLOSED, CLOSED:-CLOSED]))


class Beside(NamedTuple):
    """Evidence beside the map, as the method adds it up (:mod:`latentseg.methods.tumor.beside_map`)."""

    compare: Compare
    weight: float

    def __call__(
        self, attention: Attention, prepared: PreparedScan, found: SliceAttention, slices: NDArray[np.intp]
    ) -> torch.Tensor | None:
        """What is added to the log-odds ``(S, 1, h, w)``."""
        del attention
        inside = prepared.inside(found.query.prompt.organ)
        if inside is None or not self.weight:
            return None
        region = np.stack([filled(one) for one in inside[slices]])
        added = torch.zeros(len(prepared.images), 1, GRID, GRID)
        if region.any():
            rows = torch.from_numpy(slices)
            spreads = self.compare(prepared.images[rows], region).clamp(-LIMIT, LIMIT)
            added[rows] = (self.weight * spreads * torch.from_numpy(region))[:, None]
        return added


class Case(NamedTuple):
    """A slice with its tumor."""

    scan: Volume
    truth: Mask


def masses() -> Iterator[Case]:
    """Slices of livers with masses that a rule outlines."""
    for path in sorted((data_root() / "liver_slices" / "tumor").glob("*_label.png")):
        scan = read(path.with_name(path.name.replace("_label", "")), modality="CT")
        yield Case(scan, read_labels(path, like=scan).array == MASS)


def lesions(packed: Pack) -> Iterator[Case]:
    """Slices of the livers of held-out people with a lesion planted in each."""
    rng = np.random.default_rng(0)
    livers = (one for one in abdomens(packed, ("sabs",), every=EVERY) if one.organ == ORGAN)
    with tempfile.TemporaryDirectory() as folder:
        path, label = Path(folder) / "slice.png", Path(folder) / "slice_label.png"
        for ill in (planted(one, rng) for one in livers):
            if ill.tumor.any():
                Image.fromarray(((ill.image + 1) * 127.5).round().clip(0, 255).astype(np.uint8)).save(path)
                Image.fromarray(ill.tumor.astype(np.uint8)).save(label)
                scan = read(path, modality="CT")
                yield Case(scan, read_labels(label, like=scan).array > 0)


def dices(networks: TumorNetworks, cases: Sequence[Case], kinds: Sequence[Beside]) -> NDArray[np.float64]:
    """Dice in per cent, a row for each kind of evidence."""
    segmenter = TumorSegmenter(networks, options=replace(RECOMMENDED, min_presence=0.0))
    rows, own = [], beside_map.KINDS
    for case in cases:
        prepared, row = segmenter.prepare(case.scan), []
        for kind in kinds:
            beside_map.KINDS = (*own, kind)  # type: ignore[assignment]
            row.append(100 * dice(segmenter.predict(prepared, PROMPT).mask, case.truth))
        rows.append(row)
    beside_map.KINDS = own
    return np.array(rows).T


def measured(networks: TumorNetworks, cases: Sequence[Case], healthy: Compare) -> dict[str, object]:
    """Dice of the map alone, with healthy tissue, and with the controls."""
    controls = {"depth": deep, "grey": grey}
    kinds = [Beside(deep, 0.0), Beside(healthy, WEIGHT)]
    kinds += [Beside(control, weight) for control in controls.values() for weight in WEIGHTS]
    map_alone, with_tissue, *others = dices(networks, cases, kinds)
    gains = with_tissue - map_alone
    drawn = np.random.default_rng(0).choice(gains, (DRAWS, len(gains))).mean(1)
    figures: dict[str, object] = {
        "slices": len(cases),
        "map": round(float(map_alone.mean()), 1),
        "map and healthy tissue": round(float(with_tissue.mean()), 1),
        "gain, 95 % interval": [round(float(end), 1) for end in np.percentile(drawn, [2.5, 97.5])],
    }
    for at, name in enumerate(controls):
        means = [float(one.mean()) for one in others[at * len(WEIGHTS) :][: len(WEIGHTS)]]
        figures[f"map and {name}, best weight"] = [round(max(means), 1), WEIGHTS[int(np.argmax(means))]]
    return figures


def main() -> None:
    """Fit, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--held-out", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/healthy_organs.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = read_feature_network(registry.resolve("compact") / "matching.safetensors")
    healthy = unlike(healthy_liver(Pack(options.pack), network), network)
    zero_shot, shipped = ls.load("tumor", weights=ZERO_SHOT), ls.load("tumor")
    results: dict[str, object] = {
        "date": datetime.now(UTC).date().isoformat(),
        "zero-shot weights": zero_shot.fingerprint,
        "weights": shipped.fingerprint,
        "masses, zero-shot": measured(zero_shot.networks, list(masses()), healthy),
    }
    if options.held_out:
        cases = list(lesions(Pack(options.held_out)))
        results["planted, zero-shot"] = measured(zero_shot.networks, cases, healthy)
        results["planted, shipped"] = measured(shipped.networks, cases, healthy)
    for name, figures in results.items():
        sys.stdout.write(f"{name}: {figures}\n")
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
