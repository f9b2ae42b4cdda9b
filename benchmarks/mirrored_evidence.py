"""Whether what has no counterpart on the other side of a head adds to a map that never heard of the tumor.

Usage: ``python benchmarks/mirrored_evidence.py [--weights FOLDER] [--every 8] [--output FILE]``; data through
``LATENTSEG_DATA``, with the ``brain_slices`` that ``brain_slices.py`` makes.

Gliomas (Cheng, T1-Gd in three planes, those that ``configs/split.yaml`` leaves to trainings), by weights that
saw none: the zero-shot ones. AUC of every fourth pixel of the head either way, tumor against all others, of
the map, of the asymmetry (:mod:`latentseg.methods.tumor.symmetry`), and of both as they are added up; Dice of
the mask with and without it. A control looks at no tissue: how deep in the head a pixel lies, as a share of
the deepest, which is added to the log-odds of the map, and of both, with several weights. Means over slices.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from latentseg.backbones import registry
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import read, read_labels
from latentseg.methods.log_odds import log_odds
from latentseg.methods.tumor.body_crop import BODY
from latentseg.methods.tumor.load import on_compact
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.symmetry import asymmetry
from latentseg.metrics.overlap import dice
from latentseg.training.config import read_config
from latentseg.training.splits import Split

ZERO_SHOT = Path(__file__).parent / "weights" / "zero-shot"
SPLIT = Path(__file__).parents[1] / "configs" / "split.yaml"
PROMPT, CELL = "glioma", 4
DEPTHS = (2.0, 5.0, 10.0, 20.0)  # weights of the control


def measured(networks: TumorNetworks, photographs: FeatureNetwork, path: Path) -> dict[str, float]:
    """AUC of the map, the asymmetry, both and the control, and Dice without and with it, of one picture."""
    scan = read(path, modality="MR")
    truth = read_labels(path.with_name(f"{path.stem}_label.png"), like=scan).array > 0
    plain, compared = (
        TumorSegmenter(networks, options=replace(RECOMMENDED, mirrored=weight))
        for weight in (0.0, RECOMMENDED.mirrored)
    )
    prepared = plain.prepare(scan)
    without, beside = (segmenter.predict(prepared, PROMPT) for segmenter in (plain, compared))
    differing = asymmetry(photographs, prepared.images)[0].numpy()
    first = log_odds(without.evidence.attention)

    def in_cells(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(prepared.seen.undo(images)[0, ::CELL, ::CELL])

    head = prepared.seen.images > BODY
    deep = np.stack([ndimage.distance_transform_edt(ndimage.binary_fill_holes(one)) for one in head])
    depth = (deep / deep.max()).astype(np.float32)
    body = in_cells(head.astype(np.float32)) >= 0.5
    outlined = prepared.seen.canonical.apply(truth)[0, ::CELL, ::CELL][body]
    both = first + RECOMMENDED.mirrored * differing
    shown = {"map": first, "asymmetry": differing, "both": both, "depth": depth}
    shown |= {f"map and {weight:g} depth": first + weight * depth for weight in DEPTHS}
    shown |= {f"both and {weight:g} depth": both + weight * depth for weight in DEPTHS}
    areas = {f"auc, {name}": roc_auc_score(outlined, in_cells(one)[body]) for name, one in shown.items()}
    masks = {"dice without": without.mask, "dice with": beside.mask}
    figures = areas | {name: dice(mask, truth) for name, mask in masks.items()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def main() -> None:
    """Measure every such slice; print and write the means."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=ZERO_SHOT)
    parser.add_argument("--every", type=int, default=8, help="Of the numbers of the slices.")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    backbone = registry.resolve("compact")
    networks = on_compact(backbone, options.weights, torch.device("cpu"))
    photographs = read_feature_network(backbone / "matching.safetensors")
    split = read_config(SPLIT, Split)
    slices = {}
    for path in sorted(data_root().glob("brain_slices/glioma/*.jpg")):
        if int(path.stem) % options.every or split.part(path.relative_to(data_root())) != "training":
            continue
        slices[path.stem] = measured(networks, photographs, path)
        print(path.stem, slices[path.stem], flush=True)
    means = {
        name: round(mean(row[name] for row in slices.values()), 3) for name in next(iter(slices.values()))
    }
    print(len(slices), means)
    facts = {"date": str(datetime.now(UTC).date()), "weights": networks.fingerprint}
    if options.output:
        report = facts | {"slices": len(slices), "means": means, "by_slice": slices}
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
