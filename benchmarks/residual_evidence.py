"""Whether residuals against healthy tissue are evidence of a tumor: error elsewhere, AUC inside its organ.

Usage: ``python benchmarks/residual_evidence.py --bank FILE [--pack HELD-OUT] [--backbone FOLDER] [--limit 30]
[--steps 10] [--seeds 3] [--output FILE] [--montage FILE]``; data through ``LATENTSEG_DATA``.

No hole depends on a map: patches that take turns cover the region, and each is filled from its surroundings,
smoothly or by the denoiser; or every cell is replaced by the healthy ones that are most like it
(``healthy_tissue.py``). Pictures of the tumor categories, and of patients that were held out
(``latentseg train pack configs/pack-real.yaml --held-out``). The region is the organ where it is outlined,
and the body elsewhere. On cells of eight pixels: mean absolute error in the region outside of tumors, and
AUC of the residual for tumor against the rest of the region, mean over slices, beside two controls that need
no healthy image: how far the brightness is from the region's median, and the distance to its border.
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

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score
from torch import Tensor

from healthy_tissue import (
    HealthyBank,
    RetrievalOptions,
    body_mask,
    cell_features,
    complementary_holes,
    filled_by,
    filled_smoothly,
    load_bank,
    prepared,
    pseudo_healthy,
)
from latentseg.backbones import registry
from latentseg.backbones.compact import CompactBackbone, phrase_condition
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import read, read_labels, to_canonical
from latentseg.imaging.intensity import Modality
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.training.pack import Pack

CELL, SMALLEST, FLOOR = 8, 2, 0.05  # pixels; tumor cells of a slice; of the spread over seeds
EDGE = 48  # pixels of a patch
Picture = NDArray[np.float32]


class Kind(NamedTuple):
    """A kind of tumor: where its slices are, what they are compared with, and what the denoiser is told.

    Attributes:
        where: Glob of pictures below the data folder, or a data set of the pack.
        group: Healthy cells.
        phrases: The first is the modality.
        orientation: Of the pictures, where the files' own is wrong.
        organ: Labels of the organ with its tumor; none where it is not outlined.
    """

    where: str
    group: str
    phrases: tuple[str, ...]
    orientation: str | None = None
    organ: tuple[int, ...] = ()

    @property
    def modality(self) -> Modality:
        """CT or MR."""
        return "CT" if self.phrases[0] == "CT" else "MR"


class Slice(NamedTuple):
    """A slice ``(256, 256)`` as the networks see it, its tumor, and the region it is looked for in."""

    name: str
    image: Picture
    tumor: NDArray[np.bool_]
    region: NDArray[np.bool_]


KIDNEY, LIVER = ("CT", "abdomen", "healthy", "kidney"), ("CT", "abdomen", "healthy", "liver")
PICTURES = {
    "kidney": Kind("tumour_2d/kidney/*[0-9].png", "CT abdomen", KIDNEY, organ=(1, 2)),
    "liver": Kind("tumour_2d/hepatic_vessel/*[0-9].png", "CT abdomen", LIVER, "ARS"),
}
PACKED = {
    "brain": Kind("brain-tumor", "MR brain", ("MR", "brain", "healthy")),
    "lung": Kind("nodules", "CT chest", ("CT", "thorax", "healthy", "lung")),
}


def pictures(kind: Kind) -> Iterator[Slice]:
    """Pictures of a kind that hold a tumor, which is label 2."""
    for path in sorted(data_root().glob(kind.where)):
        scan = read(path, modality="CT", orientation=kind.orientation)
        canonical = to_canonical(scan)
        truth = read_labels(path.with_name(path.stem + "_label.png"), like=scan)
        labels = canonical.apply(truth.array)
        grey = np.asarray(canonical.slices, np.float32)
        grey = (255 * (grey - grey.min()) / max(float(np.ptp(grey)), 1e-6)).astype(np.uint8)
        yield from slices_of(path.stem, grey, labels, kind, tumor=(2,))


def packed_slices(packed: Pack, kind: Kind) -> Iterator[Slice]:
    """Held-out slices of a pack that hold a tumor, at most six of a scan."""
    for scan in (scan for scan in packed.scans if scan.source == kind.where):
        labels = packed.labels[scan.first : scan.first + scan.count]
        shown = scan.first + np.flatnonzero((labels > 0).any((1, 2)))
        for index in shown[:: max(len(shown) // 6, 1)]:
            at = slice(index, index + 1)
            ids = tuple(scan.labels)
            yield from slices_of(
                f"{scan.case}/{index}", packed.images[at], packed.labels[at], kind, tumor=ids
            )


def slices_of(
    name: str, grey: NDArray[np.uint8], labels: NDArray[np.uint8], kind: Kind, *, tumor: tuple[int, ...]
) -> Iterator[Slice]:
    """Slices with enough tumor, cut to the body."""
    organ = np.isin(labels, kind.organ) if kind.organ else np.ones(labels.shape, bool)
    images, masks = prepared(grey, np.isin(labels, tumor), kind.modality)
    _, regions = prepared(grey, organ, kind.modality)
    stacks = (part[:, 0].numpy() for part in (images, masks, regions))
    for image, mask, region in zip(*stacks, strict=True):
        inside = (region & body_mask(image)) | mask
        if cells(mask).sum() >= SMALLEST and cells(inside & ~mask).sum() >= SMALLEST:
            yield Slice(name, image, mask, inside)


def cells(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells of eight pixels that are mostly inside."""
    return on_cells(mask.astype(np.float32)) >= 0.5


def on_cells(values: Picture) -> Picture:
    """Means over cells of eight pixels."""
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(1, 1, *values.shape[-2:])
    return F.avg_pool2d(tensor, CELL)[0, 0].numpy()


class Bench:
    """Every residual of every slice."""

    def __init__(self, backbone: CompactBackbone, network: FeatureNetwork, bank: HealthyBank | None) -> None:
        self.backbone, self.network, self.bank = backbone, network, bank

    def healthy(self, one: Slice, kind: Kind, steps: int, seeds: int) -> dict[str, Tensor]:
        """Healthy versions ``(K, 1, H, W)`` by how they were made."""
        image = torch.from_numpy(one.image)[None, None]
        holes = torch.from_numpy(complementary_holes(one.region, edge=EDGE)).float()[:, None]
        out = {"smooth fill": filled_smoothly(image, holes)}
        if seeds:
            tokens = phrase_condition(kind.phrases)
            keys = [f"{one.name}/{seed}" for seed in range(seeds)]
            options = InpaintingOptions(steps=steps)
            out["inpainted"] = filled_by(self.backbone, image, holes, tokens, keys=keys, options=options)
        return out

    def residuals(
        self, one: Slice, kind: Kind, steps: int, seeds: int
    ) -> tuple[dict[str, Picture], dict[str, Picture]]:
        """Residuals on cells, and the healthy images they are against."""
        image = torch.from_numpy(one.image)[None, None]
        decoded = self.backbone.decode(self.backbone.encode(image))[0, 0].numpy()
        maps, shown = {}, {}
        for name, versions in self.healthy(one, kind, steps, seeds).items():
            mean = versions.mean(0)[0].numpy()
            shown[name] = mean
            maps[name] = on_cells(np.abs((one.image if name == "smooth fill" else decoded) - mean))
            if len(versions) > 1:
                spread = versions.std(0)[0].numpy()
                maps[name + ", z-score"] = on_cells(np.abs(decoded - mean)) / (on_cells(spread) + FLOOR)
        if self.bank is not None:
            features = cell_features(self.network, image)
            for name, pull in (("retrieved", 1.0), ("retrieved, no place", 0.0)):
                found = self.bank.compare(features, kind.group, options=RetrievalOptions(pull=pull))
                shown[name] = pseudo_healthy(self.backbone, found)[0, 0].numpy()
                maps[name] = on_cells(np.abs(decoded - shown[name]))
                maps[name + ", features"] = found.distance[0, 0].numpy()
        grey = on_cells(one.image)
        maps["brightness against the region"] = np.abs(grey - np.median(grey[cells(one.region)]))
        maps["distance to the border"] = on_cells(ndimage.distance_transform_edt(one.region))
        return maps, shown


def figures_of(one: Slice, maps: dict[str, Picture]) -> dict[str, tuple[float, float]]:
    """Error outside tumors, and AUC, of each residual."""
    tumor, region = cells(one.tumor), cells(one.region)
    rest = region & (on_cells(one.tumor.astype(np.float32)) == 0)
    return {name: (float(values[rest].mean()), auc(values, tumor, rest)) for name, values in maps.items()}


def auc(values: Picture, tumor: NDArray[np.bool_], rest: NDArray[np.bool_]) -> float:
    """Chance that a tumor cell has a larger value than another cell of the region."""
    truth = np.r_[np.ones(tumor.sum()), np.zeros(rest.sum())]
    return float(roc_auc_score(truth, np.r_[values[tumor], values[rest]]))


def montage(rows: list[tuple[Slice, dict[str, Picture]]], path: Path) -> None:
    """Draw slices with their healthy versions."""
    names = ["slice", *rows[0][1]]
    figure = Figure(figsize=(2 * len(names), 2 * len(rows)), layout="constrained")
    for axes, (one, shown) in zip(figure.subplots(len(rows), len(names), squeeze=False), rows, strict=True):
        for axis, name in zip(axes, names, strict=True):
            axis.imshow(one.image if name == "slice" else shown[name], cmap="gray", vmin=-1, vmax=1)
            axis.contour(one.tumor, [0.5], colors="tab:orange", linewidths=0.7)
            axis.set_axis_off()
            axis.set_title(name, fontsize=7)
    figure.savefig(path, dpi=70)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bank", type=Path)
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--backbone", type=Path)
    parser.add_argument("--only", default="kidney,liver,brain,lung")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--montage", type=Path)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/residual_evidence.json"))
    options = parser.parse_args()
    folder = registry.resolve(options.backbone or "compact")
    network = read_feature_network(registry.resolve("compact") / "matching.safetensors")
    bank = load_bank(options.bank) if options.bank else None
    bench = Bench(CompactBackbone.from_folder(folder), network, bank)
    results: dict[str, dict[str, dict[str, float]]] = {}
    drawn: list[tuple[Slice, dict[str, Picture]]] = []
    for name in options.only.split(","):
        kind = (PICTURES | PACKED)[name]
        found = list(pictures(kind) if name in PICTURES else packed_slices(Pack(options.pack), kind))
        found = found[:: -(-len(found) // options.limit)] if found else []
        sums: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for number, one in enumerate(found):
            maps, shown = bench.residuals(one, kind, options.steps, options.seeds)
            for what, pair in figures_of(one, maps).items():
                sums[what].append(pair)
            if number < 2:
                drawn.append((one, shown))
        for what, pairs in sums.items():
            error, area = (round(float(value), 4) for value in np.mean(pairs, axis=0))
            row = {"error outside": error, "AUC": area, "slices": len(pairs)}
            results.setdefault(name, {})[what] = row
            sys.stdout.write(f"| {name} | {what} | " + " | ".join(map(str, row.values())) + " |\n")
            sys.stdout.flush()
    if options.montage and drawn:
        montage(drawn, options.montage)
    files = [folder / f"{part}.safetensors" for part in ("autoencoder", "denoiser")]
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": fingerprint(files)}
    if options.bank:
        about["bank"] = fingerprint([options.bank])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
