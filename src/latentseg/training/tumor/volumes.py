"""Volumes with tumors: which scans of a data set are trained on, which are held out, and one of them read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from latentseg.errors import UsageError
from latentseg.imaging import Volume, read, read_labels
from latentseg.text.prompts import read_prompt
from latentseg.text.vocabulary import vocabulary
from latentseg.training.tumor.downloads import Scans, find_scans

VISIT = re.compile(r"(?<=-\d{5})-\d{3}$")  # at the end of BraTS's names since 2023


class TumorFolder(BaseModel):
    """A data set of :mod:`latentseg.training.tumor.downloads`.

    Attributes:
        folder: Where it is.
        prompt: What is asked for, such as "liver tumor"; nothing where only organs are learned from it.
        labels: Names of the labels that are the tumor: those of ``dataset.json``; of KiTS kidney, tumor and
            cyst; of BraTS necrosis, edema, enhancing and whole tumor.
        organs: Organ of the vocabulary of each label that outlines one or is a part of it, its tumor as well.
        name: In tables; the folder's own where it is left out.
        sequence: Which of several sequences; contrast-enhanced T1 of BraTS, else the first.
        share: Of the scans, from the end of the list, that are kept for evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    prompt: str = ""
    labels: tuple[str, ...] = ()
    organs: dict[str, str] = {}
    name: str = ""
    sequence: str = ""
    share: float = 0.2

    @model_validator(mode="after")
    def _checked(self) -> TumorFolder:
        if not (self.labels or self.organs) or bool(self.labels) != bool(self.prompt):
            raise ValueError("name a prompt and the labels that are the tumor, or organs, or all of them")
        if not 0 <= self.share <= 1:
            raise ValueError("name a share between 0 and 1")
        known = [concept.name for concept in vocabulary() if concept.kind == "organ"]
        for organ in self.organs.values():
            if organ not in known:
                raise ValueError(f"the vocabulary has no organ {organ!r}; it has {', '.join(known)}")
        return self

    @property
    def title(self) -> str:
        """The name in tables."""
        return self.name or self.folder.name

    @property
    def finding(self) -> str:
        """Name of the finding that the prompt means, or its text where the vocabulary does not know it."""
        if not self.prompt:
            return ""
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
        data: See :class:`TumorFolder`.

    Raises:
        InputError: A folder in another layout, or a label map without its image.
        UsageError: A label or a sequence that it does not have.
    """

    def __init__(self, data: TumorFolder) -> None:
        self.data, self.scans = data, find_scans(data.folder, sequence=data.sequence)
        check_labels((*data.labels, *data.organs), self.scans, where=data.folder)
        self.ids = tuple(one for name in data.labels for one in self.scans.labels[name])

    @property
    def held_out(self) -> range:
        """Numbers of the scans that are kept for evaluation; of tumors one at least where there are two.

        Of a patient who was scanned several times (BraTS) all scans or none are among them.
        """
        patients = [VISIT.sub("", name) for name in self.scans.names]
        count = len(patients)
        share = self.data.share if self.data.labels else 0.0
        kept = min(max(round(share * count), 1), count - 1) if share and count > 1 else 0
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

    def organs(self, number: int, names: Sequence[str]) -> tuple[Volume, NDArray[np.int64]]:
        """Read a scan and its organs ``(I, J, K)``: 0, or the number of one of ``names``, counted from 1.

        Raises:
            InputError: A file that cannot be read.
            GeometryError: A label map on another grid.
        """
        scans = self.scans
        image = read(scans.images[number], modality=scans.modality)
        labels = read_labels(scans.masks[number], like=image).array
        numbers = np.zeros(labels.shape, np.int64)
        for label, organ in self.data.organs.items():
            numbers[np.isin(labels, scans.labels[label])] = 1 + names.index(organ)
        return image, numbers

    def cases(self, numbers: range) -> Iterator[VolumeCase]:
        """Some scans, one after the other."""
        return (self.case(number) for number in numbers)


def check_labels(names: Sequence[str], scans: Scans, *, where: Path) -> None:
    """Refuse labels that a data set does not have.

    Raises:
        UsageError: There is one.
    """
    unknown = [name for name in names if name not in scans.labels]
    if unknown:
        fix = f"choose from {', '.join(scans.labels)}"
        raise UsageError(f"no label {unknown[0]!r}", where=str(where), fix=fix)
