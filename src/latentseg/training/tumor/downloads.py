"""Scans and label maps of tumor data sets as they are downloaded: nnU-Net and MSD, KiTS, BraTS, ATLAS.

A folder is known by what is in it; it may be the download itself or any folder above its cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from latentseg.errors import InputError, UsageError
from latentseg.imaging.files import case_name, is_hidden, natural_key
from latentseg.imaging.label_names import label_ids, members
from latentseg.imaging.nnunet import modality_of, read_description

KITS_LABELS = {"kidney": (1,), "tumor": (2,), "cyst": (3,)}
SEQUENCES = (("t1c", "t1ce"), ("t1n", "t1"), ("t2w", "t2"), ("t2f", "flair"))
"""BraTS's names of contrast-enhanced T1, plain T1, T2 and FLAIR, the newer first."""

NUMBER, SEG = re.compile(r"\d+"), re.compile(r"seg(?=\.nii)")
DEPTH = 3  # folders below the one that is given


@dataclass(frozen=True)
class Scans:
    """The scans of a data set.

    Attributes:
        names: Of the cases, in natural order.
        images: Their files.
        masks: Their label maps.
        labels: Label ids by name.
        modality: Of all of them.
    """

    names: tuple[str, ...]
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    labels: Mapping[str, tuple[int, ...]]
    modality: Literal["CT", "MR"]


def find_scans(folder: Path, *, sequence: str = "") -> Scans:
    """List a data set, without reading an image.

    Args:
        folder: See the module.
        sequence: Which of several sequences or channels; contrast-enhanced T1 of BraTS, else the first.

    Raises:
        InputError: Another layout, nothing in it, or label maps without an image.
        UsageError: A sequence that the data set does not have.
    """
    layouts: tuple[tuple[str, Callable[[Sequence[Path], str], Scans]], ...] = (
        ("dataset.json", _nnunet),
        ("case_*/segmentation.nii.gz", _kits),
        ("*/*[_-]seg.nii*", _brats),
    )
    for pattern, read in layouts:
        for depth in range(DEPTH):
            found = [path for path in folder.glob("*/" * depth + pattern) if not is_hidden(path)]
            if found:
                return read(sorted(found, key=natural_key), sequence)
    what = "no data set that is known here"
    fix = "give a folder with dataset.json, imagesTr and labelsTr, or the download of KiTS, BraTS or ATLAS"
    raise InputError(what, where=str(folder), fix=fix)


def _nnunet(found: Sequence[Path], sequence: str) -> Scans:
    """`imagesTr`, `labelsTr` and `dataset.json`; images are called like label maps or, as in ATLAS, alike."""
    folder, about = found[0].parent, read_description(found[0])
    ending = str(about.get("file_ending", ".nii.gz"))
    masks = _files(folder / "labelsTr", ending)
    channel, listed = _channel(about, sequence, where=str(found[0])), _files(folder / "imagesTr", ending)
    by_name = {path.name.removesuffix(ending): path for path in reversed(listed)}
    by_number = {"".join(NUMBER.findall(path.name)): path for path in listed}
    images = []
    for mask in masks:
        stem = mask.name.removesuffix(ending)
        image = by_name.get(f"{stem}_{channel:04d}") or by_name.get(stem)
        images.append(image or by_number.get("".join(NUMBER.findall(mask.name))))
    try:
        labels = {name: members(label) for name, label in label_ids(about.get("labels")).items()}
    except (TypeError, ValueError) as error:
        fix = 'write "labels": {"background": 0, "tumor": 1}'
        raise InputError(f"the labels cannot be read ({error})", where=str(found[0]), fix=fix) from error
    return _scans(tuple(map(case_name, masks)), images, masks, labels, modality_of(about))


def _kits(found: Sequence[Path], _sequence: str) -> Scans:
    """`case_00000/imaging.nii.gz` and `segmentation.nii.gz` of KiTS19, 21 and 23."""
    names = tuple(path.parent.name for path in found)
    images = [_existing(path.with_name("imaging.nii.gz")) for path in found]
    return _scans(names, images, found, KITS_LABELS, "CT")


def _brats(found: Sequence[Path], sequence: str) -> Scans:
    """`NAME/NAME_t1ce.nii.gz` and `NAME_seg.nii.gz` until 2021; since 2023 with dashes and other ids."""
    known = [name for group in SEQUENCES for name in group]
    if sequence and sequence.lower() not in known:
        raise _no_sequence(sequence, known, where=str(found[0].parent))
    group = next(one for one in SEQUENCES if not sequence or sequence.lower() in one)
    images = []
    for path in found:
        places = [path.with_name(SEG.sub(name, path.name)) for name in group]
        images.append(next((place for place in places if place.exists()), None))
    enhancing = 3 if "-seg.nii" in found[0].name else 4
    labels = {"necrosis": (1,), "edema": (2,), "enhancing": (enhancing,), "whole tumor": (1, 2, enhancing)}
    return _scans(tuple(path.parent.name for path in found), images, found, labels, "MR")


def _scans(
    names: tuple[str, ...],
    images: Sequence[Path | None],
    masks: Sequence[Path],
    labels: Mapping[str, tuple[int, ...]],
    modality: Literal["CT", "MR"],
) -> Scans:
    """What was found, if every label map has its image."""
    missing = [name for name, image in zip(names, images, strict=True) if image is None]
    if missing:
        what = f"{len(missing)} of {len(names)} label maps have no image, such as {missing[0]}"
        raise InputError(what, where=str(masks[0].parent.parent), fix="add the images, or remove them")
    there = tuple(image for image in images if image is not None)
    return Scans(names, there, tuple(masks), labels, modality)


def _files(folder: Path, ending: str) -> list[Path]:
    found = [path for path in folder.glob(f"*{ending}") if not is_hidden(path)]
    if not found:
        fix = "put the files where nnU-Net expects them"
        raise InputError(f"no files *{ending}", where=str(folder), fix=fix)
    return sorted(found, key=natural_key)


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


def _channel(about: Mapping[str, Any], sequence: str, *, where: str) -> int:
    """Number of a channel by its name in ``dataset.json``."""
    channels = about.get("channel_names") or about.get("modality") or {}
    names = {str(name).lower(): int(number) for number, name in dict(channels).items()}
    if sequence and sequence.lower() not in names:
        raise _no_sequence(sequence, list(names), where=where)
    return names.get(sequence.lower(), 0)


def _no_sequence(name: str, known: Sequence[str], *, where: str) -> UsageError:
    return UsageError(f"no sequence {name!r}", where=where, fix=f"choose from {', '.join(known)}")
