"""What the ``dataset.json`` of a folder in the layout of nnU-Net says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from latentseg.errors import InputError


def read_description(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: The file is missing or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        fix = "give a folder in the layout of nnU-Net, whose dataset.json names the labels"
        raise InputError(f"cannot read it ({reason})", where=str(path), fix=fix) from error
    if not isinstance(content, dict):
        raise InputError("this is no JSON object", where=str(path), fix="write it as nnU-Net does")
    return content


def modality_of(description: Mapping[str, Any]) -> Literal["CT", "MR"]:
    """CT where the first channel is called so, else MR."""
    channels = description.get("channel_names") or description.get("modality") or {}
    first = str(channels.get("0", "")) if isinstance(channels, Mapping) else ""
    return "CT" if first.upper() == "CT" else "MR"
