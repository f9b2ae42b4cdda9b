"""How well the same anatomy is given the same height, in patients that the body network never saw.

Usage: ``python benchmarks/body_position.py [--output FILE]``; data through ``LATENTSEG_DATA``.

Landmarks are read from the labels of SABS 0-6 (CT) and CHAOS (MR): middles of the kidneys, spleen and
liver, top and bottom of the liver. For every pair of patients the landmark of one is looked for in the
other at the same height; the error is how far from its own landmark that is, in mm. It holds the
difference of the two anatomies too: what remains if every scan were placed as well as one offset for all
five landmarks can is given beside it. Laying the middles of the two fields of view on each other is the
baseline. Within a scan, the distances between slices are known: the error of those read from each slice
by itself is given for LUNG1 (chest) as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.datasets.base import Case, data_root
from latentseg.imaging import Volume, read, to_canonical
from latentseg.imaging.body import BodyPosition, locate

ORGANS = ("right_kidney", "left_kidney", "spleen", "liver")
LANDMARKS = (*ORGANS, "liver top", "liver bottom")


def landmarks(case: Case) -> dict[str, float]:
    """Slice positions of the landmarks that are in the scan."""
    canonical = to_canonical(case.image)
    found = {}
    for organ in ORGANS:
        inside = np.asarray(canonical.apply(case.mask(organ)).any((1, 2)))
        if not inside.any():
            continue
        first, last = np.nonzero(inside)[0][[0, -1]]
        cut = first == 0 or last == len(inside) - 1
        if not cut:
            found[organ] = float(first + last) / 2
        if organ == "liver" and last < len(inside) - 1:
            found["liver top"] = float(last)
        if organ == "liver" and first > 0:
            found["liver bottom"] = float(first)
    return found


class Placed:
    """One scan: its landmarks in mm along the body, by three ways to place it."""

    def __init__(self, name: str, case: Case) -> None:
        mm = to_canonical(case.image).spacing_mm[0]
        position = locate(case.image)
        self.name, self.position = name, position
        self.at_mm = {key: at * mm for key, at in landmarks(case).items()}
        along = np.arange(len(position.height_mm)) * mm
        self.height = {key: float(np.interp(at, along, position.height_mm)) for key, at in self.at_mm.items()}
        self.middle = {key: at - along[-1] / 2 for key, at in self.at_mm.items()}
        self.within = within_mm(position, mm)


def within_mm(position: BodyPosition, slice_mm: float) -> float:
    """Mean absolute error of the distances read from slices by themselves, at the known scale of the scan."""
    along = np.arange(len(position.read_mm)) * slice_mm
    off = position.read_mm - along
    return float(np.abs(off - np.median(off)).mean())


def pair_errors(shown: list[Placed], asked: list[Placed], way: str) -> NDArray[np.float64]:
    """Errors in mm of every landmark of every ordered pair of different patients."""
    errors = []
    for a in shown:
        for b in asked:
            common = [key for key in a.at_mm if key in b.at_mm]
            if a is b or not common:
                continue
            if way == "best offset":
                shift = np.median([b.at_mm[key] - a.at_mm[key] for key in common])
                errors += [abs(b.at_mm[key] - a.at_mm[key] - shift) for key in common]
            else:
                of_a, of_b = getattr(a, way), getattr(b, way)
                errors += [abs(of_b[key] - of_a[key]) for key in common]
    return np.asarray(errors)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/body_position.json"))
    options = parser.parse_args()
    sets = {
        "SABS": [Placed(f"SABS {name}", SABS.load(name)) for name in SABS.present()[:7]],
        "CHAOS": [Placed(f"CHAOS {name}", CHAOS.load(name)) for name in CHAOS.present()],
    }
    rows: list[dict[str, Any]] = []
    for a, b in [("SABS", "SABS"), ("CHAOS", "CHAOS"), *permutations(sets, 2)]:
        for way in ("height", "middle", "best offset"):
            errors = pair_errors(sets[a], sets[b], way)
            median, p90 = np.percentile(errors, (50, 90))
            row = {"shown": a, "asked": b, "way": way, "mean_mm": round(float(errors.mean()), 1)}
            rows.append({**row, "median_mm": round(float(median), 1), "p90_mm": round(float(p90), 1)})
            sys.stdout.write(f"| {a} | {b} | {way} | {errors.mean():.1f} | {median:.1f} | {p90:.1f} |\n")
    shown = [
        {"scan": one.name, "shows": one.position.describe(), "within_mm": round(one.within, 1)}
        | {"heights_mm": {key: round(value) for key, value in one.height.items()}}
        for members in sets.values()
        for one in members
    ]
    with tempfile.TemporaryDirectory() as folder:
        for archive, inside in (("LUNG1-001", "LUNG1-001"), ("STS_001_MR_T2", "STS_001/MR_T2")):
            with tarfile.open(data_root() / "dicom" / f"{archive}.tar.xz") as packed:
                packed.extractall(folder, filter="data")
            shown.append(described(archive, read(Path(folder) / inside)))
    for one in shown:
        sys.stdout.write(f"{one}\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "pairs": rows, "scans": shown}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def described(name: str, volume: Volume) -> dict[str, Any]:
    """What is said of a scan without landmarks."""
    position = locate(volume)
    ends = [round(float(position.height_mm[at])) for at in (0, -1)]
    error = within_mm(position, to_canonical(volume).spacing_mm[0])
    return {"scan": name, "shows": position.describe(), "within_mm": round(error, 1), "ends_mm": ends}


if __name__ == "__main__":
    main()
