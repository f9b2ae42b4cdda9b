"""The fingerprint of weights: a few digits that change whenever the weights change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def fingerprint(paths: Sequence[Path]) -> str:
    """Twelve hexadecimal digits that change with the weights: sizes and first megabyte of every file."""
    digest = hashlib.sha256()
    for path in paths:
        inside = (p for p in sorted(path.rglob("*")) if p.suffix in WEIGHTS) if path.is_dir() else [path]
        for file in inside:
            with file.open("rb") as stream:
                digest.update(file.name.encode() + str(file.stat().st_size).encode() + stream.read(1 << 20))
    return digest.hexdigest()[:12]
