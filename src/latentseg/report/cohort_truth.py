"""True masks of the cases of a batch, wherever a folder holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.label_maps import parse_labels
from latentseg.imaging import Volume, read_labels
from latentseg.imaging.files import natural_key, suffix_of
from latentseg.methods.results import file_name
from latentseg.report.cohort import Run

NAMING = "name the files CASE.nii.gz, CASE_seg-TARGET.nii.gz or TARGET/CASE.nii.gz"
DICOM = ".dcm"
MASK_VALUES: tuple[set[int], ...] = ({1}, {255}, set())  # of a file with one mask, but 0


class Place(NamedTuple):
    """Where a true mask is: a file, and in a label map the label; None takes the one mask of the file."""

    path: Path
    label: int | None = None

    @property
    def is_dicom(self) -> bool:
        """Whether the file is RTSTRUCT or SEG, which name their structures."""
        return self.path.suffix.lower() == DICOM


@dataclass(frozen=True)
class Truth:
    """True masks.

    Attributes:
        folder: Where they are.
        places: Of each case and target, where there is a truth.
    """

    folder: Path
    places: Mapping[tuple[str, str], Place]

    def needs_scan(self, case: str, target: str) -> bool:
        """Whether a truth cannot be read without the scan, as contours."""
        place = self.places.get((case, target))
        return place is not None and place.is_dicom

    def read(self, case: str, target: str, *, like: Volume | None) -> Volume | None:
        """A true mask as bool; None where there is none.

        Args:
            case: Name of the case.
            target: Name of the target.
            like: The scan, which DICOM contours need.

        Raises:
            UsageError: Several labels, and no word which of them it is.
            InputError: A file that cannot be read.
        """
        place = self.places.get((case, target))
        if place is None:
            return None
        if place.is_dicom:
            found = read_labels(place.path, like=like, name=target)
            return found.with_array(found.array > 0)
        found = read_labels(place.path)
        if place.label is not None:
            return found.with_array(found.array == place.label)
        values = {int(value) for value in np.unique(found.array)} - {0}
        if values not in MASK_VALUES:
            raise _unnamed(sorted(values), target, where=str(place.path))
        return found.with_array(found.array > 0)


def find_truth(folder: str | Path, *, run: Run, labels: str | None = None) -> Truth:
    """Look for the truth of every result of a run, anywhere in a folder but among the results.

    A file is the mask of one target (``CASE_seg-TARGET``, in any folder, or ``TARGET/CASE``), or a label map
    (``CASE``) whose labels are named by `labels` or by a ``dataset.json`` beside it. DICOM SEG and RTSTRUCT
    (``CASE.dcm``) name their structures themselves.

    Args:
        folder: The folder.
        run: The run.
        labels: Names, such as ``1=liver,2=tumor``, or a ``dataset.json``.

    Raises:
        UsageError: `labels` makes no sense, or does not name a target.
        InputError: No such folder, or no truth of any case.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError("no such folder", where=str(folder), fix="give the folder of the true masks")
    names = _label_names(folder, labels)
    files = _files(folder, without=run.folder)
    wanted = [(row["case"], row["target"]) for row in run.review]
    alone = len({target for _, target in wanted}) == 1
    places = {key: _place(files, key, names, alone=alone) for key in wanted}
    found = {key: place for key, place in places.items() if place is not None}
    if wanted and not found:
        what = f"there is no truth of any of {len({case for case, _ in wanted})} cases"
        raise InputError(what, where=str(folder), fix=NAMING)
    return Truth(folder, found)


def _label_names(folder: Path, labels: str | None) -> dict[str, int]:
    table = next((p for p in (folder / "dataset.json", folder.parent / "dataset.json") if p.is_file()), None)
    given = labels or (str(table) if table else None)
    return {_plain(name): label for name, label in parse_labels(given).items()} if given else {}


def _files(folder: Path, *, without: Path) -> dict[tuple[str, str], Path]:
    """Every mask by the name of its folder, "" at the top, and its own name without suffix."""
    found = {}
    for path in sorted(folder.rglob("*"), key=natural_key):
        suffix = suffix_of(path) or (DICOM if path.suffix.lower() == DICOM else "")
        ours = path.resolve().is_relative_to(without.resolve())
        if suffix and path.is_file() and not (ours or path.name.startswith(".")):
            place = "" if path.parent == folder else path.parent.name
            found[place, path.name[: -len(suffix)]] = path
    return found


def _place(
    files: Mapping[tuple[str, str], Path], key: tuple[str, str], names: Mapping[str, int], *, alone: bool
) -> Place | None:
    case, target = key
    plain = file_name(target)
    for spot in (("", f"{case}_seg-{plain}"), (case, f"{case}_seg-{plain}"), (plain, case)):
        if spot in files:
            return Place(files[spot])
    path = files.get(("", case))
    if path is None or Place(path).is_dicom:
        return Place(path) if path else None
    if names:
        return Place(path, _label(names, target, path))
    if not alone:
        fix = f"give --labels, such as 1={plain}"
        raise UsageError(f"nothing says which label is {target!r}", where=str(path), fix=fix)
    return Place(path)


def _label(names: Mapping[str, int], target: str, path: Path) -> int:
    if _plain(target) not in names:
        what = f"no label is called {target!r}, only {', '.join(names)}"
        raise UsageError(what, where=str(path), fix=f"give --labels, such as 1={file_name(target)}")
    return names[_plain(target)]


def _plain(name: str) -> str:
    return file_name(name).casefold()


def _unnamed(values: Sequence[int], target: str, *, where: str) -> UsageError:
    listed = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    what = f"the truth holds the labels {listed}, and nothing says which is {target!r}"
    return UsageError(what, where=where, fix=f"give --labels, such as {values[0]}={file_name(target)}")
