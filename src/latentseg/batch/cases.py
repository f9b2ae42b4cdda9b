"""The cases of a batch: scans that a table lists or a folder holds, each with a unique name."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentseg.batch.left_out import without_masks
from latentseg.batch.studies import find_series
from latentseg.errors import InputError, UsageError
from latentseg.imaging.files import case_name, files_below, natural_key, suffix_of

if TYPE_CHECKING:
    from latentseg.imaging.dicom.series import DicomOptions
    from latentseg.imaging.intensity import Modality

COLUMNS = ("image", "case", "modality", "orientation", "series")
WANTED = "give a folder with images, or a CSV file with a column 'image'"


@dataclass(frozen=True)
class Case:
    """One scan of a cohort.

    Attributes:
        name: Names the case in all outputs; no two cases of a cohort share it.
        image: The file or folder of the scan.
        modality: What the values mean, where the file does not tell.
        orientation: Axis codes that overrule a wrong affine, see :func:`latentseg.read`.
        dicom: Which DICOM series of several, and what of its geometry may be resampled.
    """

    name: str
    image: Path
    modality: Modality | None = None
    orientation: str | None = None
    dicom: DicomOptions | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """What was given of ``modality``, ``orientation`` and ``dicom``, as plain values."""
        dicom = asdict(self.dicom) if self.dicom else None
        given = {"modality": self.modality, "orientation": self.orientation, "dicom": dicom}
        return {name: value for name, value in given.items() if value is not None}


def find_cases(source: Path, *, out: Path | None = None) -> list[Case]:
    """The cases of a table or of a folder, in the natural order of their paths.

    A folder gives every image and every DICOM series in it and below, also behind links, but for hidden
    files, those below ``out``, and masks (see :func:`latentseg.batch.left_out.without_masks`). A table is a
    CSV file with a column ``image``, and where wanted ``case``, ``modality``, ``orientation`` and ``series``
    (UID or number); its paths are relative to the table.

    Raises:
        UsageError: A column that is not known, or two cases of one name.
        InputError: Nothing there, no image in the folder, or a damaged table.
    """
    if source.is_dir():
        cases = _of_folder(source, out)
    elif source.suffix.lower() == ".csv" or not source.exists():
        cases = _of_table(source)
    else:
        raise InputError("this is no list of cases", where=str(source), fix=WANTED)
    if not cases:
        raise InputError("there is no scan here", where=str(source), fix=WANTED)
    _check_names(cases)
    return cases


def take_shard(cases: Sequence[Case], shard: str) -> list[Case]:
    """Every n-th case from the i-th on, for a shard written ``i/n`` with i from 0 to n-1.

    Raises:
        UsageError: Anything else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", shard.strip())
    part, count = (int(n) for n in found.groups()) if found else (0, 0)
    if part >= count:
        fix = "give 0/4, 1/4, 2/4 and 3/4 to four runs"
        raise UsageError(f"{shard!r} is no part of a whole", where="shard=", fix=fix)
    return list(cases[part::count])


def _of_folder(folder: Path, out: Path | None) -> list[Case]:
    if out is not None and out.resolve() == folder.resolve():
        fix = "choose another folder for the output"
        raise UsageError("the output folder is the input folder", where=str(folder), fix=fix)

    files = [path for path in files_below(folder) if not (out and is_below(path, out))]
    images = without_masks([path for path in files if suffix_of(path)])
    found = [Case(case_name(image), image) for image in images]
    others = [path for path in files if not suffix_of(path)]
    found += [Case(place.name, place.image, dicom=place.options) for place in find_series(folder, others)]
    found.sort(key=lambda case: _order(case, folder))
    return _told_apart(found, root=folder)


def is_below(path: Path, folder: Path) -> bool:
    """Whether a file lies in a folder, whatever links lead there."""
    return path.resolve().is_relative_to(folder.resolve())


def _order(case: Case, root: Path) -> list[list[tuple[int, int, str]]]:
    return [natural_key(Path(part)) for part in (*case.image.relative_to(root).parts, case.name)]


def _told_apart(cases: Sequence[Case], *, root: Path) -> list[Case]:
    """Name cases by their file, and where files of several folders share a name, by their folders too."""
    shared = Counter(case.name.casefold() for case in cases)
    names = [case.name if shared[case.name.casefold()] == 1 else _long_name(case, root) for case in cases]
    plain = [re.sub(r"[^\w.+-]+", "_", name) for name in names]  # fit for a folder
    return [replace(case, name=name) for case, name in zip(cases, plain, strict=True)]


def _long_name(case: Case, root: Path) -> str:
    folder = case.image.parent
    parts = folder.relative_to(root).parts if folder.is_relative_to(root) else folder.parts[-1:]
    return "_".join([*parts, case.name])


def _of_table(table: Path) -> list[Case]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, skipinitialspace=True)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot read the list of cases ({reason})", where=str(table), fix=WANTED) from error
    _check_columns(columns, table)
    paths = [_path(row, number, table) for number, row in enumerate(rows, start=2)]
    unnamed = _told_apart([Case(case_name(path), path) for path in paths], root=table.parent)
    return [_of_row(row, case) for row, case in zip(rows, unnamed, strict=True)]


def _check_columns(columns: Iterable[str], table: Path) -> None:
    unknown = [column for column in columns if column not in COLUMNS]
    if "image" not in columns or unknown:
        what = f"unknown column {unknown[0]!r}" if unknown else "no column 'image'"
        fix = f"name the columns in the first line, of {', '.join(COLUMNS)}"
        raise UsageError(what, where=str(table), fix=fix)


def _path(row: Mapping[str, str | None], number: int, table: Path) -> Path:
    text = (row["image"] or "").strip()
    if not text or None in row:
        what = f"line {number} has more cells than columns" if text else f"line {number} names no image"
        raise UsageError(what, where=str(table), fix="correct the line")
    return table.parent / Path(text).expanduser()


def _of_row(row: Mapping[str, str | None], case: Case) -> Case:
    from latentseg.imaging.dicom.series import DicomOptions

    cells = {name: (row.get(name) or "").strip() for name in COLUMNS}
    modality = cells["modality"].upper()
    if modality not in ("", "CT", "MR"):
        fix = "give CT, MR or nothing"
        raise UsageError(f"unknown modality {cells['modality']!r}", where=str(case.image), fix=fix)
    return replace(
        case,
        name=cells["case"] or case.name,
        modality="CT" if modality == "CT" else "MR" if modality == "MR" else None,
        orientation=cells["orientation"] or None,
        dicom=DicomOptions(series=cells["series"]) if cells["series"] else None,
    )


def _check_names(cases: Sequence[Case]) -> None:
    """Require names that are folders of their own, also where capitals do not count."""
    seen: dict[str, Case] = {}
    for case in cases:
        if re.search(r"[^\w.+-]", case.name) or case.name.startswith("."):
            fix = "use letters, digits and any of ._+- in the column 'case'"
            raise UsageError(f"{case.name!r} cannot name a case", where=str(case.image), fix=fix)
        other = seen.setdefault(case.name.casefold(), case)
        if other is not case:
            what = f"two scans would both be the case {case.name!r}"
            fix = "list the scans in a CSV file, with a column 'case' that tells them apart"
            raise UsageError(what, where=f"{other.image} and {case.image}", fix=fix)
