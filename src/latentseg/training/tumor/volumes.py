"""Volumes with tumors: which scans of a data set are trained on, which are held out, and one of them read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from latentseg.errors import UsageError
from latentseg.imaging import Volume, read, read_labels
from latentseg.text.prompts import read_prompt
from latentseg.training.tumor.downloads import Scans, find_scans

VISIT = re.compile(r"(?<=-\d{5})-\d{3}$")  # at the end of BraTS's names since 2023


class TumorFolder(BaseModel):
    """A data set of :mod:`latentseg.training.tumor.downloads`.

    Attributes:
        folder: Where it is.
        prompt: What is asked for, such as "liver tumor".
        labels: Names of the labels that are the tumor: those of ``dataset.json``; of KiTS kidney, tumor and
            cyst; of BraTS necrosis, edema, enhancing and whole tumor.
        name: In tables; the folder's own where it is left out.
        sequence: Which of several sequences; contrast-enhanced T1 of BraTS, else the first.
        share: Of the scans, from the end of the list, that are kept for evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    prompt: str
    labels: tuple[str, ...]
    name: str = ""
    sequence: str = ""
    share: float = 0.2

    @model_validator(mode="after")
    def _checked(self) -> TumorFolder:
        if not self.labels or not 0 <= self.share <= 1:
            raise ValueError("name at least one label, and a share between 0 and 1")
        return self

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or self.folder.name

    @property
    def finding(self) -> str:
        """Name of the finding that the prompt means, or its text where the vocabulary does not know it."""
        prompt = read_prompt(self.prompt)
        return prompt.name or self.prompt


class VolumeCase(NamedTuple):
    """A scan and where its tumors are, ``(I, J, K)``; an empty mask says that there are none."""

    name: str
    image: Volume
    mask: NDArray[np.bool_]


class VolumeFiles:
    """The scans of a data set, found and named when they are asked for.

    Args:
        data: See there.

    Raises:
        InputError: A folder in another layout, or a label map without its image.
        UsageError: A label or a sequence that it does not have.
    """

    def __init__(self, data: TumorFolder) -> None:
        self.data, self.scans = data, find_scans(data.folder, sequence=data.sequence)
        self.ids = tumor_ids(data, self.scans)

    @property
    def held_out(self) -> range:
        """Numbers of the scans that are kept for evaluation; one at least where there are two.

        Of a patient who was scanned several times (BraTS) all scans or none are among them.
        """
        patients = [VISIT.sub("", name) for name in self.scans.names]
        count = len(patients)
        kept = min(max(round(self.data.share * count), 1), count - 1) if self.data.share and count > 1 else 0
        first = count - kept
        while 0 < first < count and patients[first] == patients[first - 1]:
            first -= 1
        return range(first, count)

    @property
    def training(self) -> range:
        """Numbers of the scans that are trained on."""
        return range(self.held_out.start)

    def case(self, number: int) -> VolumeCase:
        """Read a scan.

        Raises:
            InputError: A file that cannot be read.
            GeometryError: A label map on another grid.
        """
        scans = self.scans
        image = read(scans.images[number], modality=scans.modality)
        mask = np.isin(read_labels(scans.masks[number], like=image).array, self.ids)
        return VolumeCase(scans.names[number], image, mask)

    def cases(self, numbers: range) -> Iterator[VolumeCase]:
        """Some scans, one after the other."""
        return (self.case(number) for number in numbers)


def tumor_ids(data: TumorFolder, scans: Scans) -> tuple[int, ...]:
    """Ids of the labels that are the tumor.

    Raises:
        UsageError: The data set has no such label.
    """
    unknown = [name for name in data.labels if name not in scans.labels]
    if unknown:
        fix = f"choose from {', '.join(scans.labels)}"
        raise UsageError(f"no label {unknown[0]!r}", where=str(data.folder), fix=fix)
    return tuple(one for name in data.labels for one in scans.labels[name])
