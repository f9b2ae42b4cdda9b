"""A cohort that a stand-in for the networks has segmented: the truth, moved, blurred and faded."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

import helpers.pages
from latentseg.batch.cases import find_cases
from latentseg.batch.runner import BatchOptions, run_batch
from latentseg.batch.work import Task
from latentseg.imaging import Volume, read_labels, write_like
from latentseg.methods.base import Segmenter
from latentseg.methods.results import SAVED, Segmentation
from latentseg.phantom.bodies import abdomen

LIVER, SPLEEN = 1, 4
SHAPE = (40, 36, 6)
ABOUT = {
    "backbone": "compact",
    "license": "Apache-2.0",
    "license_url": "https://www.apache.org/licenses/LICENSE-2.0",
    "files": {"autoencoder.safetensors": "a" * 64},
    "seed": 7,
}


class Evidenced(Segmentation):
    """A result with the maps of a prompt, where they are asked for."""

    def save(self, folder: Any, *, what: Any = SAVED) -> list[Path]:
        maps = [one for one in what if one not in SAVED]
        written = super().save(folder, what=[one for one in what if one in SAVED])
        for name in maps:
            path = Path(folder) / self.scan.name / f"{self.scan.name}_{name}-{self.target}.nii.gz"
            written.append(write_like(self.probability, like=self.scan, path=path, kind="probability"))
        return written


@dataclass(frozen=True)
class Options:
    """Of the stand-in."""

    support_mode: str = "nearest"


class Faded(Segmenter[Any, Any]):
    """Finds what the truth says, a voxel aside, and less surely from scan to scan."""

    def __init__(self, truth: Path) -> None:
        self.options, self.truth = Options(), truth

    def check(self, target: str, scan: Volume | None = None) -> None:
        """Take any target."""

    def prepare(self, scan: Volume) -> Volume:
        return scan

    def predict(self, prepared: Volume, target: str) -> Segmentation:
        labels = read_labels(self.truth / f"{prepared.name}.nii.gz").array
        mask = labels == {"liver": LIVER, "spleen": SPLEEN}[target]
        soft: NDArray[Any] = ndimage.gaussian_filter(np.roll(mask, 1, 0).astype(np.float32), 0.7)
        chance = soft * (1 - 0.3 * int(prepared.name[2:]))
        return Evidenced(target, prepared, chance >= 0.5, chance.astype(np.float32), float(chance.max()))


def make_run(folder: Path, *, targets: tuple[str, ...], save: tuple[str, ...] = SAVED) -> None:
    """`in/`, `truth/` and `out/`: three scans, the third empty-handed, and two files that are no scans."""
    for number in range(3):
        phantom = abdomen(seed=number, shape=SHAPE)
        name = f"ct{number}.nii.gz"
        write_like(phantom.image.array, like=phantom.image, path=folder / "in" / name, kind="image")
        write_like(phantom.labels.array, like=phantom.labels, path=folder / "truth" / name)
    (folder / "in/ct8.nii.gz").write_bytes(b"")
    (folder / "in/ct9.nii.gz").write_bytes((folder / "in/ct0.nii.gz").read_bytes()[:300])
    task = Task(Faded(folder / "truth"), targets, "weights-1", ABOUT)
    run_batch([task], cases=find_cases(folder / "in"), out=folder / "out", options=BatchOptions(save))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both cohorts, to be copied."""
    folder = tmp_path_factory.mktemp("cohorts")
    make_run(folder / "plain", targets=("liver",))
    save = (*SAVED, "attention", "healthy", "residual")
    make_run(folder / "rich", targets=("liver", "spleen"), save=save)
    return folder


def copied(source: Path, folder: Path) -> Path:
    """A copy of a cohort whose records name the copied scans."""
    shutil.copytree(source, folder)
    for path in [*folder.rglob("*.json"), *folder.rglob("*.csv")]:
        path.write_text(path.read_text(encoding="utf-8").replace(str(source), str(folder)), encoding="utf-8")
    return folder


@pytest.fixture
def cohort(made: Path, tmp_path: Path) -> Path:
    """A folder with `in/`, `truth/` (label maps of all organs) and `out/`, of one target: the liver."""
    return copied(made / "plain", tmp_path / "plain")


@pytest.fixture
def rich_cohort(made: Path, tmp_path: Path) -> Path:
    """The same with two targets and the evidence of prompts."""
    return copied(made / "rich", tmp_path / "rich")


@pytest.fixture(scope="session")
def pages() -> SimpleNamespace:
    """Helpers to look into a page."""
    return SimpleNamespace(**vars(helpers.pages))
