"""Corrected masks as further examples: one scan that went wrong makes all that follow go better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, default_suffix, read_labels, write_like
from latentseg.imaging.files import written_whole
from latentseg.imaging.formats import as_volume
from latentseg.imaging.label_names import Label
from latentseg.methods.fewshot.support_folder import IMAGE_FOLDERS, MASK_FOLDERS, NAMES_FILE, SupportFolder
from latentseg.methods.fewshot.support_masks import marked, read_example, read_mask

MASK_ENDING = "_mask"


def add_example(
    folder: str | Path, image: Any, mask: Any, *, target: str, label: Label | None = None
) -> Path:
    """Add a scan and its corrected mask to a folder of examples; a new folder is made where there is none.

    An example of the same name keeps its other targets, and gets the new mask of this one.

    Args:
        folder: Of examples, see :class:`SupportFolder`.
        image: The scan: a path, or an image in memory as in :func:`latentseg.read`.
        mask: What the target really is, on every slice or on a few.
        target: What the folder calls it.
        label: Which value of the mask it is; not needed where the mask holds one.

    Returns:
        The mask that was written.

    Raises:
        UsageError: The folder does not take this target.
        InputError: A file that cannot be read or written, an empty mask, or another scan of this name.
        GeometryError: An image and a mask on different grids.

    Example:
        >>> add_example("examples", "case7.nii.gz", "corrected.nii.gz", target="liver")  # doctest: +SKIP
    """
    scan = read_example(image)
    corrected = read_mask(mask, like=scan, name=target if label is None else None)
    inside = marked(corrected.array, label=label, where=str(corrected.source or "the mask"))
    base = Path(folder)
    names = known_names(base)
    value = label_of(target, names, base)
    image_path, mask_path = paths_of(base, scan)
    labels = with_target(mask_path, inside, value=value, scan=scan)
    keep_image(image_path, scan)
    if names is not None and target not in names:
        with written_whole(base / NAMES_FILE) as temporary:
            temporary.write_text(json.dumps(names | {target: value}, indent=2) + "\n", encoding="utf-8")
    return write_like(labels, like=scan, path=mask_path)


def known_names(folder: Path) -> dict[str, Label | None] | None:
    """The names of a folder's labels; none yet of a new folder, None where examples have no names."""
    if not folder.exists() or not any(folder.iterdir()):
        return {}
    names = SupportFolder(folder).names
    return names or None


def label_of(target: str, names: dict[str, Label | None] | None, folder: Path) -> int:
    """The label of a target in the masks of a folder, a new one where it is not known yet.

    Raises:
        UsageError: It has no label of its own there.
    """
    if names is None:
        return 1
    value = names.get(target, 0)
    if value == 0 and (not names or (folder / NAMES_FILE).exists()):
        numbers = [n for v in names.values() if v for n in np.atleast_1d(v)]
        return max((int(n) for n in numbers), default=0) + 1
    if not isinstance(value, int) or value == 0:
        raise UsageError(
            f"{target!r} has no label of its own among the examples",
            where=str(folder),
            fix=f"name it with one label in {NAMES_FILE}, or add to another folder",
        )
    return value


def paths_of(folder: Path, scan: Volume) -> tuple[Path, Path]:
    """Where the image and the mask of an example belong, by the layout of the folder."""
    suffix = default_suffix(scan)
    images, masks = (
        next((folder / name for name in known if (folder / name).is_dir()), None)
        for known in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    if images is None or masks is None:
        return folder / f"{scan.name}{suffix}", folder / f"{scan.name}{MASK_ENDING}{suffix}"
    channel = "_0000" if images.name == "imagesTr" else ""
    return images / f"{scan.name}{channel}{suffix}", masks / f"{scan.name}{suffix}"


def with_target(path: Path, inside: NDArray[np.bool_], *, value: int, scan: Volume) -> NDArray[np.integer]:
    """The label map of an example with the target where it really is, and everything else as it was."""
    labels = np.zeros(scan.shape, np.int64)
    if path.exists():
        labels = read_labels(path, like=scan).array.astype(np.int64)
    return np.where(inside, value, np.where(labels == value, 0, labels))


def keep_image(path: Path, scan: Volume) -> None:
    """Write the scan beside its mask, once.

    Raises:
        InputError: Another scan of this name is there.
    """
    if not path.exists():
        write_like(scan.array, like=scan, path=path, kind="image")
        return
    known = as_volume(path, modality=scan.modality)
    if known.shape != scan.shape or not np.array_equal(known.array, scan.array):
        raise InputError(
            "another scan of this name is among the examples", where=str(path), fix="rename one of the two"
        )
