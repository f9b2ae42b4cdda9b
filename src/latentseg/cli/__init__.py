"""The command line. A verb is one module with a `typer.Typer` called `app`, and one line in `verbs.py`.

A verb's module is imported when the verb is used, so that `latentseg --help` stays fast; the module in
its turn imports torch and friends inside its functions.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentseg.cli.verbs import VERBS

__all__ = ["VERBS", "main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `docs/reference/errors.md`)."""
    from latentseg.cli.run import run

    return run(arguments)
