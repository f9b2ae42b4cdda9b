"""The folder of a reproduction, in which runs of different recipes must not be mixed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from latentseg.errors import UsageError


def check_recipe(folder: Path, content: Mapping[str, object]) -> None:
    """Note what a reproduction is begun with, so that no folder mixes two recipes.

    Raises:
        UsageError: The folder holds another one.
    """
    from latentseg.imaging.files import write_json

    path = folder / "recipe.json"
    if not path.exists():
        write_json(path, content)
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        before = {}
    changed = [name for name, value in content.items() if before.get(name) != value]
    if changed:
        what = f"this folder was begun with another {', '.join(changed)}"
        raise UsageError(what, where=str(folder), fix="choose another folder for --out")
