"""Which patients a training may see: a split that is written down once and read by packing and evaluation.

Files belong to a patient by the part of their name that a pattern captures. Pictures whose patients are lost
are numbered along patients instead: a block of numbers is kept for evaluation, and a gap on both sides of
it is used by neither, as neighbors may be near-duplicates of one another.
"""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Literal

from pydantic import BaseModel, Field, model_validator

Part = Literal["training", "held out", "gap"]


class HeldOut(BaseModel, extra="forbid", frozen=True):
    """What is kept for evaluation of the files of one kind.

    Attributes:
        files: Glob of the files it is about, relative to the data folder.
        patient: Regular expression on a file's name, whose first group is the patient or the number.
        patients: Patients that are kept for evaluation.
        blocks: First and last numbers of the blocks that are kept for evaluation.
        gap: So many numbers on both sides of a block are used by neither.
    """

    files: str
    patient: str = r"^([^._]+)"
    patients: tuple[str, ...] = ()
    blocks: tuple[tuple[int, int], ...] = ()
    gap: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _captures(self) -> HeldOut:
        """Require a valid expression that captures something."""
        try:
            groups = re.compile(self.patient).groups
        except re.error as error:
            raise ValueError(f"{self.patient!r} is no regular expression ({error})") from error
        if not groups:
            raise ValueError(f"{self.patient!r} has no group that captures the patient")
        return self

    def part(self, name: str) -> Part:
        """The part of the split that a file belongs to.

        Args:
            name: The file's name without its folder.

        Raises:
            ValueError: No patient can be read from the name.
        """
        found = re.search(self.patient, name)
        if found is None:
            raise ValueError(f"no patient can be read from {name!r} by {self.patient!r}")
        patient = found.group(1)
        if patient in self.patients:
            return "held out"
        distances = [max(low - int(patient), int(patient) - high) for low, high in self.blocks]
        if not distances or min(distances) > self.gap:
            return "training"
        return "held out" if min(distances) <= 0 else "gap"


class Split(BaseModel, extra="forbid", frozen=True):
    """A split of the data folder, as read from a YAML file; files that no row is about may be trained on.

    Example:
        >>> split = Split(rows=[HeldOut(files="chests/*.jpg", blocks=[(100, 199)], gap=20)])
        >>> [split.part(f"chests/{number}.jpg") for number in (60, 90, 150)]
        ['training', 'gap', 'held out']
    """

    rows: tuple[HeldOut, ...] = ()

    def part(self, path: PurePath | str) -> Part:
        """The part of the split that a file belongs to.

        Args:
            path: Relative to the data folder.

        Raises:
            ValueError: A row is about the file, and no patient can be read from its name.
        """
        path = PurePath(path)
        parts = [row.part(path.name) for row in self.rows if path.match(row.files)]
        return "held out" if "held out" in parts else "gap" if "gap" in parts else "training"
