"""Finds the DICOM series in a folder of studies; each series of slices is a case."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from latentseg.errors import InputError, caution, noted

if TYPE_CHECKING:
    from latentseg.imaging.dicom.files import Scan, Series
    from latentseg.imaging.dicom.series import DicomOptions


class Place(NamedTuple):
    """Where a series is: its folder or archive, and which of the series there."""

    name: str
    image: Path
    options: DicomOptions | None


def find_series(folder: Path, files: Sequence[Path]) -> list[Place]:
    """All series of slices in a folder, its subfolders and its archives.

    What cannot be read is a place, too, so that it is refused with its reason when its turn comes. Series
    without slices, such as localizers and reports, are left out with a warning.

    Args:
        folder: Where to look.
        files: Which files there to look at.
    """
    places: list[Place] = []
    for path in files:
        if path.suffix.lower() == ".zip":
            places += _of_archive(path)
    loose = [path for path in files if path.suffix.lower() != ".zip"]
    if any(_is_dicom(path) for path in loose):
        places += _of_tree(folder, set(loose))
    return places


def _of_archive(path: Path) -> list[Place]:
    from latentseg.imaging.dicom.files import scan

    try:
        scanned = scan(path)
    except InputError:
        return [Place(path.stem, path, None)]
    images = _images(scanned)
    if not images:
        return [Place(path.stem, path, None)]
    return [_place(series, path, alone=len(images) == 1) for series in images]


def _of_tree(folder: Path, wanted: set[Path]) -> Iterator[Place]:
    from latentseg.imaging.dicom.files import scan

    with noted([]):  # links and folders that were left out have been named
        scanned = scan(folder)
    found = []
    for series in _images(scanned):
        paths = [entry.path for entry in series.entries if entry.path in wanted]
        if paths:
            found.append((series, Path(os.path.commonpath([path.parent for path in paths]))))
    count = Counter(place for _, place in found)
    yield from (_place(series, place, alone=count[place] == 1) for series, place in found)
    damaged = {entry.path.parent for entry, _ in scanned.damaged if entry.path in wanted}
    yield from (Place(place.name, place, None) for place in sorted(damaged - set(count)))


def _place(series: Series, image: Path, *, alone: bool) -> Place:
    from latentseg.imaging.dicom.series import DicomOptions

    name = image.stem if image.is_file() else image.name
    label = name if alone else f"{name}_series-{series.number or series.uid}"
    return Place(label, image, DicomOptions(series=series.uid))


def _images(scanned: Scan) -> list[Series]:
    """The series of slices; the others are named in a warning."""
    from latentseg.imaging.dicom.files import listing

    others = [series for series in scanned.series if series.kind != "image"]
    if others:
        caution(f"{len(others)} series of {scanned.path} without slices are left out: {listing(others)}")
    return [series for series in scanned.series if series.kind == "image"]


def _is_dicom(path: Path) -> bool:
    from latentseg.imaging.files import sniff

    try:
        return sniff(path) == "DICOM" or path.suffix.lower() in (".dcm", ".ima")
    except InputError:
        return False
