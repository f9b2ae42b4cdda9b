"""Results that others published on the same data and folds, for the tables: reported, never measured here."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

MARK = "reported by the authors"


@dataclass(frozen=True)
class Published:
    """One published line, 1-shot, EP1, all folds.

    Attributes:
        method: Name of the method.
        data: Data set; the target, across domains.
        setting: See `settings`; nothing was published under the corrected Setting 2 but where a note says so.
        mean: Mean Dice over the organs in percent, where it was given.
        source: Where it was read.
        venue: Where it appeared.
        dice: Dice in percent by organ, where it was given.
        note: What is odd about it.
    """

    method: str
    data: str
    setting: str
    mean: float | None
    source: str
    venue: str = ""
    dice: dict[str, float] = field(default_factory=dict, hash=False)
    note: str = ""

    @property
    def label(self) -> str:
        """Method, venue and mark, for a table."""
        venue = f", {self.venue}" if self.venue else ""
        return f"{self.method}{venue} ({MARK})"


def published_rows(data: str, *, setting: str) -> list[Published]:
    """What was published on a data set; for the corrected Setting 2, what was published for Setting 2."""
    wanted = "2" if setting == "2-corrected" else setting
    return [row for row in _all()[0] if (row.data, row.setting) == (data, wanted)]


def source_of(row: Published) -> str:
    """Where a row was read, in full."""
    return _all()[1][row.source]


@cache
def _all() -> tuple[tuple[Published, ...], dict[str, str]]:
    import yaml

    text = files("latentseg.evaluation").joinpath("published.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return tuple(Published(**row) for row in content["rows"]), content["sources"]
