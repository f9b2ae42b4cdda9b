"""The command line: each command is a module with a `typer.Typer` called `app`, and a line in `verbs.py`.

To keep `latentseg --help` fast, the module of a command is imported when the command is used, and it imports
torch and other large libraries inside its functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentseg.cli.verbs import VERBS

__all__ = ["VERBS", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `docs/reference/errors.md`)."""
    from latentseg.cli.run import run

    return run(arguments)
