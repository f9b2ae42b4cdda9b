"""Whether residuals against healthy tissue add to the map: on cells, and where they reject parts of a mask.

Usage: ``python benchmarks/residual_fusion.py --bank FILE --heads PACK --lungs PACK --abdomens PACK
--held-out PACK --held-out-abdomens PACK [--only lung] [--samples 750] [--limit 60] [--kept FOLDER]
[--output FILE]``; data through ``LATENTSEG_DATA``.

A logistic regression of the map, of residuals and of a control that needs no healthy image, the distance to
the border of what the map marks, is fitted on samples of the training and asked on slices of patients that
were held out: one for each part of the body, and one for all of them. Samples are slices with an outlined
tumor, healthy ones, and those with a lesion planted in them. Residuals are those of
``residual_evidence.py`` that no map decides: against retrieved healthy cells
and against a smooth fill of patches that take turns. Cells are eight pixels wide; AUC is of tumor against the
rest of the organ, mean over slices with a tumor. Parts are those of the mask that the map alone draws; one is
a tumor where a tenth of the union is shared; those whose chance is below the level that is best on the
training are let go, and Dice is that of the mask that is left.

* brain: the pack of ``configs/pack-head.yaml``, held out ``brain-tumor`` of ``configs/pack-real.yaml``.
* lung: the pack of ``configs/pack-lung.yaml``; held out are the slices with a tumor, and every fourth of the
  others, of LIDC-IDRI 0001 to 0003 and 4D-Lung 113.
* abdomen, CT: liver, kidneys and pancreas of ``sabs`` in the pack of ``configs/pack-abdomen.yaml``, and its
  outlined livers; held out are SABS 0 to 6 with a lesion planted in every second slice.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from collections.abc import Iterable, Iterator, Sequence
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
    RetrievalOptions,
    body_mask,
    cell_features,
    complementary_holes,
    filled_smoothly,
    grid_places,
    load_bank,
    nearest,
    prepared,
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
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.tumor.lesions import LesionOptions, add_lesion
from residual_evidence import auc, cells, on_cells
from tumor_volumes import chests

EDGE, FOUND, LUNG_CELLS = 48, 0.1, 20000
SMALLEST = 400  # pixels of an organ that is looked at
DEEP = {"brain": 25, "lung": 1, "liver": 3, "kidney": 3, "pancreas": 1}
"""Pixels from the border of a region, from which on lesions are planted; a head has a skull."""

SOLID = LesionOptions(solid=(0.0, 0.6))  # lungs are seen in their own window
PARTS = {"liver": ("liver",), "kidney": ("kidney_right", "kidney_left"), "pancreas": ("pancreas",)}
TOUCHING = np.ones((3, 3))
MODELS = {
    "map": (0,),
    "map and distance": (0, 1),
    "map and residuals": (0, 2, 3),
    "map, distance and residuals": (0, 1, 2, 3),
}
"""Columns: map, distance, and the residuals against retrieved cells and against a fill."""

COLUMNS = 4

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Slice(NamedTuple):
    """A slice ``(256, 256)`` as the networks see it, its tumor, and the organ that it is looked for in."""

    image: NDArray[np.float32]
    tumor: Mask
    region: Mask
    organ: str


class Seen(NamedTuple):
    """A slice on cells: columns ``(32, 32, 4)``, tumor, region; its parts on pixels, and their columns."""

    columns: Array
    tumor: Mask
    rest: Mask
    truth: Mask
    parts: NDArray[np.int32]
    of_parts: Array
    true: Mask


def brains(packed: Pack, source: str, *, every: int = 1) -> Iterator[Slice]:
    """Slices of a data set of a pack, cut to the head."""
    for scan in (scan for scan in packed.scans if scan.source == source):
        for index in rows_of(scan, every):
            at = slice(index, index + 1)
            ill = np.isin(packed.labels[at], list(scan.labels)) if source == "brain-tumor" else None
            masks = np.zeros(packed.labels[at].shape, bool) if ill is None else ill
            images, marks = prepared(packed.images[at], masks, "MR")
            image, mask = images[0, 0].numpy(), marks[0, 0].numpy()
            yield Slice(image, mask, body_mask(image) | mask, "brain")


def lungs(packed: Pack, sources: Sequence[str]) -> Iterator[Slice]:
    """Slices of some data sets of a pack of lungs."""
    for scan in (scan for scan in packed.scans if scan.source in sources):
        tumors = [label for label, name in scan.labels.items() if name == "lung_tumor"]
        for index in range(scan.first, scan.first + scan.count):
            labels = packed.labels[index]
            image = denoised(packed.images[index][None].astype(np.float32) / 127.5 - 1)[0]
            region = ndimage.binary_closing(labels > 0, iterations=2)
            yield Slice(image, np.isin(labels, tumors), region, "lung")


def rows_of(scan: PackedScan, every: int) -> list[int]:
    """Rows of a scan in a pack whose number is a multiple of ``every``."""
    return [index for index in range(scan.first, scan.first + scan.count) if index % every == 0]


def abdomens(packed: Pack, sources: Sequence[str], *, every: int = 1) -> Iterator[Slice]:
    """Slices of some data sets of abdomens, each with one of the organs that it shows, in turn."""
    for scan in (scan for scan in packed.scans if scan.source in sources):
        labels = {name: label for label, name in scan.labels.items()}
        tumors = [label for name, label in labels.items() if name.endswith("_tumor")]
        for index in rows_of(scan, every):
            drawn = np.asarray(packed.labels[index])
            shown = {organ: np.isin(drawn, [labels[part] for part in parts if part in labels])
                     for organ, parts in PARTS.items()}  # fmt: skip
            shown = {organ: inside for organ, inside in shown.items() if inside.sum() >= SMALLEST}
            if not shown:
                continue
            organ = sorted(shown)[index // every % len(shown)]
            tumor = np.isin(drawn, tumors)
            images, marks = prepared(
                np.stack(2 * [packed.images[index]]), np.stack([shown[organ] | tumor, tumor]), "CT"
            )
            yield Slice(images[0, 0].numpy(), marks[1, 0].numpy(), marks[0, 0].numpy(), organ)


def held_out_lungs() -> Iterator[Slice]:
    """Slices of the four chests that are stored in HU with outlines."""
    for scan in islice(chests(), 4):
        field = lung_field(scan.image, 256)
        if field is None or scan.truth is None:
            continue
        tumor = field.fitted(field.seen.canonical.apply(scan.truth)).astype(bool)
        for k, image in enumerate(denoised(field.seen.images)):
            if tumor[k].any() or (k % 4 == 0 and field.inside[k].mean() > 0.1):
                yield Slice(image, tumor[k], field.inside[k] | tumor[k], "lung")


def planted(one: Slice, rng: np.random.Generator) -> Slice:
    """A healthy slice with a lesion in its organ."""
    inside = ndimage.binary_erosion(one.region, iterations=DEEP[one.organ])
    room = ndimage.binary_erosion(one.region, iterations=max(1, DEEP[one.organ] // 2))
    lesion = add_lesion(one.image, inside, rng, room=room, options=SOLID if one.organ == "lung" else None)
    return one._replace(image=lesion.image, tumor=lesion.mask)


def samples(slices: Sequence[Slice], count: int) -> list[Slice]:
    """So many: half of them as they are with an outlined tumor, a sixth healthy, the rest with a planted one.

    Fewer tumors where fewer are outlined; healthy slices are taken several times where they are few.
    """
    rng, healthy = np.random.default_rng(0), [one for one in slices if not one.tumor.any()]
    made = thinned([one for one in slices if one.tumor.any()], count // 2)
    turns = -(-(count - len(made)) // max(1, len(healthy)))
    healthy = thinned(healthy, -(-(count - len(made)) // max(turns, 3)))
    for turn in range(max(turns, 3)):
        made += [planted(one, rng) if turn else one for one in healthy]
    return made[:count]


class Bench:
    """Maps and residuals of slices of one kind of tumor."""

    def __init__(self, networks: TumorNetworks, bank: HealthyBank, group: str, modality: Modality) -> None:
        self.networks, self.bank, self.group, self.modality = networks, bank, group, modality
        self.photographs = read_feature_network(registry.resolve("compact") / "matching.safetensors")

    @torch.no_grad()
    def seen(self, one: Slice) -> Seen:
        """Everything about a slice."""
        image, networks = torch.from_numpy(one.image)[None, None], self.networks
        stages, query = networks.stages(image), networks.queries(f"{one.organ} tumor", self.modality)
        away = networks.network.distances(stages, one.organ)
        if away is None:
            far = ndimage.distance_transform_edt(~one.region) / one.region.shape[1]
            away = torch.from_numpy(far.clip(max=1).astype(np.float32))[None, None]
        near = resized(away, stages[0].shape[2:])
        maps = networks.network.attention(stages, query.texts, away=near)
        log_odds = resized(maps.margin, image.shape[2:])
        soft = networks.network.config.soft
        cut = leveled(log_odds, np.array([0]), level=RECOMMENDED.level, soft=soft)[0, 0].numpy() >= 0
        border = ndimage.distance_transform_edt(cut) - ndimage.distance_transform_edt(~cut)
        residuals = self.residuals(image, one)
        columns = np.stack([on_cells(log_odds[0, 0].numpy()), on_cells(border), *residuals], -1)
        region, tumor = cells(one.region), cells(one.tumor)
        columns[..., 2:] -= np.median(columns[region][:, 2:], 0) if region.any() else 0
        parts, count = ndimage.label(cut & one.region, TOUCHING)
        fine = columns.repeat(8, 0).repeat(8, 1)
        of_parts = np.array([fine[parts == n].mean(0) for n in range(1, count + 1)]).reshape(count, COLUMNS)
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
        """Two residuals on cells, of retrieved cells within the region alone."""
        inside = torch.from_numpy(cells(one.region))
        features = cell_features(self.photographs, image)[0].movedim(0, -1)[inside]
        places = grid_places(len(inside)).view(*inside.shape, 2)[inside]
        far = np.zeros(inside.shape, np.float32)
        queries = self.bank.projected(features)
        far[inside] = nearest(self.bank.groups[self.group], queries, places, RetrievalOptions())[0]
        holes = torch.from_numpy(complementary_holes(one.region, edge=EDGE)).float()[:, None]
        filled = (image - filled_smoothly(image, holes)).abs()[0, 0].numpy()
        return [far, on_cells(filled)]


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


def alike(sides: Sequence[Sequence[Seen]]) -> list[list[Seen]]:
    """Columns of mean 0 and variance 1 over the cells of the first side, so that organs compare."""
    cells_of = np.concatenate([one.columns[one.tumor | one.rest] for one in sides[0]])
    mean, scale = cells_of.mean(0), cells_of.std(0) + 1e-6
    return [
        [
            one._replace(columns=(one.columns - mean) / scale, of_parts=(one.of_parts - mean) / scale)
            for one in side
        ]
        for side in sides
    ]


def row_of(train: Sequence[Seen], test: Sequence[Seen], columns: Sequence[int]) -> dict[str, float]:
    """What some columns are worth."""
    use = list(columns)
    cell = fitted(
        np.concatenate([one.columns[one.tumor | one.rest][:, use] for one in train]),
        np.concatenate([one.tumor[one.tumor | one.rest] for one in train]),
    )
    areas = [
        auc(
            cell.decision_function(one.columns.reshape(-1, COLUMNS)[:, use]).reshape(32, 32),
            one.tumor,
            one.rest,
        )
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


def thinned(slices: Iterable[Slice], limit: int) -> list[Slice]:
    """At most so many, evenly spread."""
    every = list(slices)
    return [every[at] for at in np.unique(np.linspace(0, len(every) - 1, min(limit, len(every))).astype(int))]


def sides_of(part: str, options: argparse.Namespace) -> list[list[Seen]]:
    """What is learned from and what is asked, of a part of the body."""
    networks, bank = ls.load("tumor").networks, load_bank(options.bank)
    if part == "brain":
        packed, other = Pack(options.heads), Pack(options.held_out)
        slices = [*brains(packed, "brain-tumor", every=4), *brains(packed, "brain-healthy")]
        test = thinned(brains(other, "brain-tumor"), options.limit)
        bench = Bench(networks.alone["head"], bank, "MR brain", "MR")
    elif part == "lung":
        packed, own = Pack(options.lungs), networks.alone["lung"]
        healthy = list(lungs(packed, ("chest-normal", "chest-ct", "clear-slices", "dx-clear")))
        ill = lungs(packed, ("nodule-slices", "tumor-patches", "mass-slices", "dx-masses"))
        slices, test = [*ill, *healthy[1::2]], thinned(held_out_lungs(), options.limit)
        bench = Bench(own, lung_bank(own, bank, healthy[::2]), "CT lung", "CT")
    else:
        packed, other = Pack(options.abdomens), Pack(options.held_out_abdomens)
        slices = list(abdomens(packed, ("sabs",), every=3))
        slices += abdomens(packed, ("liver-tumor", "liver-tumor-vessel"))
        rng, healthy = np.random.default_rng(1), thinned(abdomens(other, ("sabs",), every=5), options.limit)
        test = [planted(one, rng) if at % 2 else one for at, one in enumerate(healthy)]
        bench = Bench(networks.alone["abdomen"], bank, "CT abdomen", "CT")
    return [[bench.seen(one) for one in side] for side in (samples(slices, options.samples), test)]


def kept_sides(part: str, options: argparse.Namespace) -> list[list[Seen]]:
    """The same, from a file where there is one."""
    path = options.kept / f"{part}.pickle" if options.kept else None
    if path and path.exists():
        return alike(pickle.loads(path.read_bytes()))  # noqa: S301
    sides = sides_of(part, options)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(sides))
    return alike(sides)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--bank", "--heads", "--lungs", "--abdomens", "--held-out", "--held-out-abdomens"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--only", default="brain,lung,abdomen")
    parser.add_argument("--samples", type=int, default=750, help="Of the training, of each part of the body.")
    parser.add_argument("--limit", type=int, default=60, help="Slices of held-out patients, likewise.")
    parser.add_argument("--kept", type=Path, help="Folder where what was computed is kept.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/residual_fusion.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": ls.load("tumor").fingerprint}
    results: dict[str, object] = {**about, "bank": fingerprint([options.bank])}
    sides = {part: kept_sides(part, options) for part in options.only.split(",")}
    pooled = [one for train, _ in sides.values() for one in train]
    for part, (train, test) in sides.items():
        counts = {
            "training samples": len(train),
            "with a tumor": sum(one.tumor.any() for one in train),
            "slices": len(test),
            "of them with a tumor": sum(one.tumor.any() for one in test),
        }
        of_part: dict[str, object] = {name: int(n) for name, n in counts.items()}
        for fit, learned in (("its own fit", train), (f"one fit, {len(pooled)} samples", pooled)):
            rows = {name: row_of(learned, test, columns) for name, columns in MODELS.items()}
            of_part[fit] = rows
            for name, row in rows.items():
                figures = " | ".join(map(str, row.values()))
                sys.stdout.write(f"| {part} | {fit} | {name} | {figures} |\n")
        results[part] = of_part
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
