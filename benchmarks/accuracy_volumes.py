"""Whole volumes as a user gives them: no slice range is known, and absence counts.

Usage: ``python benchmarks/accuracy_volumes.py [--settings "SABS 0;CHAOS 1"] [--output FILE]``; data through
``LATENTSEG_DATA``.

SABS fold 0 with a SABS support, CHAOS fold 0 with a CHAOS and with a SABS support (scan 2 of the fold, with
its mask on every slice): per-patient mean Dice over four organs on the original grid, and the
share of the predicted volume that lies on slices without the organ.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import latentseg as ls
from latentseg.evaluation.datasets import CHAOS, ORGANS, SABS, Dataset
from latentseg.imaging import to_canonical
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.metrics.overlap import dice


def measure(segmenter: FewShotSegmenter, queries: Dataset, supports: Dataset, fold: int) -> dict[str, float]:
    """Means over patients of one setting."""
    support_id = supports.fold(fold if supports.name == queries.name else 0)[2]
    shown = supports.load(support_id)
    contexts = []
    for organ in ORGANS:
        label = shown.label_of[organ]
        support = ls.Support.from_volumes(shown.image, shown.labels, name=organ, label=label)
        contexts.append(segmenter.encode(support))
    left_out = queries.fold(fold)[2]
    scores: dict[str, list[float]] = {organ: [] for organ in ORGANS}
    outside = []
    for case_id in queries.fold(fold):
        if case_id == left_out:
            continue
        case = queries.load(case_id)
        results = segmenter(case.image, contexts)
        for organ in ORGANS:
            truth, found = case.mask(organ), results[organ].mask
            scores[organ].append(dice(found, truth))
            slices = to_canonical(case.image)
            held = slices.apply(truth).any((1, 2))
            outside.append(float(slices.apply(found)[~held].sum() / max(found.sum(), 1)))
        row = ", ".join(f"{organ} {values[-1]:.3f}" for organ, values in scores.items())
        sys.stderr.write(f"{queries.name} {case_id}: {row}\n")
    figures = {organ: round(float(np.mean(values)), 3) for organ, values in scores.items()}
    figures["mean Dice"] = round(float(np.mean(list(figures.values()))), 3)
    figures["predicted volume on slices without the organ"] = round(float(np.mean(outside)), 3)
    return figures


def main() -> None:
    """Measure every setting, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/volumes.json"))
    parser.add_argument("--settings", default="SABS 0;CHAOS 0;CHAOS 0, CT support")
    options = parser.parse_args()
    segmenter, results = ls.load(), {}
    for name in options.settings.split(";"):
        queries = SABS if name.startswith("SABS") else CHAOS
        supports = SABS if name.endswith("CT support") else queries
        results[name] = measure(segmenter, queries, supports, int(name.split(",")[0].split()[1]))
    for name, figures in results.items():
        for what, value in figures.items():
            sys.stdout.write(f"| {name} | {what} | {value} |\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": segmenter.fingerprint}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
