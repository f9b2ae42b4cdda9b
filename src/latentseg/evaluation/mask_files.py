"""Masks of two sides, paired by case and read on one grid: label maps, DICOM SEG and RTSTRUCT.

Label maps number their labels and DICOM objects name their structures, so that a table of names and numbers
says which is which. Structures that the table does not name are left alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.files import DICOM_SUFFIXES, SUFFIXES, case_name, natural_key
from latentseg.imaging.formats import kind_of

MASK_SUFFIXES = (*SUFFIXES, ".dcm")
SCAN_SUFFIXES = (*SUFFIXES, *DICOM_SUFFIXES)
SHOWN = 8


class Pair(NamedTuple):
    """Files of one case; `like` is the scan whose grid DICOM masks are read on."""

    case: str
    prediction: Path
    truth: Path
    like: Path | None = None


class Masks(NamedTuple):
    """The masks of one file.

    Attributes:
        grid: The label map; for DICOM the volume whose grid the structures are on.
        structures: Of DICOM, structures by the name they were asked for; None for a label map.
    """

    grid: Volume
    structures: Mapping[str, NDArray[np.bool_]] | None = None

    @property
    def ids(self) -> set[int]:
        """Label ids of a label map, but 0."""
        return set() if self.structures is not None else label_ids(self.grid)

    def mask(self, name: str, label: int) -> Volume:
        """One mask as bool; empty where the file does not hold it."""
        if self.structures is None:
            return self.grid.with_array(self.grid.array == label)
        return self.grid.with_array(self.structures.get(name, np.zeros(self.grid.shape, np.bool_)))


def pair_files(prediction: Path, truth: Path, *, like: Path | None = None) -> tuple[list[Pair], list[str]]:
    """Pairs of files by name (two files are a pair whatever their names), and predictions left over.

    Args:
        prediction: A folder, or a file.
        truth: The same of the two.
        like: The scan of two files, or a folder of scans that are named like the truth.

    Raises:
        InputError: A path does not exist, a file against a folder, no truth, two files of one case, or
            predictions are missing.
    """
    for path in (prediction, truth, *((like,) if like else ())):
        if not path.exists():
            raise InputError("no such file or folder", where=str(path), fix="check the path")
    if prediction.is_dir() != truth.is_dir():
        where = f"{prediction} and {truth}"
        raise InputError("one is a folder and the other a file", where=where, fix="give two of a kind")
    if truth.is_file():
        return [Pair(_case(truth), prediction, truth, like)], []
    if like and not like.is_dir():
        raise InputError("several cases and one scan", where=str(like), fix="give the folder of the scans")
    predictions, truths = _files(prediction, MASK_SUFFIXES), _files(truth, MASK_SUFFIXES)
    if not truths:
        fix = "give a folder of NIfTI, NRRD, DICOM SEG or RTSTRUCT files"
        raise InputError("no label maps", where=str(truth), fix=fix)
    missing = [case for case in truths if case not in predictions]
    if missing:
        what = f"predictions are missing for {len(missing)} of {len(truths)} cases ({_listed(missing)})"
        fix = "predict them too: leaving out the hard ones flatters the mean"
        raise InputError(what, where=str(prediction), fix=fix)
    scans = _files(like, SCAN_SUFFIXES, folders=True) if like else {}
    pairs = [Pair(case, predictions[case], path, scans.get(case)) for case, path in truths.items()]
    return pairs, [case for case in predictions if case not in truths]


def find_labels(pairs: Sequence[Pair]) -> dict[str, int]:
    """Every label of all files by name: the names of DICOM structures, or the ids of label maps but 0.

    Raises:
        InputError: A file cannot be read, or no file holds a label.
        UsageError: Names on one side, numbers on the other, and more than one of either.
    """
    paths = [path for pair in pairs for path in (pair.prediction, pair.truth)]
    names = _distinct(name for path in paths if is_dicom(path) for name in _names(path))
    ids: set[int] = set().union(*(label_ids(read_labels(path)) for path in paths if not is_dicom(path)))
    where = _listed([str(pair.truth) for pair in pairs], 3)
    if not names and not ids:
        raise InputError("no label map holds a label", where=where, fix="name the labels with --labels")
    if not names:
        return {str(label): label for label in sorted(ids)}
    if all(map(is_dicom, paths)):
        return {name: number for number, name in enumerate(names, start=1)}
    if len(names) > 1 or len(ids) > 1:
        numbers = ", ".join(map(str, sorted(ids)[:SHOWN])) or "none"
        what = f"structures have names ({_listed(names)}) and label maps have numbers ({numbers})"
        raise UsageError(
            what, where=where, fix=f"say which is which: --labels {min(ids, default=1)}={names[0]}"
        )
    return {names[0]: min(ids, default=1)}


def check_names(pairs: Sequence[Pair], label_of: Mapping[str, int]) -> None:
    """Require that each label is the name of some structure, on a side of DICOM files alone.

    Raises:
        UsageError: A name that no structure has; the message says which there are.
        InputError: A file cannot be read.
    """
    from latentseg.imaging.dicom.masks import find_name

    for paths in zip(*((pair.prediction, pair.truth) for pair in pairs), strict=True):
        if not all(map(is_dicom, paths)):
            continue
        listed = [_names(path) for path in paths]
        if len(label_of) == 1 and any(len(names) == 1 for names in listed):
            continue  # the one structure is the one label, whatever it is called
        names = _distinct(name for names in listed for name in names)
        for label in label_of:
            if find_name(label, names) is None:
                close = difflib.get_close_matches(label, names, n=1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                what = f"no structure is called {label!r}"
                raise UsageError(what, where=str(paths[0]), fix=f"{hint}choose from {_listed(names, 40)}")


def read_pair(pair: Pair, label_of: Mapping[str, int]) -> tuple[Masks, Masks]:
    """Prediction and truth; DICOM is read on the grid of the scan, or else of the other label map.

    Raises:
        InputError: A file cannot be read; or both are DICOM and there is no scan.
        GeometryError: Structures that do not lie on that grid.
    """
    maps = {p: read_labels(p) for p in (pair.prediction, pair.truth) if not is_dicom(p)}
    if len(maps) == 2 or (pair.prediction == pair.truth and maps):
        return Masks(maps[pair.prediction]), Masks(maps[pair.truth])
    grid = read(pair.like) if pair.like else next(iter(maps.values()), None)
    if grid is None:
        where = f"{pair.prediction} and {pair.truth}"
        fix = "give the scan, or the folder of scans named alike, with --like"
        raise InputError(
            f"both masks of case {pair.case!r} are DICOM, which name no grid", where=where, fix=fix
        )
    prediction, truth = (
        Masks(maps[p]) if p in maps else Masks(grid, _structures(p, grid, label_of))
        for p in (pair.prediction, pair.truth)
    )
    return prediction, truth


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM.

    Raises:
        InputError: It is missing, or of unknown type.
    """
    return kind_of(path) == "DICOM"


def label_ids(labels: Volume) -> set[int]:
    """The values of a label map, but 0."""
    return {int(label) for label in np.unique(labels.array)} - {0}


def _structures(path: Path, grid: Volume, label_of: Mapping[str, int]) -> dict[str, NDArray[np.bool_]]:
    """Structures by the label they are asked for as; a single one is a single label, however it is called."""
    from latentseg.imaging.dicom.masks import find_name, read_masks

    names = _names(path)
    found = {label: find_name(label, names) for label in label_of}
    if len(names) == len(label_of) == 1:
        found = dict.fromkeys(label_of, names[0])
    asked = {label: name for label, name in found.items() if name is not None}
    masks = read_masks(path, like=grid, names=list(asked.values()))
    return {label: masks[name] for label, name in asked.items()}


def _names(path: Path) -> list[str]:
    from latentseg.imaging.dicom.masks import holds_masks, structure_names

    if not holds_masks(path):
        raise InputError("this DICOM file holds no masks", where=str(path), fix="give a SEG or an RTSTRUCT")
    return structure_names(path)


def _files(folder: Path, suffixes: Sequence[str], *, folders: bool = False) -> dict[str, Path]:
    """The files of a folder by case, and where wanted its folders.

    Raises:
        InputError: Two of one case.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=natural_key):
        if not (path.name.lower().endswith(tuple(suffixes)) or (folders and path.is_dir())):
            continue
        other = found.setdefault(_case(path), path)
        if other is not path:
            what = f"{other.name} and {path.name} would both be the case {_case(path)!r}"
            raise InputError(what, where=str(folder), fix="leave one of them")
    return found


def _case(path: Path) -> str:
    dicom = path.suffix.lower() in DICOM_SUFFIXES and path.is_file()
    return path.stem if dicom else case_name(path)


def _distinct(names: Iterable[str]) -> list[str]:
    """Names without those that differ from an earlier one in case and separators alone."""
    from latentseg.imaging.dicom.masks import find_name

    found: list[str] = []
    for name in names:
        if find_name(name, found) is None:
            found.append(name)
    return found


def _listed(names: Sequence[str], most: int = SHOWN) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
