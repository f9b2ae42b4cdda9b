"""Whole volumes as a user gives them: no slice range is known, and absence counts.

Usage: ``python benchmarks/accuracy_volumes.py [--settings "SABS 0;CHAOS 1, support -1"] [--output FILE]``;
data through ``LATENTSEG_DATA``.

One setting is a data set and a fold, and after commas what departs from the usual:

* ``CT support``: the examples are of SABS fold 0;
* ``support -1``: the example is the scan at this position of its fold instead of position 2;
* ``4 examples``: so many scans, the next ones of the fold in cyclic order after the first;
* ``second pass``: what was found in the other scans is an example, too (``latentseg batch --second-pass``);
* ``other organs``: the nine labels of SABS that the field does not use.

All scans of the fold but the examples, or where these are of another data set the one at their position, are
queries. Dice is the mean over organs of the means over scans on the original grid, missing organs left out.
Each scan is asked once more after its slices with the organ were taken away: the share of these in which
something is found is the rate of false alarms. Presence is that of both.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import latentseg as ls
from latentseg.evaluation.datasets import CHAOS, ORGANS, SABS, Dataset
from latentseg.evaluation.datasets.base import Case
from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.affine import slice_axes
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.metrics.overlap import dice
from latentseg.metrics.presence import auroc

FEWEST_SLICES = 5  # of a scan without the organ, below which it is not asked again


@dataclass(frozen=True)
class Setting:
    """What is measured, read from its name."""

    queries: Dataset
    fold: int
    supports: Dataset
    position: int = 2
    examples: int = 1
    organs: Sequence[str] = ORGANS
    twice: bool = False

    @classmethod
    def named(cls, name: str) -> Setting:
        """Read the name, see the top of this file."""
        first, *changes = (part.strip() for part in name.split(","))
        queries = {"SABS": SABS, "CHAOS": CHAOS}[first.split()[0]]
        setting = cls(queries, int(first.split()[1]), queries)
        for change in changes:
            if change == "CT support":
                setting = replace(setting, supports=SABS)
            elif change == "other organs":
                setting = replace(setting, organs=[o for o in queries.label_of if o not in ORGANS])
            elif change == "second pass":
                setting = replace(setting, twice=True)
            elif change.startswith("support "):
                setting = replace(setting, position=int(change.split()[1]))
            elif change.endswith(" examples"):
                setting = replace(setting, examples=int(change.split()[0]))
            else:
                raise SystemExit(f"{change!r} is nothing that a setting can say")
        return setting

    def example_ids(self) -> list[str]:
        """The scans that show the organs."""
        fold = self.supports.fold(self.fold if self.supports.name == self.queries.name else 0)
        first = self.position % len(fold)
        return [fold[(first + n) % len(fold)] for n in range(self.examples)]

    def query_ids(self) -> list[str]:
        """The scans in which they are looked for."""
        fold = self.queries.fold(self.fold)
        own = self.example_ids() if self.supports.name == self.queries.name else []
        return [i for i in fold if i not in own and i != fold[self.position]]


def supports_of(setting: Setting) -> list[ls.Support]:
    """The organs as the examples show them; those that none shows are left out."""
    cases = [setting.supports.load(i) for i in setting.example_ids()]
    supports = []
    for organ in setting.organs:
        label = cases[0].label_of[organ]
        shown = [
            ls.Support.from_volumes(case.image, case.labels, name=organ, label=label)
            for case in cases
            if case.mask(organ).any()
        ]
        supports += [ls.Support.join(shown)] if shown else []
    return supports


def contexts_of(segmenter: FewShotSegmenter, setting: Setting) -> list[SupportContext]:
    """The supports of the organs, encoded, with what they find in all queries where this is a second pass."""
    supports = supports_of(setting)
    contexts = [segmenter.encode(support) for support in supports]
    if setting.twice:
        for case_id in setting.query_ids():
            results = segmenter(setting.queries.load(case_id).image, contexts)
            found = [results[support.name] for support in supports]
            supports = [
                support.with_found(result.scan, result.mask) if result.mask.any() else support
                for support, result in zip(supports, found, strict=True)
            ]
        contexts = [segmenter.encode(support) for support in supports]
    return contexts


def without(case: Case, organ: str) -> Volume | None:
    """The scan without its slices that hold the organ; None where too little is left."""
    kept = ~to_canonical(case.image).apply(case.mask(organ)).any((1, 2))
    if kept.sum() < FEWEST_SLICES:
        return None
    (axis, *_), (reversed_along, *_) = slice_axes(case.image.affine_ras_mm, case.image.orientation)
    kept = kept[::-1] if reversed_along else kept
    return replace(case.image, array=np.compress(kept, case.image.array, axis))


def measure(segmenter: FewShotSegmenter, setting: Setting) -> dict[str, Any]:
    """Means over patients of one setting."""
    contexts = contexts_of(segmenter, setting)
    scores: dict[str, list[float]] = {context.name: [] for context in contexts}
    outside, lost, alarms = [], [], []
    there, gone = [], []
    for case_id in setting.query_ids():
        case = setting.queries.load(case_id)
        results = segmenter(case.image, contexts)
        slices = to_canonical(case.image)
        row = []
        for context in contexts:
            truth, found = case.mask(context.name), results[context.name].mask
            if truth.any():
                scores[context.name].append(dice(found, truth))
                row.append(f"{context.name} {scores[context.name][-1]:.3f}")
                lost.append(not found.any())
                there.append(results[context.name].presence)
                empty = without(case, context.name)
                if empty is not None:
                    result = segmenter(empty, [context])[context.name]
                    alarms.append(bool(result.mask.any()))
                    gone.append(result.presence)
            held = slices.apply(truth).any((1, 2))
            outside.append(float(slices.apply(found)[~held].sum() / max(found.sum(), 1)))
        sys.stderr.write(f"{setting.queries.name} {case_id}: {', '.join(row)}\n")
    figures: dict[str, Any] = {
        organ: round(float(np.mean(values)), 3) for organ, values in scores.items() if values
    }
    figures["mean Dice"] = round(float(np.mean(list(figures.values()))), 3)
    figures["predicted volume on slices without the organ"] = round(float(np.mean(outside)), 3)
    figures["organs called absent that are there"] = round(float(np.mean(lost)), 3)
    figures["scans without the organ in which it is found"] = round(float(np.mean(alarms)), 3)
    figures["AUROC of presence"] = round(auroc(there, gone) or 0.0, 3)
    figures["presence, and how many of so many have the organ"] = reliability(there, gone)
    return figures


def reliability(there: Sequence[float], gone: Sequence[float]) -> list[tuple[float, int, int]]:
    """Of each fifth of [0, 1] that holds some: mean presence, scans with the organ, and all scans."""
    presence = np.array([*there, *gone])
    has = np.arange(len(presence)) < len(there)
    fifths = np.minimum((5 * presence).astype(int), 4)
    return [
        (round(float(presence[fifths == n].mean()), 2), int(has[fifths == n].sum()), int((fifths == n).sum()))
        for n in np.unique(fifths)
    ]


def main() -> None:
    """Measure every setting, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/volumes.json"))
    parser.add_argument("--settings", default="SABS 0;CHAOS 0;CHAOS 0, CT support")
    options = parser.parse_args()
    segmenter, results = ls.load(), {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name in options.settings.split(";"):
        figures = results[name] = measure(segmenter, Setting.named(name))
        for what, value in figures.items():
            sys.stdout.write(f"| {name} | {what} | {value} |\n")
        about = {"date": datetime.now(UTC).date().isoformat(), "weights": segmenter.fingerprint}
        options.output.write_text(json.dumps({**about, **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
