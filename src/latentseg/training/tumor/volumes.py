"""Volumes with tumors from any folder in the layout of nnU-Net: MSD, KiTS23, BraTS or ATLAS alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.files import case_name, is_hidden, natural_key
from latentseg.imaging.label_names import label_ids
from latentseg.imaging.nnunet import modality_of, read_description
from latentseg.text.prompts import read_prompt


class TumorFolder(BaseModel):
    """A data set: ``imagesTr``, ``labelsTr`` and ``dataset.json``.

    Attributes:
        folder: Where it is.
        prompt: What is asked for, such as "liver tumor".
        labels: Names of the labels that are the tumor, as ``dataset.json`` has them.
        name: In tables; the folder's own where it is left out.
        share: Of the scans, from the end of the list, that are kept for evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: Path
    prompt: str
    labels: tuple[str, ...]
    name: str = ""
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
        InputError: A folder in another layout, a label that it does not have, or a scan without its image.
    """

    def __init__(self, data: TumorFolder) -> None:
        self.data, about = data, read_description(data.folder / "dataset.json")
        self.ending = str(about.get("file_ending", ".nii.gz"))
        where = data.folder / "labelsTr"
        found = [path for path in where.glob(f"*{self.ending}") if not is_hidden(path)]
        self.labels = sorted(found, key=natural_key)
        if not self.labels:
            fix = "put the label maps where nnU-Net expects them"
            raise InputError(f"no label maps *{self.ending}", where=str(where), fix=fix)
        self.modality = modality_of(about)
        self.ids = tumor_ids(data, about)
        missing = [label.name for label in self.labels if not self._image(label).exists()]
        if missing:
            what = f"{len(missing)} of {len(self.labels)} label maps have no image, such as {missing[0]}"
            raise InputError(what, where=str(data.folder / "imagesTr"), fix="add the images, or remove them")

    @property
    def held_out(self) -> range:
        """Numbers of the scans that are kept for evaluation; one at least where there are two."""
        count = len(self.labels)
        kept = min(max(round(self.data.share * count), 1), count - 1) if self.data.share and count > 1 else 0
        return range(count - kept, count)

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
        label = self.labels[number]
        image = read(self._image(label), modality=self.modality)
        mask = np.isin(read_labels(label, like=image).array, self.ids)
        return VolumeCase(case_name(label), image, mask)

    def cases(self, numbers: range) -> Iterator[VolumeCase]:
        """Some scans, one after the other."""
        return (self.case(number) for number in numbers)

    def _image(self, label: Path) -> Path:
        """The image of a label map; of several channels the first."""
        folder, stem = self.data.folder / "imagesTr", label.name.removesuffix(self.ending)
        channel = folder / f"{stem}_0000{self.ending}"
        return channel if channel.exists() else folder / label.name


def tumor_ids(data: TumorFolder, about: dict[str, Any]) -> tuple[int, ...]:
    """Ids of the labels that are the tumor.

    Raises:
        InputError: ``dataset.json`` does not name the labels as ids.
        UsageError: It has no such label.
    """
    where = str(data.folder / "dataset.json")
    try:
        table = label_ids(about.get("labels"))
    except (TypeError, ValueError) as error:
        fix = 'write "labels": {"background": 0, "tumor": 1}'
        raise InputError(f"the labels cannot be read ({error})", where=where, fix=fix) from error
    unknown = [name for name in data.labels if name not in table]
    if unknown:
        raise UsageError(f"no label {unknown[0]!r}", where=where, fix=f"choose from {', '.join(table)}")
    ids = [table[name] for name in data.labels]
    return tuple(one for label in ids for one in (label if isinstance(label, tuple) else (label,)))
