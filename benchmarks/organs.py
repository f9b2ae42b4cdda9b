"""Where the tumor networks think the organs are, on patients that nothing was trained on.

Usage: ``python benchmarks/organs.py [--weights FILE] [--output FILE]``; data through ``LATENTSEG_DATA``.

Dice per patient on SABS fold 0 (CT), where a tumor of the kidney is looked for by networks of the abdomen,
and, for the organs that are labelled there, all of CHAOS (T2 MR). The map is coarse, 128 x 128 over the body
in CT and 64 x 64 in MR, and says where a tumor is looked for; it is not meant as a mask.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

import latentseg as ls
from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.datasets.base import Case
from latentseg.methods.tumor.preparing import alone
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.metrics.overlap import dice

PARTS = {
    "kidney": ("right_kidney", "left_kidney"),
    "portal vein": ("portal_and_splenic_vein",),
    "inferior vena cava": ("inferior_vena_cava",),
    "adrenal gland": ("right_adrenal_gland", "left_adrenal_gland"),
}


def organ_masks(segmenter: TumorSegmenter, case: Case) -> dict[str, NDArray[np.bool_]]:
    """What is said to be each organ, on the grid of the scan."""
    query = segmenter.networks.queries("kidney tumor", case.image.modality)
    prepared = alone(segmenter.prepare(case.image), query, segmenter.networks, segmenter.options)
    if prepared.organs is None:
        raise SystemExit("these weights know no organs")
    fine = F.interpolate(prepared.organs, size=prepared.images.shape[2:], mode="bilinear")
    return {
        name: prepared.seen.back(fine[:, number].numpy()) > 0.5
        for number, name in enumerate(prepared.networks.network.organs.names, start=1)
    }


def main() -> None:
    """Measure both data sets, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="Tumor weights; the shipped ones when left out.")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/organs.json"))
    options = parser.parse_args()
    segmenter = ls.load("tumor", weights=options.weights)
    results: dict[str, dict[str, float]] = {}
    for title, dataset, cases in (
        ("SABS fold 0", SABS, SABS.fold(0)),
        ("CHAOS", CHAOS, CHAOS.present()),
    ):
        found: dict[str, list[float]] = defaultdict(list)
        for case_id in cases:
            case = dataset.load(case_id)
            for organ, mask in organ_masks(segmenter, case).items():
                parts = [part for part in PARTS.get(organ, (organ,)) if part in case.label_of]
                truth = np.any([case.mask(part) for part in parts], axis=0) if parts else np.zeros(1, bool)
                if truth.any():
                    found[organ].append(dice(mask, truth))
        results[title] = {organ: round(float(np.mean(values)), 3) for organ, values in found.items()}
        sys.stdout.write(f"{title}: {results[title]}\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": segmenter.fingerprint}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
