"""Which test scans weights have seen in training, as far as their manifest says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from latentseg.evaluation.datasets.base import Dataset


def trained_on(folder: Path) -> list[str] | None:
    """The training data that the manifest of a model's folder lists; None where it lists none."""
    try:
        listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["trained_on"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return [str(entry) for entry in listed]


def seen_cases(listed: Iterable[str], dataset: Dataset) -> set[str]:
    """Ids of the cases of a data set that entries such as `"BTCV (SABS) cases 7-18, 20"` name.

    An entry that names the data set without saying which cases is taken to mean all of them.
    """
    seen: set[str] = set()
    for entry in listed:
        found = re.search(rf"(?<!\w){re.escape(dataset.name)}(?!\w)", entry, re.IGNORECASE)
        numbers = re.search(r"cases? ([\d, -]+)", entry)
        if found and not numbers:
            seen |= set(dataset.ids)
        elif found and numbers:
            for first, last in re.findall(r"(\d+)(?:-(\d+))?", numbers[1]):
                seen |= {str(number) for number in range(int(first), int(last or first) + 1)}
    return seen & set(dataset.ids)
