"""A small cohort, and a stand-in for the networks that takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from latentseg.batch.runner import Task
from latentseg.imaging import Volume, write_like
from latentseg.imaging.phantom import Phantom, abdomen
from latentseg.results import Segmentation


@dataclass(frozen=True)
class Options:
    """What a threshold needs to know."""

    threshold: float = 100.0


@dataclass(frozen=True)
class Threshold:
    """A method that finds what is brighter than a value; it counts what it is asked."""

    options: Options = field(default_factory=Options)
    asked: list[str] = field(default_factory=list)

    def prepare(self, scan: Volume) -> Volume:
        self.asked.append(scan.name)
        return scan

    def predict(self, prepared: Volume, target: str) -> Segmentation:
        chance = 1 / (1 + np.exp((self.options.threshold - prepared.array.astype(np.float32)) / 20))
        mask = chance >= 0.5
        return Segmentation(target, prepared, mask, chance.astype(np.float32), float(chance.max()))


def make_cohort(folder: Path, count: int, *, shape: tuple[int, int, int] = (24, 24, 4)) -> Path:
    """Phantoms `ct00.nii.gz`, `ct01.nii.gz`, ..."""
    for number in range(count):
        scan = abdomen(seed=number, shape=shape).image
        write_like(scan.array, like=scan, path=folder / f"ct{number:02}.nii.gz", kind="image")
    return folder


def contents(folder: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    """Every file of a folder with its content, hidden ones as well."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if not p.name.endswith(tuple(but))}


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """Three small scans."""
    return make_cohort(tmp_path / "in", 3)


@pytest.fixture
def task() -> Task:
    """The stand-in, asked for one target."""
    return Task(Threshold(), ("bright",), "weights-1")


__all__ = ["Phantom"]
