"""What refinement costs and what it is worth: inpainting steps against Dice, slices and seeds at a time.

Usage: ``python benchmarks/tumor_refinement.py --weights FILE [--category lung] [--steps 1,2,5,10,20]
[--limit N] [--tiny] [--backbone FOLDER] [--output FILE]``; data through ``LATENTSEG_DATA``.

The weights are those of a training without the category (``latentseg train tumor --without``). "Enough" are
the fewest steps that keep 95 % of the best Dice. Masks are drawn by both residuals here, as in the paper:
by default the map draws them, and steps change the evidence alone. ``--tiny`` looks at a phantom in place of
patients.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import latentseg as ls
from latentseg.evaluation.datasets.tumors import TumorCase, get_category
from latentseg.evaluation.tables import markdown_table
from latentseg.imaging.files import written_whole
from latentseg.methods.diffugts.refinement import RefinementOptions, Refiner
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.metrics.overlap import overlap
from latentseg.phantom.bodies import abdomen

KEPT = 0.95
BATCHES = ((1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 4))  # slices, seeds


@dataclass(frozen=True)
class StepsRow:
    """Mean over the slices with tumor, and over all scans that were looked at."""

    steps: int
    dice: float
    seconds_per_scan: float


@dataclass(frozen=True)
class BatchRow:
    """Refinement of several slices, with several seeds, at a time."""

    slices: int
    seeds: int
    seconds_per_slice: float


def cases(category: str, *, limit: int | None, tiny: bool) -> Iterator[TumorCase]:
    """Scans with tumors."""
    if tiny:
        phantom = abdomen(seed=3, shape=(64, 64, 2), lesions=2)
        lesion = next(label for label, name in phantom.names.items() if "lesion" in name)
        yield TumorCase("phantom", "phantom", phantom.image, phantom.labels.array == lesion)
        return
    for number, case in enumerate(get_category(category).cases()):
        if limit is None or number < limit:
            yield case


def quality(parts: TumorNetworks, steps: int, scans: list[TumorCase], prompt: str) -> StepsRow:
    """Dice and time with a number of steps; every slice is refined, whatever its score."""
    how = refinement(steps)
    segmenter = TumorSegmenter(parts, options=replace(RECOMMENDED, refinement=how, min_presence=0.0))
    dices, started = [], time.perf_counter()
    for case in scans:
        found = segmenter.predict(segmenter.prepare(case.image), prompt)
        if case.mask is not None and case.mask.any():
            dices.append(overlap(found.mask, case.mask).dice)
    seconds = (time.perf_counter() - started) / len(scans)
    return StepsRow(steps, float(np.mean(dices)) if dices else float("nan"), seconds)


def speed(parts: TumorNetworks, slices: int, seeds: int, *, steps: int) -> BatchRow:
    """Time of refining slices with a hole of a tenth of the slice."""
    edge = parts.backbone.image_size
    images = torch.linspace(-1, 1, edge).expand(slices, 1, edge, edge).contiguous()
    attention = torch.zeros_like(images)
    attention[..., : edge // 3, : edge // 3] = 1
    refiner = Refiner(
        parts.backbone,
        parts.network.fusion,
        torch.zeros_like,
        parts.condition(("CT", "abdomen", "healthy")),
        replace(refinement(steps), seeds=seeds),
    )
    started = time.perf_counter()
    refiner(images, attention, keys=[str(k) for k in range(slices)])
    return BatchRow(slices, seeds, (time.perf_counter() - started) / slices)


def refinement(steps: int) -> RefinementOptions:
    """The recommended refinement with another number of steps, the mask drawn by both residuals."""
    usual = RECOMMENDED.refinement or RefinementOptions()
    return replace(usual, fusion="otsu", inpainting=replace(usual.inpainting, steps=steps))


def enough(rows: list[StepsRow]) -> int:
    """Fewest steps that keep 95 % of the best Dice."""
    best = max(row.dice for row in rows)
    return min(row.steps for row in rows if row.dice >= KEPT * best)


def main() -> None:
    """Measure, print two tables, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--backbone", default="compact")
    parser.add_argument("--category", default="lung")
    parser.add_argument("--steps", default="1,2,5,10,20,50")
    parser.add_argument("--limit", type=int, help="scans, for a trial")
    parser.add_argument("--tiny", action="store_true", help="a phantom and two steps, to see that it runs")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/tumor_refinement.json"))
    options = parser.parse_args()
    parts = ls.load("tumor", backbone=options.backbone, weights=options.weights).networks
    scans = list(cases(options.category, limit=options.limit, tiny=options.tiny))
    counts = [1, 2] if options.tiny else [int(text) for text in options.steps.split(",")]
    prompt = get_category(options.category).prompt
    with torch.no_grad():
        curve = [quality(parts, steps, scans, prompt) for steps in counts]
        batches = [speed(parts, *both, steps=counts[-1] if options.tiny else 10) for both in BATCHES]
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "weights": parts.fingerprint,
        "category": options.category,
        "threads": torch.get_num_threads(),
        "enough": enough(curve) if all(np.isfinite(row.dice) for row in curve) else None,
    }
    results = {"about": facts, "steps": [asdict(r) for r in curve], "batches": [asdict(r) for r in batches]}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(options.output) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    first = [[str(r.steps), f"{100 * r.dice:.1f}", f"{r.seconds_per_scan:.2f}"] for r in curve]
    second = [[str(r.slices), str(r.seeds), f"{r.seconds_per_slice:.2f}"] for r in batches]
    sys.stdout.write(markdown_table(["steps", "Dice %", "s per scan"], first, texts=0))
    sys.stdout.write("\n" + markdown_table(["slices", "seeds", "s per slice"], second, texts=0))


if __name__ == "__main__":
    main()
