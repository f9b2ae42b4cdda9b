"""Whole files or no file: text and bytes written under a temporary name, then renamed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from latentseg.errors import InputError


def write_atomic(content: bytes | str, *, path: str | Path) -> Path:
    """Write `content` to `path` (folders are made), so that a reader never sees half of it.

    Args:
        content: Bytes, or text that is stored as UTF-8.
        path: Destination; an older file is replaced.

    Returns:
        The path written.

    Raises:
        InputError: The file cannot be written.
    """
    target = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(data, target=target)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            f"cannot write ({reason})", where=str(target), fix="choose a folder you may write to"
        ) from error
    return target


def _replace(data: bytes, *, target: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
