"""The root command, which imports the module of a command only when that command is used."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from latentseg.cli.verbs import VERBS
from latentseg.errors import UsageError
from latentseg.version import __version__


class LazyGroup(TyperGroup):
    """A group that knows its verbs by their line in `VERBS` and imports the one that is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the verbs in the order of the table."""
        del ctx
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what `--help` needs of a verb, without importing it."""
        del ctx
        if cmd_name not in VERBS:
            return None
        return TyperCommand(cmd_name, help=VERBS[cmd_name].summary)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the verb that is called, imported.

        Raises:
            UsageError: No such verb; offers the nearest one.
        """
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            fix = f"did you mean '{close[0]}'?" if close else "see 'latentseg --help'"
            raise UsageError(f"no such command '{args[0]}'", fix=fix)
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load_verb(str(name)), rest


def load_verb(name: str) -> Any:
    """Import a verb and return its command."""
    verb = import_module(VERBS[name].module).app
    verb._add_completion = False  # only the root offers to install it
    command = typer.main.get_command(verb)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, add_completion=True, rich_markup_mode="markdown")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"latentseg {__version__}")
        raise typer.Exit


@app.callback(epilog="`--debug` and `--offline` may stand anywhere on the line.")
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when something fails.")] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
) -> None:
    """Segment any structure you can show, in CT and MR, with frozen latent diffusion models."""
    del version, debug, offline  # taken off the line before it comes here (see run.py)
