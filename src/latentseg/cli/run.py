"""Run one command line: read global flags, print warnings on one line each and errors as one sentence.

Every error ends with a documented exit code (`docs/reference/errors.md`); a traceback is shown with
`--debug`.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from latentseg.cli.output import in_options
from latentseg.errors import Interrupted, LatentsegError, LatentsegWarning, UsageError, explained

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
KEPT_BYTES = 500_000_000
_CHOICE = re.compile(
    r"Invalid value for '?(?P<option>--[\w-]+).*?: (?:Value error, )?"
    r"(?P<value>'.*') is not one of (?P<known>.+)"
)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` (default: of this process) and return the exit code."""
    words, flags = split_global_flags(list(sys.argv[1:] if arguments is None else arguments))
    debug = "--debug" in flags
    _write_what_the_terminal_can()
    _keep_freed_memory()
    try:
        with _plain_warnings(debug=debug), _offline(on="--offline" in flags):
            return _invoke(words)
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been shown
            return UsageError.exit_code
        if debug:
            traceback.print_exc()
        known = as_latentseg_error(error)
        sys.stderr.write(f"{in_options(str(known))}\n")
        return known.exit_code


def split_global_flags(words: list[str]) -> tuple[list[str], set[str]]:
    """Take `--debug` and `--offline` out of a command line, wherever they stand before `--`."""
    end = words.index("--") if "--" in words else len(words)
    flags = {word for word in words[:end] if word in {"--debug", "--offline"}}
    return [word for word in words[:end] if word not in flags] + words[end:], flags


def as_latentseg_error(error: BaseException) -> LatentsegError:
    """Translate any exception to one of ours: one sentence and a documented exit code."""
    if isinstance(error, LatentsegError):
        return error
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return Interrupted("interrupted", fix="nothing half-written was left")
    if hasattr(error, "format_message"):  # typer's usage errors
        return _usage_error(error)
    return explained(error)


def _invoke(words: list[str]) -> int:
    import typer

    from latentseg.cli.root import app

    result = typer.main.get_command(app).main(args=words, prog_name="latentseg", standalone_mode=False)
    if result == Interrupted.exit_code:  # typer turns Ctrl-C into an exit code
        raise KeyboardInterrupt
    return result if isinstance(result, int) else 0


def _write_what_the_terminal_can() -> None:
    """A character that the terminal's encoding lacks becomes a question mark and stops no command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def _keep_freed_memory() -> None:
    """Where glibc allocates, it keeps freed memory of up to :data:`KEPT_BYTES` for the next tensor.

    Otherwise every large tensor is given back to the system, which clears the pages of the next one anew.
    """
    if os.name == "posix" and (tell := getattr(ctypes.CDLL(None), "mallopt", None)):
        tell(M_MMAP_MAX, 0)
        tell(M_TRIM_THRESHOLD, KEPT_BYTES)


@contextmanager
def _offline(*, on: bool) -> Iterator[None]:
    """Set `LATENTSEG_OFFLINE` for the time of one command, when asked to."""
    before = os.environ.get("LATENTSEG_OFFLINE")
    if on:
        os.environ["LATENTSEG_OFFLINE"] = "1"
    try:
        yield
    finally:
        if on and before is None:
            del os.environ["LATENTSEG_OFFLINE"]
        elif on:
            os.environ["LATENTSEG_OFFLINE"] = str(before)


@contextmanager
def _plain_warnings(*, debug: bool) -> Iterator[None]:
    """Show our own warnings on one line, and those of libraries only with `--debug`."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        text = in_options(" ".join(str(message).split()))
        if text not in seen and (debug or issubclass(category, LatentsegWarning)):
            seen.add(text)
            sys.stderr.write(f"warning: {text}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("default" if debug else "ignore")
        warnings.simplefilter("always", LatentsegWarning)
        warnings.showwarning = show
        yield


def _usage_error(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    command = getattr(context, "command_path", "latentseg")
    message = " ".join(error.format_message().split()) or "no command given"
    if choice := _CHOICE.match(message):
        known = ", ".join(re.findall(r"'([^']+)'", choice["known"]))
        what = f"unknown {choice['option'].strip('-').replace('-', ' ')} {choice['value']}"
        return UsageError(what, where=choice["option"], fix=f"choose from {known}")
    what, _, guess = message.partition(" Did you mean")
    return UsageError(what, fix=f"did you mean{guess}" if guess else f"see '{command} --help'")
