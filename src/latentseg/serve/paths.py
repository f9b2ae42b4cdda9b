"""Restricts the files that a request may name to the folders that were given at the start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from latentseg.errors import InputError
from latentseg.imaging import files

HIDDEN = "."
MOST_SHOWN = 5000


class Listed(NamedTuple):
    """One entry of a folder.

    Attributes:
        name: Its name.
        path: Its path.
        kind: ``folder`` or ``scan``.
    """

    name: str
    path: Path
    kind: str


def allowed(path: str | Path, roots: Sequence[Path]) -> Path:
    """The real path of what a request names.

    Raises:
        InputError: It lies outside the folders, also by ``..`` or a link, or it is missing.
    """
    text = str(path)
    fix = "choose a scan below a folder given with --data, or upload the file"
    if "\0" in text or len(text) > 4096:
        raise InputError("not a path", fix=fix)
    try:
        real = Path(text).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        real = None
    if real is None or not any(real.is_relative_to(root.resolve()) for root in roots):
        raise InputError("no such file in the folders that are served", where=text[:200], fix=fix)
    return real


def listing(folder: Path, roots: Sequence[Path]) -> list[Listed]:
    """Folders and scans in a folder, by name; links that lead outside are left out.

    Raises:
        InputError: The folder may not be seen.
    """
    found = []
    here = allowed(folder, roots)
    if not here.is_dir():
        raise InputError("not a folder", where=str(folder), fix="choose a folder")
    for path in sorted(here.iterdir(), key=files.natural_key):
        if path.name.startswith(HIDDEN) or not _inside(path, roots):
            continue
        if path.is_dir():
            found.append(Listed(path.name, path, "folder"))
        elif files.suffix_of(path) or path.suffix.lower() in files.DICOM_SUFFIXES:
            found.append(Listed(path.name, path, "scan"))
    return found[:MOST_SHOWN]


def safe_name(name: str) -> str:
    """The last part of a file name that somebody sent, as a name for a file of ours.

    Raises:
        InputError: Nothing is left of it.
    """
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    kept = "".join(letter if letter.isalnum() or letter in "-_.+ " else "_" for letter in last)
    kept = kept.strip(" .")[-120:]
    if not kept:
        raise InputError("the file has no name", fix="give its name, such as ct.nii.gz")
    return kept


def _inside(path: Path, roots: Sequence[Path]) -> bool:
    try:
        allowed(path, roots)
    except InputError:
        return False
    return True
