"""What a benchmark data set is: cases in a fixed order, folds over that order, organs and their labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, read, read_labels

ORGANS = ("liver", "right_kidney", "left_kidney", "spleen")
"""The four organs of the few-shot field's abdominal benchmarks."""

ENVIRONMENT_VARIABLE = "LATENTSEG_DATA"
DEFAULT_ROOT = "../shared/data"


def data_root() -> Path:
    """Folder of all data sets: the environment variable `LATENTSEG_DATA`, else `../shared/data`."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ROOT)


@dataclass(frozen=True, eq=False)
class Case:
    """One scan with its label map.

    Attributes:
        dataset: Name of the data set.
        id: Case id within the data set.
        image: Scan.
        labels: Label map on the grid of the scan.
        label_of: Label id by organ name.
    """

    dataset: str
    id: str
    image: Volume
    labels: Volume
    label_of: Mapping[str, int]

    def mask(self, organ: str) -> NDArray[np.bool_]:
        """Mask `(I, J, K)` of one organ; empty where the scan does not hold it.

        Raises:
            UsageError: The data set has no such organ.
        """
        if organ not in self.label_of:
            known = ", ".join(self.label_of)
            raise UsageError(f"no organ '{organ}'", where=self.dataset, fix=f"choose one of {known}")
        return np.asarray(self.labels.array == self.label_of[organ])


def as_stored(volume: Volume) -> Volume:
    """Take the file at its word."""
    return volume


@dataclass(frozen=True)
class Dataset:
    """A benchmark data set: one pair `image_<id>.nii.gz`, `label_<id>.nii.gz` per case in one folder.

    Folds index the published list of case ids, not the files found, so that fold 3 means the same
    patients on every machine, whichever cases are there.

    Attributes:
        name: Name in tables and on the command line.
        folder: Folder below the data root.
        modality: CT or MR.
        ids: Every published case id, in numeric order.
        folds: Positions in `ids`, by fold, in increasing order.
        label_of: Label id by organ name.
        repair: Correction of what the files say about their grid.
        root: Data root; None follows the environment (see `data_root`).
    """

    name: str
    folder: str
    modality: Literal["CT", "MR"]
    ids: Sequence[str] = field(repr=False)
    folds: Sequence[Sequence[int]] = field(repr=False)
    label_of: Mapping[str, int] = field(repr=False)
    repair: Callable[[Volume], Volume] = field(default=as_stored, repr=False)
    root: Path | None = None

    def at(self, root: str | Path) -> Dataset:
        """The same data set below another data root."""
        return replace(self, root=Path(root))

    @property
    def path(self) -> Path:
        """Folder of the cases."""
        return (self.root or data_root()) / self.folder

    def present(self) -> list[str]:
        """Ids of the cases that are on this machine, in the published order."""
        return [case for case in self.ids if self._file("image", case).exists()]

    def fold(self, index: int) -> list[str]:
        """Case ids of one fold, in the published order.

        Raises:
            UsageError: There is no such fold.
            InputError: Cases of the fold are not on this machine; the message names them.
        """
        if not 0 <= index < len(self.folds):
            last = len(self.folds) - 1
            raise UsageError(f"no fold {index}", where=self.name, fix=f"choose a fold from 0 to {last}")
        cases = [self.ids[position] for position in self.folds[index]]
        missing = [case for case in cases if not self._file("image", case).exists()]
        if missing:
            raise self._absent(
                f"fold {index} lacks {len(missing)} of {len(cases)} cases ({', '.join(missing)})"
            )
        return cases

    def load(self, case: str) -> Case:
        """Read one case.

        Raises:
            InputError: Image or labels are missing or cannot be read.
            GeometryError: Image and labels are on different grids.
        """
        image_path, label_path = self._file("image", case), self._file("label", case)
        for path in (image_path, label_path):
            if not path.exists():
                raise self._absent(f"no {path.name}")
        image = self.repair(read(image_path, modality=self.modality))
        labels = read_labels(label_path, like=image)
        return Case(self.name, case, image, labels, self.label_of)

    def _file(self, kind: str, case: str) -> Path:
        return self.path / f"{kind}_{case}.nii.gz"

    def _absent(self, what: str) -> InputError:
        fix = f"set {ENVIRONMENT_VARIABLE} to the folder that holds '{self.folder}'"
        return InputError(f"{self.name}: {what}", where=str(self.path), fix=fix)


def fold_ranges(*ranges: tuple[int, int], wrap: bool = True) -> tuple[tuple[int, ...], ...]:
    """Folds from inclusive ranges of positions; with `wrap`, the last one also holds position 0.

    The field's folds overlap by one scan; the positions of a fold are sorted, so that the wrapped
    position 0 comes first (as the published scripts have it).
    """
    folds = [tuple(range(first, last + 1)) for first, last in ranges]
    if wrap:
        folds[-1] = (0, *folds[-1])
    return tuple(folds)
