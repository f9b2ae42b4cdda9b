"""Whether residuals against healthy tissue add to the map: on cells, and where they reject parts of a mask.

Usage: ``python benchmarks/residual_fusion.py --bank FILE --pack PACK --held-out PACK --lungs PACK
[--only lung] [--limit 150] [--output FILE]``; data through ``LATENTSEG_DATA``.

A logistic regression of the map, of residuals and of a control that needs no healthy image, the distance to
the border of what the map marks, is fitted on slices of the training and asked on slices of patients that
were held out. Residuals are those of ``residual_evidence.py`` that no map decides: against retrieved
healthy cells, in features and in grey values, and against a smooth fill of patches that take turns. Cells
are eight pixels wide; AUC is of tumor against the rest of brain or lungs, mean over slices with a tumor.
Parts are those of the mask that the map alone draws; one is a tumor where a tenth of the union is shared;
those whose chance is below the level that is best on the training are let go, and Dice is that of the mask
that is left.

* brain: packs of ``configs/pack-real.yaml``, ``brain-tumor`` and ``brain-healthy``.
* lung: the pack of ``configs/pack-lung.yaml``; held out are the slices with a tumor, and every fourth of the
  others, of LIDC-IDRI 0001 to 0003 and 4D-Lung 113.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

import latentseg as ls
from healthy_tissue import (
    Cells,
    HealthyBank,
    body_mask,
    cell_features,
    complementary_holes,
    filled_smoothly,
    grid_places,
    load_bank,
    prepared,
    pseudo_healthy,
)
from latentseg.backbones import registry
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import read_feature_network
from latentseg.imaging.intensity import Modality
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.lung_field import lung_field
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.metrics.overlap import dice
from latentseg.training.pack import Pack
from residual_evidence import auc, cells, on_cells
from tumor_volumes import chests

EDGE, FOUND, LUNG_CELLS = 48, 0.1, 20000
TOUCHING = np.ones((3, 3))
MODELS = {
    "map": (0,),
    "map and distance": (0, 1),
    "map and residuals": (0, 2, 3, 4),
    "map, distance and residuals": (0, 1, 2, 3, 4),
}
"""Columns: map, distance, and the residuals by retrieved features, by retrieved grey values, by a fill."""

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Slice(NamedTuple):
    """A slice ``(256, 256)`` as the networks see it, its tumor, and the organ that it is looked for in."""

    image: NDArray[np.float32]
    tumor: Mask
    region: Mask


class Seen(NamedTuple):
    """A slice on cells: columns ``(32, 32, 5)``, tumor, region; its parts on pixels, and their columns."""

    columns: Array
    tumor: Mask
    rest: Mask
    truth: Mask
    parts: NDArray[np.int32]
    of_parts: Array
    true: Mask


def brains(packed: Pack, source: str) -> Iterator[Slice]:
    """Slices of a data set of a pack, cut to the head."""
    for scan in (scan for scan in packed.scans if scan.source == source):
        for index in range(scan.first, scan.first + scan.count):
            at = slice(index, index + 1)
            ill = np.isin(packed.labels[at], list(scan.labels)) if source == "brain-tumor" else None
            masks = np.zeros(packed.labels[at].shape, bool) if ill is None else ill
            images, marks = prepared(packed.images[at], masks, "MR")
            image, mask = images[0, 0].numpy(), marks[0, 0].numpy()
            yield Slice(image, mask, body_mask(image) | mask)


def lungs(packed: Pack, sources: Sequence[str]) -> Iterator[Slice]:
    """Slices of some data sets of a pack of lungs."""
    for scan in (scan for scan in packed.scans if scan.source in sources):
        tumors = [label for label, name in scan.labels.items() if name == "lung_tumor"]
        for index in range(scan.first, scan.first + scan.count):
            labels = packed.labels[index]
            image = denoised(packed.images[index][None].astype(np.float32) / 127.5 - 1)[0]
            yield Slice(image, np.isin(labels, tumors), ndimage.binary_closing(labels > 0, iterations=2))


def held_out_lungs() -> Iterator[Slice]:
    """Slices of the four chests that are stored in HU with outlines."""
    for scan in islice(chests(), 4):
        field = lung_field(scan.image, 256)
        if field is None or scan.truth is None:
            continue
        tumor = field.fitted(field.seen.canonical.apply(scan.truth)).astype(bool)
        for k, image in enumerate(denoised(field.seen.images)):
            if tumor[k].any() or (k % 4 == 0 and field.inside[k].mean() > 0.1):
                yield Slice(image, tumor[k], field.inside[k] | tumor[k])


class Bench:
    """Maps and residuals of slices of one kind of tumor."""

    def __init__(
        self, networks: TumorNetworks, bank: HealthyBank, group: str, prompt: str, modality: Modality
    ) -> None:
        self.networks, self.bank, self.group = networks, bank, group
        self.query, self.modality = networks.queries(prompt, modality), modality
        self.photographs = read_feature_network(registry.resolve("compact") / "matching.safetensors")

    @torch.no_grad()
    def seen(self, one: Slice) -> Seen:
        """Everything about a slice."""
        image, networks = torch.from_numpy(one.image)[None, None], self.networks
        stages = networks.stages(image)
        away = networks.network.distances(stages, self.query.prompt.organ)
        if away is None:
            far = ndimage.distance_transform_edt(~one.region) / one.region.shape[1]
            away = torch.from_numpy(far.clip(max=1).astype(np.float32))[None, None]
        near = resized(away, stages[0].shape[2:])
        maps = networks.network.attention(stages, self.query.texts, away=near)
        log_odds = resized(maps.margin, image.shape[2:])
        cut = leveled(log_odds, np.array([0]), level=RECOMMENDED.level)[0, 0].numpy() >= 0
        border = ndimage.distance_transform_edt(cut) - ndimage.distance_transform_edt(~cut)
        residuals = self.residuals(image, one)
        columns = np.stack([on_cells(log_odds[0, 0].numpy()), on_cells(border), *residuals], -1)
        region, tumor = cells(one.region), cells(one.tumor)
        columns[..., 2:] -= np.median(columns[region][:, 2:], 0) if region.any() else 0
        parts, count = ndimage.label(cut & one.region, TOUCHING)
        fine = columns.repeat(8, 0).repeat(8, 1)
        of_parts = np.array([fine[parts == n].mean(0) for n in range(1, count + 1)]).reshape(count, 5)
        shared = [self.shared(parts == n, one.tumor) for n in range(1, count + 1)]
        rest = region & (on_cells(one.tumor.astype(np.float32)) == 0)
        return Seen(columns, tumor, rest, one.tumor, parts, of_parts, np.array(shared, bool))

    @staticmethod
    def shared(part: Mask, tumor: Mask) -> bool:
        """Whether a part is the tumor, or one of several."""
        labels, _ = ndimage.label(tumor, TOUCHING)
        own = np.isin(labels, np.unique(labels[part])) & tumor
        return bool((part & own).sum() >= FOUND * (part | own).sum())

    def residuals(self, image: torch.Tensor, one: Slice) -> list[NDArray[np.float32]]:
        """Three residuals on cells."""
        found = self.bank.compare(cell_features(self.photographs, image), self.group)
        backbone = self.networks.backbone
        decoded = backbone.decode(backbone.encode(image))
        change = (decoded - pseudo_healthy(backbone, found)).abs()[0, 0].numpy()
        holes = torch.from_numpy(complementary_holes(one.region, edge=EDGE)).float()[:, None]
        filled = (image - filled_smoothly(image, holes)).abs()[0, 0].numpy()
        return [found.distance[0, 0].numpy(), on_cells(change), on_cells(filled)]


@torch.no_grad()
def lung_bank(networks: TumorNetworks, axes: HealthyBank, slices: Sequence[Slice]) -> HealthyBank:
    """Cells of healthy lungs, on the principal axes of another bank."""
    photographs = read_feature_network(registry.resolve("compact") / "matching.safetensors")
    slabs = []
    for one in slices:
        image, inside = torch.from_numpy(one.image)[None, None], torch.from_numpy(cells(one.region))
        features = cell_features(photographs, image)[0].movedim(0, -1)[inside]
        latents = networks.backbone.encode(image)[0].movedim(0, -1)[inside]
        places = grid_places(len(inside)).view(*inside.shape, 2)[inside]
        slabs.append(Cells(axes.projected(features), places, latents))
    every = Cells(*(torch.cat(parts) for parts in zip(*slabs, strict=True)))
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(every.places))[:LUNG_CELLS])
    return HealthyBank({"CT lung": Cells(*(part[chosen] for part in every))}, axes.axes, axes.center)


def fitted(columns: Array, truth: Mask) -> LogisticRegression:
    """A regression of standardized columns."""
    mean, scale = columns.mean(0), columns.std(0) + 1e-6
    model = LogisticRegression(class_weight="balanced", max_iter=1000)
    model.fit((columns - mean) / scale, truth)
    model.coef_ = model.coef_ / scale
    model.intercept_ = model.intercept_ - model.coef_ @ mean
    return model


def kept(one: Seen, chance: Array, level: float) -> Mask:
    """The mask without the parts of low chance."""
    return np.asarray(np.r_[False, chance >= level][one.parts])


def mean_dice(slices: Sequence[Seen], chances: Sequence[Array], level: float) -> float:
    """Mean over slices, healthy ones among them."""
    pairs = zip(slices, chances, strict=True)
    return float(np.mean([dice(kept(one, chance, level), one.truth) for one, chance in pairs]))


def row_of(train: Sequence[Seen], test: Sequence[Seen], columns: Sequence[int]) -> dict[str, float]:
    """What some columns are worth."""
    use = list(columns)
    cell = fitted(
        np.concatenate([one.columns[one.tumor | one.rest][:, use] for one in train]),
        np.concatenate([one.tumor[one.tumor | one.rest] for one in train]),
    )
    areas = [
        auc(cell.decision_function(one.columns.reshape(-1, 5)[:, use]).reshape(32, 32), one.tumor, one.rest)
        for one in test
        if one.tumor.any() and one.rest.any()
    ]
    part = fitted(
        np.concatenate([one.of_parts[:, use] for one in train]), np.concatenate([one.true for one in train])
    )

    def chances(slices: Sequence[Seen]) -> list[Array]:
        return [
            part.predict_proba(one.of_parts[:, use])[:, 1] if len(one.true) else np.zeros(0) for one in slices
        ]

    own, other = chances(train), chances(test)
    level = max(np.linspace(0, 0.95, 20), key=lambda at: mean_dice(train, own, at))
    true = np.concatenate([one.true for one in test])
    scores = np.concatenate(other)
    return {
        "AUC of cells": round(float(np.mean(areas)), 4),
        "AUC of parts": round(auc(scores.astype(np.float32), true, ~true), 4),
        "Dice": round(mean_dice(test, other, level), 4),
        "Dice, nothing rejected": round(mean_dice(test, other, 0.0), 4),
        "level": round(float(level), 2),
    }


def thinned(slices: Iterator[Slice], limit: int) -> list[Slice]:
    """At most so many, evenly spread."""
    every = list(slices)
    return every[:: -(-len(every) // limit)] if every else []


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--bank", "--pack", "--held-out", "--lungs"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--only", default="brain,lung")
    parser.add_argument("--limit", type=int, default=150)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/residual_fusion.json"))
    options = parser.parse_args()
    networks, bank = ls.load("tumor").networks, load_bank(options.bank)
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": networks.fingerprint}
    results: dict[str, object] = {**about, "bank": fingerprint([options.bank])}
    for organ in options.only.split(","):
        if organ == "brain":
            packed, other = Pack(options.pack), Pack(options.held_out)
            train = thinned(brains(packed, "brain-tumor"), options.limit)
            train += thinned(brains(packed, "brain-healthy"), options.limit // 5)
            test = thinned(brains(other, "brain-tumor"), options.limit)
            bench = Bench(networks, bank, "MR brain", "brain tumor", "MR")
        else:
            packed, own = Pack(options.lungs), networks.alone["lung"]
            train = thinned(lungs(packed, ("nodule-slices", "mass-slices")), options.limit)
            healthy = thinned(lungs(packed, ("chest-normal", "clear-slices")), options.limit)
            test = thinned(held_out_lungs(), options.limit)
            cells_of = lung_bank(own, bank, healthy[::2])
            train += healthy[1::2]
            bench = Bench(own, cells_of, "CT lung", "lung tumor", "CT")
        sides = [[bench.seen(one) for one in side] for side in (train, test)]
        rows = {name: row_of(sides[0], sides[1], columns) for name, columns in MODELS.items()}
        counts = {
            "training slices": len(train),
            "slices": len(test),
            "with a tumor": sum(one.tumor.any() for one in test),
        }
        results[organ] = {**{name: int(n) for name, n in counts.items()}, **rows}
        for name, row in rows.items():
            sys.stdout.write(f"| {organ} | {name} | " + " | ".join(map(str, row.values())) + " |\n")
        sys.stdout.flush()
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
