"""A small cohort and a stand-in for the networks, for tests and as a program that can be killed.

``python cohorts.py IN OUT LOG`` goes on with a run and writes a line to LOG for every scan it starts.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentseg.batch.cases import find_cases
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.work import Task
from latentseg.imaging import Volume, write_like
from latentseg.methods.base import Segmenter
from latentseg.methods.results import Segmentation
from latentseg.phantom.bodies import abdomen

DELAY_S = 0.1


@dataclass(frozen=True)
class Options:
    """What a threshold needs to know."""

    threshold: float = 100.0


class Threshold(Segmenter[Any, Any]):
    """A method that finds what is brighter than a value, and tells when it is asked."""

    def __init__(self, threshold: float = 100.0, *, tell: Callable[[str], None] | None = None) -> None:
        self.options = Options(threshold)
        self.asked: list[str] = []
        self.tell = tell or self.asked.append

    def check(self, target: str, scan: Volume | None = None) -> None:
        """Take any target."""

    def prepare(self, scan: Volume) -> Volume:
        self.tell(scan.name)
        return scan

    def predict(self, prepared: Volume, target: str) -> Segmentation:
        chance = 1 / (1 + np.exp((self.options.threshold - prepared.array.astype(np.float32)) / 20))
        return Segmentation(target, prepared, chance >= 0.5, chance.astype(np.float32), float(chance.max()))


def make_cohort(folder: Path, count: int, *, shape: tuple[int, int, int] = (24, 24, 4)) -> Path:
    """Phantoms `ct00.nii.gz`, `ct01.nii.gz`, ..."""
    for number in range(count):
        scan = abdomen(seed=number, shape=shape).image
        write_like(scan.array, like=scan, path=folder / f"ct{number:02}.nii.gz", kind="image")
    return folder


def contents(folder: Path, *, but: Sequence[str] = ("run.json", "_case.json")) -> dict[str, bytes]:
    """Every file of a folder with its content, hidden ones as well; times are in those left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if not p.name.endswith(tuple(but))}


def leftovers(folder: Path) -> list[Path]:
    """Hidden files and folders."""
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


def main(source: str, out: str, log: str) -> None:
    """Go on with a run."""

    def tell(name: str) -> None:
        with Path(log).open("a", encoding="utf-8") as stream:
            stream.write(name + "\n")
        time.sleep(DELAY_S)

    task = Task(Threshold(tell=tell), ("bright",), "weights-1")
    options = BatchOptions(save=("mask", "prob"), resume=True)
    run_batch([task], cases=find_cases(Path(source)), out=out, options=options)


if __name__ == "__main__":
    main(*sys.argv[1:])
