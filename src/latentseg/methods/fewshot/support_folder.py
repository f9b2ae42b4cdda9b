"""A folder of examples: which image goes with which mask, and what the masks show."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

from latentseg.errors import InputError, UsageError
from latentseg.imaging.files import MASK_ENDINGS, case_name, find_name, is_hidden, suffix_of
from latentseg.imaging.formats import structure_names
from latentseg.imaging.label_names import Label, label_ids

NAMES_FILE = "labels.json"
IMAGE_FOLDERS = ("images", "imagesTr")
MASK_FOLDERS = ("labels", "masks", "labelsTr")


class SupportFolder:
    """A folder of examples.

    Images and masks lie side by side (``a.nii.gz`` with ``a_mask.nii.gz``, ``_label`` or ``_seg``, or with
    Slicer's ``a.seg.nrrd``) or in two folders (``images/`` with ``labels/`` or ``masks/``, equal names;
    nnU-Net's ``_0000`` is understood). ``labels.json``, or nnU-Net's ``dataset.json``, names the label ids:
    ``{"spleen": 1, "liver": 6}``, and regions of several: ``{"whole tumor": [1, 2]}``. Slicer's files name
    their segments themselves. Without names a mask holds one target. Hidden files are left out.

    Attributes:
        pairs: Image and mask of each example, by name.
        names: Label of each name, ``None`` where the masks name their structures themselves; empty where
            nothing has a name.

    Raises:
        InputError: Not a folder, no pair in it, or names that cannot be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise InputError("not a folder", where=str(folder), fix="give a folder of images with masks")
        self.pairs = _pairs(self.folder)
        if not self.pairs:
            raise InputError(
                "no image with its mask was found",
                where=str(folder),
                fix="name them NAME.nii.gz and NAME_mask.nii.gz, or use the folders images and labels",
            )
        self.names: dict[str, Label | None] = dict(_names(self.folder)) or _own_names(self.pairs)

    def label(self, target: str) -> Label | None:
        """Label of a target, ``None`` where masks hold one target each or name them.

        Raises:
            UsageError: The folder names its labels, and not this one.
        """
        if not self.names:
            return None
        if target not in self.names:
            close = difflib.get_close_matches(target, self.names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise UsageError(
                f"unknown target {target!r}",
                where=str(self.folder),
                fix=f"{hint}choose from {', '.join(self.names)}",
            )
        return self.names[target]

    def showing(self, target: str) -> list[tuple[Path, Path]]:
        """The pairs that can show a target: all but those whose masks name others only."""
        if self.names.get(target, 0) is not None:
            return self.pairs
        return [pair for pair in self.pairs if find_name(target, structure_names(pair[1]))]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images = next((folder / n for n in IMAGE_FOLDERS if (folder / n).is_dir()), None)
    masks = next((folder / n for n in MASK_FOLDERS if (folder / n).is_dir()), None)
    if images is not None and masks is not None:
        by_name = {re.sub(r"\.seg$", "", case_name(path)): path for path in _files(masks)}
        return [(path, by_name[case_name(path)]) for path in _files(images) if case_name(path) in by_name]
    by_name = {case_name(path): path for path in _files(folder)}
    return [
        (path, by_name[name + ending])
        for name, path in sorted(by_name.items())
        for ending in MASK_ENDINGS
        if name + ending in by_name
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if suffix_of(p) and not is_hidden(p) and p.is_file())


def _names(folder: Path) -> dict[str, Label]:
    for name in (NAMES_FILE, "dataset.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return label_ids(content["labels"] if name == "dataset.json" else content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"the label names cannot be read ({error})",
                where=str(path),
                fix='write {"spleen": 1, "liver": 6}',
            ) from error
    return {}


def _own_names(pairs: list[tuple[Path, Path]]) -> dict[str, Label | None]:
    """Names of the structures in the masks, where those tell."""
    names: list[str] = []
    for _, mask in pairs:
        names += [name for name in structure_names(mask) if find_name(name, names) is None]
    return dict.fromkeys(names)
