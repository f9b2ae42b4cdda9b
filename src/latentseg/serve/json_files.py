"""Small JSON files of a project, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latentseg.errors import InputError
from latentseg.imaging.files import write_file

FORMAT = 1  # of a project on disk


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_file(path, json.dumps(content, indent=1) + "\n")


def read_about(path: Path) -> dict[str, Any] | None:
    """A JSON object of ours; None where there is no file.

    Raises:
        InputError: The file is something else, or of a newer version.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        newer = int(content.get("format", FORMAT)) > FORMAT
    except (OSError, ValueError, AttributeError) as error:
        raise InputError("the project file cannot be read", where=str(path), fix="restore it") from error
    if newer:
        fix = "update latentseg"
        raise InputError("the project was made by a newer version", where=str(path), fix=fix)
    return dict(content)
