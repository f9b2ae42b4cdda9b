"""DICOM files in a folder or a zip archive, sorted into series by their headers; names do not matter."""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from latentseg.errors import InputError, LatentsegError, noted
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

    def read(self, *, pixels: bool = False) -> Any:
        """The DICOM data set, without its pixels unless they are asked for.

        Raises:
            InputError: pydicom is not installed, or the file is damaged.
        """
        pydicom = quiet_pydicom()
        with parsing(self), self.open() as file:
            return pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)


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
        sop_class: UID of the kind of its first object.
    """

    uid: str
    kind: str
    modality: str
    number: str
    description: str
    size: tuple[int, int]
    images: int
    sop_class: str


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

    What a header says is kept, as long as its file does not change, so that all series of a folder can be
    read one after the other with one pass over its files.

    Raises:
        InputError: no such path, a damaged archive, or no DICOM in it.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("no such file", where=str(path), fix="Check the path for typing errors")
    groups: dict[tuple[str, str], list[tuple[Entry, Facts]]] = {}
    damaged = []
    for entry in entries_in(path.parent if path.name.upper() == "DICOMDIR" else path):
        facts = _headers.get(entry)
        if isinstance(facts, str):
            damaged.append((entry, facts))
        elif facts and facts.kind != "directory":
            groups.setdefault((facts.uid, facts.kind), []).append((entry, facts))
    if not groups and not damaged:
        raise InputError("there is no DICOM in it", where=str(path), fix="Give the folder of a DICOM study")
    series = [_series(members) for members in groups.values()]
    return Scan(path, tuple(sorted(series, key=_table_order)), tuple(damaged))


class _Headers:
    """What the headers of the last files said, each with the size and time of change of its file."""

    def __init__(self, most: int = 65536) -> None:
        self.most = most
        self.kept: dict[Entry, tuple[tuple[int, int], Facts | str | None]] = {}
        self.lock = threading.Lock()

    def get(self, entry: Entry) -> Facts | str | None:
        """Facts, the reason why a file cannot be read, or None for what is no DICOM."""
        try:
            status = entry.path.stat()
        except OSError as error:
            return error.strerror or str(error)
        state = status.st_size, status.st_mtime_ns
        with self.lock:
            kept = self.kept.get(entry)
        if kept and kept[0] == state:
            return kept[1]
        try:
            facts: Facts | str | None = _facts_in(entry)
        except InputError as error:
            facts = error.what
        with self.lock:
            self.kept[entry] = state, facts
            if len(self.kept) > self.most:
                del self.kept[next(iter(self.kept))]
        return facts


_headers = _Headers()


def entries_in(path: Path) -> list[Entry]:
    """All files of a folder or an archive, in natural order, or the one file.

    Raises:
        InputError: a damaged or encrypted archive.
    """
    if path.is_dir():
        return [Entry(found) for found in files.files_below(path)]
    if files.sniff(path) != "zip":
        return [Entry(path)]
    try:
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name and not name.endswith("/")]
        return [Entry(path, member) for member in sorted(members, key=lambda m: _natural(Path(m)))]
    except Exception as error:  # there are many kinds, from struct.error to RuntimeError for a password
        raise files.broken(path, "zip", error) from error


def holds_dicom(folder: Path) -> bool:
    """Whether a folder is to be read as DICOM: some beside the other files, or below where there are none."""
    members = [path for path in folder.iterdir() if not files.is_hidden(path)]
    if any(map(_looks_like_dicom, members)):
        return True
    if any(files.suffix_of(path) and path.is_file() for path in members):
        return False
    with noted([]):  # what is left out is said when the folder is read
        return any(map(_looks_like_dicom, files.files_below(folder)))


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


def _looks_like_dicom(path: Path) -> bool:
    """Whether a file starts like DICOM; one that cannot be opened does not."""
    try:
        with path.open("rb") as file:
            return _starts_like_dicom(file.read(PREAMBLE + 8))
    except OSError:
        return False


def _starts_like_dicom(head: bytes) -> bool:
    """The magic word, or for files without preamble a first element of group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    group, kind, length = head[:2], head[4:6], int.from_bytes(head[4:8], "little")
    return (
        group in (b"\2\0", b"\x08\0")
        and len(head) > 8
        and (length < 256 or (kind.isalpha() and kind.isupper()))
    )


def _facts_in(entry: Entry) -> Facts | None:
    """What the header of a file says; None for what is no DICOM.

    A member of an archive that cannot be unpacked, or a file that may not be read, may be a slice: it is
    called damaged.

    Raises:
        InputError: a damaged file.
    """
    pydicom = quiet_pydicom()
    with parsing(entry), entry.open() as file:
        if not _starts_like_dicom(file.read(PREAMBLE + 8)):
            return None
        file.seek(0)
        return _facts(pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TABLE_TAGS, force=True))


def _facts(header: Any) -> Facts:
    return Facts(
        _text(header, "SeriesInstanceUID"),
        _kind_of(header),
        _text(header, "Modality"),
        _text(header, "SeriesNumber"),
        _text(header, "SeriesDescription"),
        (int(header.get("Columns") or 0), int(header.get("Rows") or 0)),
        int(header.get("NumberOfFrames") or 1),
        _text(header, "SOPClassUID"),
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
    value = header.get(name)
    return "".join(letter for letter in str("" if value is None else value) if letter.isprintable()).strip()


def _natural(path: Path) -> list[list[tuple[int, int, str]]]:
    return [files.natural_key(Path(part)) for part in path.parts]
