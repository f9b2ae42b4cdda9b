"""One hierarchy of errors: what was seen, where, and how to fix it, in one sentence.

The command line prints `str(error)` on standard error and exits with `error.exit_code`. The codes
are documented in `docs/reference/errors.md`; both the class defaults and the text are part of the
public interface.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
_OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory")


def _one_line(text: str) -> str:
    """Collapse line breaks and repeated spaces, so that a message stays one line."""
    return " ".join(str(text).split())


def _capitalized(text: str) -> str:
    return text[:1].upper() + text[1:]


class LatentsegError(Exception):
    """Base of every error that latentseg raises on purpose.

    Args:
        what: What was seen, with the value, without a full stop.
        where: The file, option or object it was seen in.
        fix: What the user can do about it, as an instruction.

    Attributes:
        code: Stable identifier of the class of error, such as `"E300"`.
        exit_code: Exit status of the command line for this error.
    """

    code: str = "E100"
    exit_code: int = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what = _one_line(what).rstrip(".")
        self.where = _one_line(where)
        self.fix = _one_line(fix).rstrip(".")
        super().__init__(what)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep `where` and `fix` when the error crosses a process border."""
        return _rebuild, (type(self), self.what, self.where, self.fix)

    def __str__(self) -> str:
        """Return `CODE what: where. Fix.` on one line."""
        seen = f"{self.what}: {self.where}" if self.where else self.what
        if not self.fix:
            return f"{self.code} {seen}."
        stop = "" if self.fix.endswith("?") else "."
        return f"{self.code} {seen}. {_capitalized(self.fix)}{stop}"


def _rebuild(kind: type[LatentsegError], what: str, where: str, fix: str) -> LatentsegError:
    return kind(what, where=where, fix=fix)


class UsageError(LatentsegError):
    """An option, argument or target name that makes no sense."""

    code = "E200"
    exit_code = 2


class InputError(LatentsegError):
    """An image, mask or folder that cannot be read or used, or an output that cannot be written."""

    code = "E300"
    exit_code = 3


class GeometryError(InputError):
    """Two grids that should be equal and are not, or a grid that is not supported."""

    code = "E310"


class ModelError(LatentsegError):
    """Weights that are missing, corrupt, unknown or do not fit."""

    code = "E400"
    exit_code = 4


class MemoryLimitError(LatentsegError):
    """Work that needs more memory than there is."""

    code = "E500"
    exit_code = 5


class SomeCasesFailed(LatentsegError):  # noqa: N818 - the name says what happened to a batch
    """A batch that ended, with cases that failed."""

    code = "E600"
    exit_code = 6


class Interrupted(LatentsegError):  # noqa: N818 - the name says what happened
    """Work stopped by the user."""

    code = "E130"
    exit_code = 130


class LatentsegWarning(UserWarning):
    """Something surprising that does not stop the work."""


_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def caution(message: str, *, stacklevel: int = 2) -> None:
    """Warn with a `LatentsegWarning`, or inside `noted` put the message on its list."""
    notes = _notes.get()
    if notes is None:
        warnings.warn(message, LatentsegWarning, stacklevel + 1)
    else:
        notes.append(message)


@contextmanager
def noted(notes: list[str]) -> Iterator[list[str]]:
    """Collect what this thread warns of; `warnings.catch_warnings` would change it for all threads."""
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def explained(error: BaseException) -> LatentsegError:
    """Translate any exception to one of ours: one sentence and a documented exit code."""
    if isinstance(error, LatentsegError):
        return error
    if _is_out_of_memory(error):
        what = f"not enough memory ({_first_line(error)})"
        return MemoryLimitError(what, fix="close other programs, or work on a smaller image or batch")
    if isinstance(error, OSError):
        return _os_error(error)
    what = f"internal error, {type(error).__name__}: {_first_line(error)}"
    return LatentsegError(what, fix="run again with --debug and report the traceback")


def _os_error(error: OSError) -> InputError:
    reason = (error.strerror or _first_line(error)).lower()
    where = str(error.filename or "")
    if error.errno in _NO_SPACE:
        return InputError(f"cannot write, {reason}", where=where, fix="free some space or write elsewhere")
    if error.errno in _NO_RIGHT:
        fix = "check the permissions or choose another folder"
        return InputError(f"cannot read or write, {reason}", where=where, fix=fix)
    return InputError(reason, where=where, fix="check the path")


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
