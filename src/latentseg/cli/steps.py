"""What the reproductions of both papers share: named steps, and a folder that belongs to one recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from latentseg.cli.evaluate import split_words
from latentseg.errors import UsageError


def read_steps(text: str, known: Sequence[str]) -> list[str]:
    """Steps in their order.

    Raises:
        UsageError: One that does not exist.
    """
    names = split_words(text)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"no step {', '.join(map(repr, unknown)) or 'was given'}"
        raise UsageError(what, where="--steps", fix=f"choose from {', '.join(known)}")
    return [step for step in known if step in names]


def check_recipe(folder: Path, content: Mapping[str, object]) -> None:
    """Note what a reproduction is begun with, so that no folder mixes two recipes.

    Raises:
        UsageError: The folder holds another one.
    """
    from latentseg.imaging.files import written_whole

    path = folder / "recipe.json"
    if not path.exists():
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    changed = [name for name, value in content.items() if before.get(name) != value]
    if changed:
        what = f"this folder was begun with another {', '.join(changed)}"
        raise UsageError(what, where=str(folder), fix="choose another folder for --out")
