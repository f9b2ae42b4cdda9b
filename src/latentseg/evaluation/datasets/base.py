"""What a benchmark data set is: cases in a fixed order, folds over that order, organs and their labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, read, read_labels

Pair = tuple[Volume, Volume]

ORGANS = ("liver", "right_kidney", "left_kidney", "spleen")
"""The four organs of the abdominal benchmarks in the few-shot literature."""

ENVIRONMENT_VARIABLE = "LATENTSEG_DATA"
DEFAULT_ROOT = "../shared/data"


def data_root() -> Path:
    """Folder of all data sets: the environment variable `LATENTSEG_DATA`, else `../shared/data`."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_ROOT)


class Original(NamedTuple):
    """One case as downloaded: its id, and a function that reads and prepares image and labels."""

    case: str
    read: Callable[[], Pair]


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
            raise UsageError(f"no organ '{organ}'", where=self.dataset, fix=f"choose from {known}")
        return np.asarray(self.labels.array == self.label_of[organ])


def as_stored(volume: Volume) -> Volume:
    """Take the file at its word."""
    return volume


def stack_along_k(volume: Volume) -> Volume:
    """Take the third axis as the slice axis, whatever the affine says.

    Short-axis stacks of the heart are oblique: the slice axis may lie nearer to left-right than to
    head-foot. Published code segments the acquired slices.
    """
    return replace(volume, orientation="LAS")


@dataclass(frozen=True)
class Dataset:
    """A benchmark data set: one pair of image and label map per case in one folder.

    Folds index the published list of case ids, not the files found, so that fold 3 means the same
    patients on every machine, whichever cases are there.

    Attributes:
        name: Name in tables and on the command line.
        folder: Folder below the data root.
        modality: CT or MR.
        ids: Every published case id, in numeric order.
        folds: Positions in `ids`, by fold, in increasing order.
        label_of: Label id by organ name; every id of the label maps is here.
        organs: What is evaluated unless something else is asked for; empty is every label.
        relabel: New label id by stored one, for files that keep the original's ids.
        cross_folds: Folds of the published cross-domain protocol; empty where it does not use this data set.
        repair: Correction of what the files say about their grid.
        image_file: Name of an image, with `{case}`.
        label_file: Name of a label map, with `{case}`.
        find_originals: Lists the cases of a folder as downloaded; None where there is nothing to make.
        root: Data root; None follows the environment (see `data_root`).
    """

    name: str
    folder: str
    modality: Literal["CT", "MR"]
    ids: Sequence[str] = field(repr=False)
    folds: Sequence[Sequence[int]] = field(repr=False)
    label_of: Mapping[str, int] = field(repr=False)
    organs: Sequence[str] = field(default=(), repr=False)
    relabel: Mapping[int, int] = field(default_factory=dict, repr=False)
    cross_folds: Sequence[Sequence[int]] = field(default=(), repr=False)
    repair: Callable[[Volume], Volume] = field(default=as_stored, repr=False)
    image_file: str = field(default="image_{case}.nii.gz", repr=False)
    label_file: str = field(default="label_{case}.nii.gz", repr=False)
    find_originals: Callable[[Path], list[Original]] | None = field(default=None, repr=False)
    root: Path | None = None

    def at(self, root: str | Path) -> Dataset:
        """The same data set below another data root."""
        return replace(self, root=Path(root))

    def across_domains(self) -> Dataset:
        """The same data set with the folds of the published cross-domain protocol.

        Raises:
            UsageError: The protocol has none for this data set.
        """
        if not self.cross_folds:
            fix = "choose SABS or CHAOS, or another setting"
            raise UsageError("the cross-domain setting has no folds here", where=self.name, fix=fix)
        return replace(self, folds=self.cross_folds)

    @property
    def path(self) -> Path:
        """Folder of the cases."""
        return (self.root or data_root()) / self.folder

    @property
    def targets(self) -> tuple[str, ...]:
        """What is evaluated unless something else is asked for."""
        return tuple(self.organs or self.label_of)

    def present(self) -> list[str]:
        """Ids of the cases that are on this machine, in the published order."""
        return [case for case in self.ids if self._image(case).exists()]

    def fold(self, index: int) -> list[str]:
        """Case ids of one fold, in the published order.

        Raises:
            UsageError: There is no such fold.
            InputError: The fold has no query beside the support, or cases of it are not on this machine;
                the message names them.
        """
        cases = self.members(index)
        self.require(cases, what=f"fold {index}")
        if len(cases) < 2:
            what = f"{self.name}: fold {index} has {len(cases)} case, a support scan and a query are needed"
            raise InputError(what, where=str(self.path), fix="add cases, or make fewer folds")
        return cases

    def members(self, index: int) -> list[str]:
        """Case ids of one fold, whether or not they are on this machine.

        Raises:
            UsageError: There is no such fold.
        """
        if not 0 <= index < len(self.folds):
            last = len(self.folds) - 1
            raise UsageError(f"no fold {index}", where=self.name, fix=f"choose a fold from 0 to {last}")
        return [self.ids[position] for position in self.folds[index]]

    def require(self, cases: Sequence[str], *, what: str) -> None:
        """Notice before the work which cases are not on this machine.

        Raises:
            InputError: Naming them.
        """
        missing = [case for case in cases if not self._image(case).exists()]
        if missing:
            raise self._absent(f"{what} lacks {len(missing)} of {len(cases)} cases ({', '.join(missing)})")

    def load(self, case: str) -> Case:
        """Read one case.

        Raises:
            InputError: Image or labels are missing or cannot be read, or a label id is unknown.
            GeometryError: Image and labels are on different grids.
        """
        image_path, label_path = self._image(case), self._labels(case)
        for path in (image_path, label_path):
            if not path.exists():
                raise self._absent(f"no {path.name}")
        image = self.repair(read(image_path, modality=self.modality))
        stored = read_labels(label_path, like=image)
        return Case(self.name, case, image, self._known(stored), self.label_of)

    def _known(self, stored: Volume) -> Volume:
        """Label map under the ids of `label_of`.

        Raises:
            InputError: It holds other ids.
        """
        new_of = {label: label for label in (0, *self.label_of.values())} | dict(self.relabel)
        present = np.flatnonzero(np.bincount(stored.array.ravel()))
        unknown = [str(label) for label in present.tolist() if label not in new_of]
        if unknown:
            what = f"unknown label ids {', '.join(unknown[:12])}"
            fix = f"{self.name} has the labels {', '.join(map(str, sorted(new_of)))}"
            raise InputError(what, where=str(stored.source), fix=fix)
        table = np.zeros(int(present.max(initial=0)) + 1, np.uint8)
        for label in present.tolist():
            table[label] = new_of[label]
        return stored.with_array(table[stored.array])

    def _image(self, case: str) -> Path:
        return self.path / self.image_file.format(case=case)

    def _labels(self, case: str) -> Path:
        return self.path / self.label_file.format(case=case)

    def _absent(self, what: str) -> InputError:
        fix = f"set {ENVIRONMENT_VARIABLE} to the folder that holds '{self.folder}'"
        return InputError(f"{self.name}: {what}", where=str(self.path), fix=fix)


def field_folds(count: int, *, parts: int = 5) -> tuple[tuple[int, ...], ...]:
    """The folds of the few-shot literature: equal parts of the cases, each with the first scan of the next.

    The last fold also holds position 0, which comes first, as in the published scripts. With 20 cases:
    {0-4}, {4-8}, {8-12}, {12-16}, {0, 16-19}. Of fewer than four cases there is one fold of all.
    """
    parts = min(parts, count // 2)
    if parts < 2:
        return (tuple(range(count)),)
    cuts = np.linspace(0, count, parts + 1).astype(int).tolist()
    folds = [tuple(range(first, min(last + 1, count))) for first, last in pairwise(cuts)]
    return (*folds[:-1], (0, *folds[-1]))
