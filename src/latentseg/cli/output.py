"""What verbs print: tables and facts for people, JSON for programs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import typer

_PLAIN_WIDTH = 200  # columns, when the output is no terminal

_ARGUMENT = re.compile(
    r"(?<![\w/-])(label|weights|backbone|like|series|volume|modality|orientation|shard|resume|allow_gaps"
    r"|resample_tilt|device|precision)=(?:True\b|(N\b|UID\b)|\"(\w+)\")?(?=[\s,.;:)]|$)"
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def in_options(message: str) -> str:
    """A message in the words of the command line, where Python's arguments are options.

    Example:
        >>> in_options("say which with label=, or with allow_gaps=True")
        'say which with --label, or with --allow-gaps'
    """

    def option(found: re.Match[str]) -> str:
        value = found[2] or found[3]
        return f"--{found[1].replace('_', '-')}" + (f" {value}" if value else "")

    return _ARGUMENT.sub(option, message)


def show_json(content: object) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(content, indent=2, default=str))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; long cells are folded, not cut."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    Console(highlight=False, markup=False, width=width).print(table)


def show_facts(facts: Mapping[str, object]) -> None:
    """Print `name  value` lines with the values aligned."""
    width = max(map(len, facts))
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


def human_bytes(count: float) -> str:
    """Write a size as people read it, such as `3.4 GB`; 0 is unknown."""
    if not count:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
