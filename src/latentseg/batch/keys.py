"""Content hashes, by which a resumed run knows that a case is finished: equal keys give equal results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from latentseg.batch.cases import Case
from latentseg.imaging.files import files_below, voxel_files

NOT_CONTENT = ("sources",)  # fields of a support that only tell where it is from


def scan_state(image: Path) -> dict[str, Any]:
    """Size and latest time of change of a scan's files; equal states are taken for equal contents.

    Raises:
        OSError: No such file, or no permission.
    """
    states = [path.stat() for path in _files(image)]
    return {
        "bytes": sum(s.st_size for s in states),
        "mtime_ns": max((s.st_mtime_ns for s in states), default=0),
    }


def scan_sha256(image: Path) -> str:
    """Hash of the content of a scan's files, and in a folder of their names.

    Raises:
        OSError: No such file, or no permission.
    """
    digest = hashlib.sha256()
    for path in _files(image):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{path.name if image.is_dir() else ''}:{content}\n".encode())
    return digest.hexdigest()


def case_key(case: Case, *, content: str, recipe: object) -> str:
    """The key of a case: the content of its scan, how it is read, and what is done with it."""
    how = [
        case.name,
        case.image.name,
        case.modality,
        case.orientation,
        asdict(case.dicom) if case.dicom else None,
    ]
    about = [content, how, recipe]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def target_digest(target: Any) -> str:
    """A hash that changes with what is asked for: the words of a prompt, or the content of a support.

    Every field of a support, encoded or not, counts, and every field of its parts; but the names of the files
    it was read from do not.
    """
    if isinstance(target, str):
        return target
    digest = hashlib.sha256()
    for part in _content(target):
        digest.update(part)
    return digest.hexdigest()


def _content(value: Any) -> Iterator[bytes]:
    """A value and all that it holds as bytes, each with its name, kind and length."""
    if is_dataclass(value):
        value = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in NOT_CONTENT}
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, Mapping):
        for name, item in sorted(value.items()):
            yield repr((name, len(value))).encode()
            yield from _content(item)
    elif isinstance(value, tuple):
        yield repr(len(value)).encode()
        for item in value:
            yield from _content(item)
    elif hasattr(value, "tobytes") and hasattr(value, "shape"):
        yield repr((value.shape, str(value.dtype))).encode()
        yield value.tobytes()
    else:
        yield repr(value).encode()


def _files(image: Path) -> list[Path]:
    """The file with the one that holds its voxels, or the files of a folder and its subfolders, in order."""
    return sorted(files_below(image)) if image.is_dir() else sorted({image, *voxel_files(image)})
