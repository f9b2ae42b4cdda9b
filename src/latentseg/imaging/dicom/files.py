"""DICOM files in a folder or a zip archive, sorted into series by their headers; names do not matter."""

from __future__ import annotations

import io
import logging
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latentseg.errors import InputError, LatentsegError
from latentseg.imaging import files

PREAMBLE = 132
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
WITHOUT_SLICES = {
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "radiotherapy dose",
    "1.2.840.10008.5.1.4.1.1.481.3": "radiotherapy structures",
    "1.2.840.10008.5.1.4.1.1.30": "parametric map",
}
"""Objects that have a position in the patient and are no scan."""

TABLE_TAGS = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "ImageType"),
    *("SeriesDescription", "SeriesNumber", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PerFrameFunctionalGroupsSequence"),
]


@dataclass(frozen=True, order=True)
class Entry:
    """One file: in a folder, or a member of a zip archive."""

    path: Path
    member: str = ""

    def __str__(self) -> str:
        """The path, with the member after a colon."""
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @property
    def name(self) -> str:
        """The file's own name."""
        return Path(self.member or self.path).name

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The file for reading; a member of an archive is unpacked in memory."""
        if not self.member:
            with self.path.open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(self.path) as archive:
            yield io.BytesIO(archive.read(self.member))

    def read(self, *, pixels: bool = False, tags: list[str] | None = None) -> Any:
        """The DICOM data set, without its pixels unless they are asked for.

        Raises:
            InputError: pydicom is not installed, or the file is damaged.
        """
        pydicom = quiet_pydicom()
        with parsing(self), self.open() as file:
            return pydicom.dcmread(file, stop_before_pixels=not pixels, specific_tags=tags, force=True)


@contextmanager
def parsing(entry: Entry) -> Iterator[None]:
    """Take every error of pydicom, which parses values as late as they are asked for, for damage.

    Raises:
        InputError: the file is damaged.
    """
    try:
        yield
    except (LatentsegError, MemoryError):
        raise
    except Exception as error:  # there are many kinds, from struct.error to NotImplementedError
        raise files.broken(Path(str(entry)), "DICOM", error) from error


@dataclass(frozen=True)
class Facts:
    """What headers say of a series.

    Attributes:
        uid: Series Instance UID.
        kind: ``"image"`` for slices with a position in the patient; what it is instead for all else.
        modality: DICOM modality, such as ``"CT"``.
        number: Series number, ``""`` where there is none.
        description: Series description.
        size: Columns and rows of its first image.
        images: Number of images or frames.
    """

    uid: str
    kind: str
    modality: str
    number: str
    description: str
    size: tuple[int, int]
    images: int


@dataclass(frozen=True)
class Series(Facts):
    """Files of one kind with one Series Instance UID.

    Attributes:
        entries: Its files.
    """

    entries: tuple[Entry, ...]

    def __str__(self) -> str:
        """One phrase: ``1.2.3 (CT, 134 images, 'chest')``."""
        what = "images" if self.kind == "image" else f"x {self.kind}"
        text = f", '{self.description}'" if self.description else ""
        return f"{self.uid} ({self.modality or 'no modality'}, {self.images} {what}{text})"


@dataclass(frozen=True)
class Scan:
    """What a folder, an archive or a file holds.

    Attributes:
        path: where.
        series: all series, images first.
        damaged: files that start like DICOM and cannot be read, each with its reason.
    """

    path: Path
    series: tuple[Series, ...]
    damaged: tuple[tuple[Entry, str], ...] = field(default=())


def quiet_pydicom() -> Any:
    """Import pydicom, and keep to itself what it has to say about values that bend the standard.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise InputError("DICOM needs pydicom", fix="pip install 'latentseg[dicom]'") from error
    log = logging.getLogger("pydicom")
    if log.propagate:  # once: other threads may be reading
        log.addHandler(logging.NullHandler())
        log.propagate = False
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module=r"(pydicom|highdicom)\b")
    return pydicom


def scan(path: str | Path) -> Scan:
    """Read the headers of all DICOM files in a folder (with its subfolders), an archive, or one file.

    Raises:
        InputError: no such path, a damaged archive, or no DICOM in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file", where=str(path), fix="Check the path for typing errors")
    groups: dict[tuple[str, str], list[tuple[Entry, Facts]]] = {}
    damaged = []
    for entry in entries_in(path.parent if path.name.upper() == "DICOMDIR" else path):
        try:
            with parsing(entry):
                facts = _facts(entry.read(tags=TABLE_TAGS))
        except InputError as error:
            damaged.append((entry, error.what))
            continue
        if facts.kind != "directory":
            groups.setdefault((facts.uid, facts.kind), []).append((entry, facts))
    if not groups and not damaged:
        raise InputError("there is no DICOM in it", where=str(path), fix="Give the folder of a DICOM study")
    series = [_series(members) for members in groups.values()]
    return Scan(path, tuple(sorted(series, key=_table_order)), tuple(damaged))


def entries_in(path: Path) -> list[Entry]:
    """All files that look like DICOM, in natural order.

    Raises:
        InputError: a damaged or encrypted archive.
    """
    if path.is_dir():
        return [Entry(p) for p in files.files_below(path) if _looks_like_dicom(Entry(p))]
    if files.sniff(path) != "zip":
        return [Entry(path)] if _looks_like_dicom(Entry(path)) else []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name and not name.endswith("/")]
        ordered = [Entry(path, member) for member in sorted(members, key=lambda m: _natural(Path(m)))]
        return [entry for entry in ordered if _looks_like_dicom(entry)]
    except Exception as error:  # there are many kinds, from struct.error to RuntimeError for a password
        raise files.broken(path, "zip", error) from error


def holds_dicom(folder: Path) -> bool:
    """Whether a folder is to be read as DICOM: some beside the other files, or below where there are none."""
    members = [p for p in folder.iterdir() if p.is_file() and p.name[0] != "."]
    if any(_looks_like_dicom(Entry(p)) for p in members):
        return True
    if any(files.suffix_of(p) for p in members):
        return False
    return any(_looks_like_dicom(Entry(p)) for p in files.files_below(folder))


def choose(scanned: Scan, series: str | None = None) -> Series:
    """The one series to read as a scan.

    Args:
        scanned: the result of :func:`scan`.
        series: its UID or number; not needed where there is one only.

    Raises:
        InputError: none, several to choose from, or no such series; the message lists what there is.
    """
    where = str(scanned.path)
    if series is not None:
        named = [s for s in scanned.series if series in (s.uid, s.number)]
        images = [s for s in named if s.kind == "image"] or named
        if len(images) == 1:
            return images[0]
        what = f"{len(images)} series are called {series!r}; there are {listing(scanned.series)}"
        raise InputError(what, where=where, fix="Choose one by its UID (--series UID)")
    images = [s for s in scanned.series if s.kind == "image"]
    if len(images) == 1:
        return images[0]
    if images:
        what = f"there are {len(images)} series: {listing(images)}"
        raise InputError(what, where=where, fix="Choose one (--series UID)")
    raise InputError(_no_images(scanned), where=where, fix="Give the DICOM files of a CT or MR series")


def listing(series: Sequence[Series], most: int = 8) -> str:
    """Series as one line of text."""
    text = "; ".join(map(str, series[:most]))
    return f"{text}; and {len(series) - most} more" if len(series) > most else text


def _no_images(scanned: Scan) -> str:
    if scanned.series:
        return f"no series of slices with a position in the patient: {listing(scanned.series)}"
    entry, reason = scanned.damaged[0]
    return f"none of {len(scanned.damaged)} DICOM files can be read ({entry.name}: {reason})"


def _looks_like_dicom(entry: Entry) -> bool:
    """The magic word, or for files without preamble a first element of group 2 or 8.

    A member of an archive that cannot be unpacked may be a slice: it is left in, to be called damaged.
    """
    try:
        with entry.open() as file:
            head = file.read(PREAMBLE + 8)
    except (OSError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return bool(entry.member)
    if head[128:132] == b"DICM":
        return True
    group, kind, length = head[:2], head[4:6], int.from_bytes(head[4:8], "little")
    return (
        group in (b"\2\0", b"\x08\0")
        and len(head) > 8
        and (length < 256 or (kind.isalpha() and kind.isupper()))
    )


def _facts(header: Any) -> Facts:
    return Facts(
        _text(header, "SeriesInstanceUID"),
        _kind_of(header),
        _text(header, "Modality"),
        _text(header, "SeriesNumber"),
        _text(header, "SeriesDescription"),
        (int(header.get("Columns") or 0), int(header.get("Rows") or 0)),
        int(header.get("NumberOfFrames") or 1),
    )


def _kind_of(header: Any) -> str:
    """``"image"`` where slices have a position, or what the object is instead."""
    sop_class = _text(header, "SOPClassUID")
    if sop_class == DIRECTORY_CLASS or "DirectoryRecordSequence" in header:
        return "directory"
    if sop_class in WITHOUT_SLICES:
        return WITHOUT_SLICES[sop_class]
    if "Rows" not in header:
        return re.sub(r" Storage.*$", "", str(header.SOPClassUID.name))
    if int(header.get("SamplesPerPixel") or 1) > 1:
        return "color picture"
    if "PerFrameFunctionalGroupsSequence" not in header:
        placed = header.get("ImagePositionPatient") and header.get("ImageOrientationPatient")
        if not placed:
            return "picture without position"
    return "localizer" if "LOCALIZER" in _text(header, "ImageType").upper() else "image"


def _series(members: list[tuple[Entry, Facts]]) -> Series:
    entries, facts = zip(*members, strict=True)
    total = sum(one.images for one in facts)
    return Series(**vars(replace(facts[0], images=total)), entries=tuple(entries))


def _table_order(series: Series) -> tuple[bool, int, str]:
    number = int(series.number) if series.number.lstrip("-").isdigit() else 1 << 31
    return series.kind != "image", number, series.uid


def _text(header: Any, name: str) -> str:
    """A value as printable text; DICOM text may hold anything."""
    value = str(header.get(name) or "")
    return "".join(letter for letter in value if letter.isprintable()).strip()


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    return [files.natural_key(Path(part)) for part in path.parts]
