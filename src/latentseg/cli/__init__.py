"""The command line. A verb is one module with a `typer.Typer` called `app`, and one line in `VERBS`.

A verb's module is imported when the verb is used, so that `latentseg --help` stays fast; the module in
its turn imports torch and friends inside its functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    """Where a verb lives, and the line that `latentseg --help` shows for it."""

    module: str
    summary: str


VERBS = {
    "inspect": Verb("latentseg.cli.inspect", "Show the grid, the modality and the intensities of an image."),
    "models": Verb("latentseg.cli.models", "List, pull and check the weights."),
    "doctor": Verb(
        "latentseg.cli.doctor", "Check this machine: Python, torch, device, memory, disk, weights."
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `docs/reference/errors.md`)."""
    from latentseg.cli.run import run

    return run(arguments)
