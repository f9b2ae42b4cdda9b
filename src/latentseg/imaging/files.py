"""Files: their names, suffixes and formats, and writing that leaves a whole file or none.

The format is taken from the suffix and confirmed by the first bytes, so that a text file called
``scan.nii.gz`` is refused with a clear sentence instead of failing inside a library.
"""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution

SUFFIXES = {
    ".nii.gz": "NIfTI",
    ".nii": "NIfTI",
    ".hdr": "NIfTI",
    ".hdr.gz": "NIfTI",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
}
DICOM_SUFFIXES = (".dcm", ".ima", ".zip")
MASK_ENDINGS = ("_mask", "_label", "_seg", ".seg")
"""What the name of a mask has behind that of its scan; the last is Slicer's."""

DATA_FILE = re.compile(r"(?mi)^(?:ElementDataFile\s*=|data ?file:)(.+)$")
IMG_NAME = re.compile(r"(?i)\.img(\.gz)?$")
RASTER_FORMATS = ("PNG", "TIFF", "JPEG")


class Loaded(NamedTuple):
    """What a format's reader returns.

    Attributes:
        array: `(I, J, K)`, data type as stored.
        affine_ras_mm: `(4, 4)` float64, voxel index to RAS world millimeters.
        header: whatever the same format's writer needs to reproduce the grid bit for bit.
        modality: ``"CT"``, ``"MR"`` or ``"unknown"`` where the file says so, ``None`` where it says nothing.
    """

    array: NDArray[Any]
    affine_ras_mm: NDArray[np.float64]
    header: Any = None
    modality: Any = None


def suffix_of(path: Path) -> str:
    """The suffix of ``path`` in lower case, with ``.nii.gz`` kept whole (``""`` when unknown)."""
    name = path.name.lower()
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def voxel_file(path: Path) -> Path:
    """The file that holds the voxels: the ``.img`` of a NIfTI pair, and else ``path`` itself.

    Raises:
        InputError: a pair without its ``.img``.
    """
    if suffix_of(path) not in (".hdr", ".hdr.gz"):
        return path
    found = _beside(path, ".img")
    if found is None:
        what = "the header of a NIfTI pair has no .img beside it, which holds the voxels"
        raise InputError(what, where=str(path), fix="Copy both files")
    return found


def voxel_files(path: Path) -> list[Path]:
    """Files beside an image that hold its voxels, where it is a header alone; those that are there."""
    suffix = suffix_of(path)
    if suffix in (".hdr", ".hdr.gz"):
        return [found for found in [_beside(path, ".img")] if found]
    if suffix not in (".mhd", ".nhdr") or not path.is_file():
        return []
    named = DATA_FILE.findall(_first_bytes(path, 65536).decode("utf-8", "replace"))
    return [path.parent / name.strip() for name in named if (path.parent / name.strip()).is_file()]


def header_file(path: Path) -> Path:
    """The file to read a scan by: the ``.hdr`` of a NIfTI pair for its ``.img``, and else ``path`` itself."""
    if not IMG_NAME.search(path.name):
        return path
    return _beside(path, ".hdr") or path


def _beside(path: Path, suffix: str) -> Path | None:
    """The other file of a pair, compressed or not, in small or capital letters."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    names = [stem + case + end for case in (suffix, suffix.upper()) for end in ("", ".gz", ".GZ")]
    return next((path.with_name(name) for name in names if path.with_name(name).is_file()), None)


def case_name(path: Path) -> str:
    """The case id of a file: its name without the image suffix and without nnU-Net's ``_0000``."""
    suffix = suffix_of(path)
    name = path.name[: -len(suffix)] if suffix else path.name
    return re.sub(r"_0000$", "", name)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key under which ``slice_2`` comes before ``slice_10``."""
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


def is_hidden(path: Path) -> bool:
    """Whether a file or folder is the system's own: ``.DS_Store``, and the ``._NAME`` that macOS leaves."""
    return path.name.startswith(".")


def files_below(folder: Path) -> list[Path]:
    """All files of a folder and its subfolders in natural order, also behind links to folders.

    Hidden files and folders are left out. Each folder is entered once, so that links in a ring come to an
    end: a link to a folder above it, to one that is listed already, or to nowhere is left out with a
    warning, and so is a folder that may not be read.
    """
    walk = _Walk(folder)
    walk.enter(folder, Path(os.path.realpath(folder)))
    while walk.links:
        walk.follow(walk.links.popleft())
    walk.warn()
    return sorted(walk.files, key=lambda path: [natural_key(Path(part)) for part in path.parts])


class _Walk:
    """A way through the folders below `top`; links are followed when all real folders have been entered."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.files: list[Path] = []
        self.links: deque[Path] = deque()
        self.entered: set[Path] = set()
        self.repeated: list[Path] = []
        self.unreadable: list[Path] = []

    def enter(self, folder: Path, target: Path) -> None:
        """List a folder, of which `target` is the real path, and the real folders in it."""
        self.entered.add(target)
        try:
            with os.scandir(folder) as inside:
                found = sorted(inside, key=lambda entry: entry.name)
        except OSError:
            self.unreadable.append(folder)
            return
        for entry in found:
            path = folder / entry.name
            if is_hidden(path):
                continue
            if entry.is_dir(follow_symlinks=False):
                if target / entry.name not in self.entered:
                    self.enter(path, target / entry.name)
            elif entry.is_file(follow_symlinks=False):  # known from the listing: nothing is asked again
                self.files.append(path)
            elif path.is_dir():
                self.links.append(path)
            elif suffix_of(path) or path.is_file():  # an image that a link has lost fails by its name
                self.files.append(path)
            elif entry.is_symlink():
                self.unreadable.append(path)

    def follow(self, link: Path) -> None:
        """Enter the folder that a link leads to, unless it was entered or holds the link."""
        target = Path(os.path.realpath(link))
        places = Path(os.path.realpath(link.parent)), Path(os.path.realpath(self.top))
        if target in self.entered or any(place.is_relative_to(target) for place in places):
            self.repeated.append(link)
        else:
            self.enter(link, target)

    def warn(self) -> None:
        """Say what was left out."""
        for paths, what in (
            (self.repeated, "link(s) to folders that are listed already"),
            (self.unreadable, "folder(s) or link(s) that cannot be opened"),
        ):
            if paths:
                caution(f"{self.top}: {len(paths)} {what} left out, such as {paths[0]}", stacklevel=3)


def is_seg_nrrd(path: Path) -> bool:
    """Whether a file is called as Slicer calls its segmentations."""
    return path.name.lower().endswith(".seg.nrrd")


def find_name(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that is ``name``, whatever its case and separators; the first of several."""

    def plain(text: str) -> str:
        return "".join(letter for letter in text.casefold() if letter.isalnum())

    alike = [one for one in names if plain(one) == plain(name)]
    return name if name in names else next(iter(alike), None)


def sniff(path: Path) -> str:
    """Name the format of a file from its first bytes; ``""`` when nothing is recognized."""
    head = _first_bytes(path, 348)
    magic = [
        (b"\x1f\x8b", "gzip"),
        (b"NRRD", "NRRD"),
        (b"\x89PNG", "PNG"),
        (b"\xff\xd8\xff", "JPEG"),
        (b"II*\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"II+\0", "TIFF"),
        (b"MM\0+", "TIFF"),
        (b"PK\x03\x04", "zip"),
    ]
    for start, name in magic:
        if head.startswith(start):
            return name
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:4] in (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c"):
        return "NIfTI"
    return "MetaImage" if b"ObjectType" in head or b"NDims" in head else ""


def format_of(path: Path) -> str:
    """The format of an existing file, agreed between suffix and content.

    Raises:
        InputError: missing or empty file, unknown suffix, or content that is not what the suffix says.
    """
    path = header_file(path)
    if not path.exists():
        raise InputError("no such file", where=str(path), fix="Check the path for typing errors")
    if sniff(path) in ("DICOM", "zip") or path.suffix.lower() in DICOM_SUFFIXES:
        return "DICOM"
    suffix = suffix_of(path)
    if not suffix:
        raise unknown_suffix(path)
    if path.stat().st_size == 0:
        raise InputError("the file is empty (0 bytes)", where=str(path), fix="Copy or export it again")
    _check_content(path, suffix)
    return SUFFIXES[suffix]


def unknown_suffix(path: Path) -> InputError:
    """The error for a path whose suffix names no known format."""
    if IMG_NAME.search(path.name):
        what = "these are the voxels of a NIfTI pair, and no .hdr lies beside them"
        return InputError(what, where=str(path), fix="Copy both files")
    known = ", ".join(SUFFIXES)
    return InputError(f"unknown file type '{path.suffix}'", where=str(path), fix=f"Use one of {known}")


def not_an_image(path: Path) -> InputError:
    """The error for a file whose content is something else than its suffix says."""
    suffix = suffix_of(path)
    what = f"the content is no {SUFFIXES[suffix]} image, whatever the suffix {suffix} says"
    return InputError(what, where=str(path), fix="Check how the file was made, or copy it again")


def broken(path: Path, kind: str, cause: BaseException) -> InputError:
    """The error for a file that starts like ``kind`` but cannot be read to its end."""
    reason = " ".join(str(cause).replace(str(path), path.name).split())[:160] or type(cause).__name__
    return InputError(
        f"this {kind} file is truncated or damaged ({reason})", where=str(path), fix="Copy or export it again"
    )


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on failure it vanishes.

    The data are flushed to the disk before the name changes, so that a reader never meets half a file.

    Raises:
        InputError: the folder cannot be created or written.
    """
    temporary = temporary_beside(path)
    try:
        if path.parent.exists() and not path.parent.is_dir():
            raise NotADirectoryError(None, "its folder is a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "a folder of this name is in the way")
        with temporary.open("wb"):
            pass  # libraries report a missing permission in many ways; this one is clear
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    except InputError as error:
        error.where = error.where or str(path)  # the writers know only the temporary name
        raise
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        fix = "Choose a folder you may write to, with free space"
        raise InputError(f"cannot write the result ({reason})", where=str(path), fix=fix) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_beside(path: Path) -> Path:
    """Where a process writes what becomes ``path`` when it is whole."""
    return path.with_name(f".{os.getpid()}-{path.name}")


def remove_leftovers(path: Path) -> None:
    """Remove what processes that were killed left of ``path``, which one process at a time may write."""
    for left in path.parent.glob(f".*-{glob.escape(path.name)}"):
        if re.fullmatch(r"\.\d+", left.name.removesuffix(f"-{path.name}")):
            with suppress(OSError):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def write_file(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, text as UTF-8; its folder is made where it is missing."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def write_json(path: Path, content: object) -> Path:
    """Write a JSON file whole or not at all; what JSON does not know is written as its text."""
    return write_file(path, json.dumps(content, indent=1, default=str) + "\n")


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """Rows as CSV: the columns, or those of the first row; numbers with a point have six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = columns or list(rows[0])
    writer.writerow(columns)
    for row in rows:
        values = (row.get(column, "") for column in columns)
        writer.writerow([f"{value:.6g}" if isinstance(value, float) else value for value in values])
    return text.getvalue()


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot open the file ({reason})", where=str(path), fix="Check its rights"
        ) from error


def _check_content(path: Path, suffix: str) -> None:
    seen = sniff(path)
    expected = "gzip" if suffix.endswith(".gz") else SUFFIXES[suffix]
    if seen == expected:
        return
    if not seen:
        raise not_an_image(path)
    what = f"the suffix is {suffix} but the content is {seen}"
    raise InputError(what, where=str(path), fix="Rename the file to the suffix of its content")


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
