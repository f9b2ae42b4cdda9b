"""Supports: the examples that show what to segment, as canonical slices with masks. They need no network."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import (
    Canonical,
    Volume,
    check_same_grid,
    fit_square,
    normalize,
    read,
    read_labels,
    to_canonical,
)
from latentseg.imaging.files import RASTER_FORMATS, SUFFIXES, case_name, suffix_of
from latentseg.imaging.formats import kind_of
from latentseg.imaging.intensity import Modality
from latentseg.imaging.orientation import warn_of_orientation
from latentseg.methods.fewshot.support_scan import SupportScan

SIZE = 256
THIRDS = 3
NARROWEST = 64  # a slice this many times longer than wide would be less than four pixels wide
MASK_ENDINGS = ("_mask", "_label", "_seg")
NAMES_FILE = "labels.json"

FilePair = tuple[str | Path, str | Path]


@dataclass(frozen=True, eq=False)
class Support:
    """One target, shown in ``n`` slices of one or more scans.

    Attributes:
        name: What the target is called in outputs.
        images: ``(n, 256, 256)`` float32 in [-1, 1], canonical axial slices.
        masks: ``(n, 256, 256)`` bool.
        sources: For each slice, the scan it was taken from.
        flat: Whether all of them are 2-D images.
        scans: The whole scans they come from, where those tell on which slices the target is not.
    """

    name: str
    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    sources: tuple[str, ...]
    flat: bool = False
    scans: tuple[SupportScan, ...] = ()

    def __len__(self) -> int:
        """``n``, the number of shots."""
        return len(self.images)

    @classmethod
    def from_files(
        cls,
        pairs: Sequence[FilePair],
        *,
        name: str,
        label: int | None = None,
        slices: int = THIRDS,
        modality: Modality | None = None,
        orientation: str | None = None,
    ) -> Support:
        """Read pairs of image and mask.

        Args:
            pairs: Paths of images and their masks, one pair per scan (or per slice, for pictures).
            name: What the target is called.
            label: Which value of the masks is the target; not needed where a mask holds one value.
            slices: Slices taken per scan, at the centers of that many equal parts of the target's extent
                (three in the few-shot field).
            modality: CT or MR, where the files do not tell.
            orientation: Axis codes that overrule wrong affines, see :func:`latentseg.read`.

        Raises:
            InputError: A file that cannot be read, a mask that is empty or lacks the label.
            GeometryError: An image and a mask on different grids.
            UsageError: No pairs, or a mask with several labels and none chosen.
        """
        if not pairs:
            raise UsageError(
                f"no example was given for {name!r}", fix="give at least one image with its mask"
            )
        shown = []
        for image_path, mask_path in pairs:
            image = read_example(image_path, modality=modality, orientation=orientation)
            mask = read_mask(mask_path, like=image, name=name if label is None else None)
            shown.append(cls.from_volumes(image, mask, name=name, label=label, slices=slices))
        return cls.join(shown)

    @classmethod
    def from_volumes(
        cls, image: Volume, mask: Volume, *, name: str, label: int | None = None, slices: int = THIRDS
    ) -> Support:
        """Take the support slices of one scan; the parameters are those of :meth:`from_files`."""
        if slices < 1:
            raise UsageError(f"{slices} support slices were asked for", fix="take at least one")
        check_same_grid(image, mask)
        where = str(mask.source or image.source or "")
        chosen = choose_label(mask.array, label=label, where=where)
        canonical = to_canonical(image)
        check_slices(canonical, where=str(image.source or "image"))
        inside = canonical.apply(mask.array == chosen)
        pixel_mm = canonical.spacing_mm[1:]
        values = normalize(canonical.slices, modality=image.modality, where=str(image.source or "image"))
        at = support_positions(inside, slices)
        images, _ = fit_square(values, SIZE, pixel_mm=pixel_mm)
        masks = fit_masks(inside[at], pixel_mm=pixel_mm)
        region = fit_masks(np.asarray(inside.any(0, keepdims=True)), pixel_mm=pixel_mm)[0]
        scans = SupportScan.of(
            images, np.asarray(inside.any((1, 2))), region, step_mm=canonical.spacing_mm[0], chosen=at
        )
        return cls(name, images[at], masks, (image.name,) * len(at), is_flat(image), scans)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        target: str,
        label: int | None = None,
        slices: int = THIRDS,
        modality: Modality | None = None,
        orientation: str | None = None,
    ) -> Support:
        """Read a folder of examples (see :class:`SupportFolder` for its layout).

        Args:
            folder: The folder.
            target: What to show; one of the folder's names, where it has any.
            label: Label id of the target, where the folder does not name its labels.
            slices: As in :meth:`from_files`.
            modality: As there.
            orientation: As there.

        Raises:
            UsageError: The folder does not name the target; the message says what it holds.
            InputError: No pairs, or a pair that cannot be used.
        """
        examples = SupportFolder(folder)
        label = examples.label(target) if label is None else label
        shown = []
        for image_path, mask_path in examples.pairs:
            image = read_example(image_path, modality=modality, orientation=orientation)
            mask = read_mask(mask_path, like=image, name=target if label is None else None)
            if label is None or (mask.array == label).any():
                shown.append(cls.from_volumes(image, mask, name=target, label=label, slices=slices))
        if not shown:
            raise InputError(
                f"no example holds {target!r} (label {label})",
                where=str(folder),
                fix="check the label ids, or choose other targets",
            )
        return cls.join(shown)

    @classmethod
    def join(cls, supports: Sequence[Support]) -> Support:
        """One support with the slices of several, in order."""
        return cls(
            supports[0].name,
            np.concatenate([s.images for s in supports]),
            np.concatenate([s.masks for s in supports]),
            tuple(source for s in supports for source in s.sources),
            all(s.flat for s in supports),
            tuple(scan for s in supports for scan in s.scans),
        )


class SupportFolder:
    """A folder of examples.

    Images and masks lie side by side (``a.nii.gz`` with ``a_mask.nii.gz``, ``_label`` or ``_seg``) or in two
    folders (``images/`` with ``labels/`` or ``masks/``, equal names; nnU-Net's ``_0000`` is understood).
    ``labels.json``, or nnU-Net's ``dataset.json``, names the label ids: ``{"spleen": 1, "liver": 6}``.
    Without it a mask holds one target.

    Attributes:
        pairs: Image and mask of each example, by name.
        names: Label ids by name, empty where the folder has no names.

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
        self.names = _names(self.folder)

    def label(self, target: str) -> int | None:
        """Label id of a target, ``None`` where masks hold one target each.

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


def read_example(
    path: str | Path, *, modality: Modality | None = None, orientation: str | None = None
) -> Volume:
    """Read the scan of an example, and warn where its header surely has the axes wrong."""
    image = read(path, modality=modality, orientation=orientation)
    if orientation is None:
        warn_of_orientation(image)
    return image


def read_mask(path: str | Path, *, like: Volume, name: str | None = None) -> Volume:
    """Read a mask, and say it plainly when it is flat and the scan is not.

    Args:
        path: The mask; of a DICOM RTSTRUCT or SEG the structure of that ``name``.
        like: Its scan.
        name: What the target is called.

    Raises:
        GeometryError: The mask is on another grid than the scan.
    """
    scan = like if kind_of(Path(path)) == "DICOM" else None  # contours have no grid of their own
    mask = read_labels(path, like=scan, orientation=like.orientation, name=name)
    if (mask.shape[2] == 1) != (like.shape[2] == 1):
        flat, deep = ("image", "mask") if like.shape[2] == 1 else ("mask", "image")
        raise GeometryError(
            f"the {flat} is a single slice and the {deep} a volume ({like.shape} against {mask.shape})",
            where=f"{like.source} and {path}",
            fix="give an image and a mask of the same slices",
        )
    check_same_grid(like, mask)
    return mask


def choose_label(labels: NDArray[Any], *, label: int | None, where: str) -> int:
    """The value of a label map that is the target.

    Raises:
        InputError: The map is empty, or does not hold the label.
        UsageError: The map holds several labels and none was chosen.
    """
    present = [int(v) for v in np.unique(labels) if v != 0]
    if not present:
        raise InputError(
            "the support mask is empty", where=where, fix="give a mask in which the target is marked"
        )
    if label is None and len(present) > 1:
        raise UsageError(
            f"the mask holds {len(present)} labels ({_listing(present)})",
            where=where,
            fix="say which with label (--label), or name them in labels.json",
        )
    chosen = present[0] if label is None else label
    if chosen not in present:
        raise InputError(
            f"label {chosen} is not in the mask (it holds {_listing(present)})",
            where=where,
            fix="choose one of those",
        )
    return chosen


def is_flat(volume: Volume) -> bool:
    """Whether a volume was read from a 2-D image: one picture, or a file whose header has two axes."""
    if volume.source is None or volume.shape[2] != 1 or hasattr(volume.header, "series"):
        return False
    if SUFFIXES.get(suffix_of(volume.source)) in RASTER_FORMATS or volume.source.is_dir():
        return True
    header = volume.header
    return header is not None and int(getattr(header, "dimensions", 0) or header["dim"][0]) < 3


def check_slices(canonical: Canonical, *, where: str) -> None:
    """Refuse slices too narrow to be seen, such as those of a single sagittal slice or of a damaged header.

    Raises:
        GeometryError: Height and width differ more than 64 times.
    """
    _, height, width = canonical.slices.shape
    sides_mm = height * canonical.spacing_mm[1], width * canonical.spacing_mm[2]
    if max(sides_mm) > NARROWEST * min(sides_mm):
        raise GeometryError(
            f"the axial slices measure {sides_mm[0]:.4g} x {sides_mm[1]:.4g} mm, too narrow to segment",
            where=where,
            fix="check the spacing and the orientation in the header",
        )


def fit_masks(inside: NDArray[np.bool_], *, pixel_mm: tuple[float, float]) -> NDArray[np.bool_]:
    """Masks ``(n, H, W)`` as ``(n, 256, 256)``; one too small for any keeps the pixel it lies in most."""
    masks = fit_square(inside, SIZE, kind="mask", pixel_mm=pixel_mm)[0].astype(bool)
    lost = ~masks.any((1, 2))
    if lost.any():
        cover = fit_square(inside[lost], SIZE, kind="soft", pixel_mm=pixel_mm)[0]
        masks[lost] = cover >= cover.max((1, 2), keepdims=True)
    return masks


def support_positions(inside: NDArray[np.bool_], slices: int) -> list[int]:
    """Slices of a mask ``(S, H, W)`` at the centers of ``slices`` equal parts of its own, without repeats.

    For three slices these are 1/6, 1/2 and 5/6 of the extent (spec 1.11).
    """
    held = np.flatnonzero(inside.any((1, 2)))
    return sorted({int(held[int((k + 0.5) / slices * len(held))]) for k in range(slices)})


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images = next((folder / n for n in ("images", "imagesTr") if (folder / n).is_dir()), None)
    masks = next((folder / n for n in ("labels", "masks", "labelsTr") if (folder / n).is_dir()), None)
    if images is not None and masks is not None:
        by_name = {case_name(path): path for path in _files(masks)}
        return [(path, by_name[case_name(path)]) for path in _files(images) if case_name(path) in by_name]
    by_name = {case_name(path): path for path in _files(folder)}
    return [
        (path, by_name[name + ending])
        for name, path in sorted(by_name.items())
        for ending in MASK_ENDINGS
        if name + ending in by_name
    ]


def _files(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.is_file() and any(p.name.lower().endswith(s) for s in SUFFIXES)
    )


def _names(folder: Path) -> dict[str, int]:
    for name in (NAMES_FILE, "dataset.json"):
        path = folder / name
        if not path.exists():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            table = content["labels"] if name == "dataset.json" else content
            if all(key.isdigit() for key in table):  # the first version of nnU-Net's: {"1": "spleen"}
                table = {value: key for key, value in table.items()}
            return {str(key): int(value) for key, value in table.items() if int(value) != 0}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the label names cannot be read ({error})",
                where=str(path),
                fix='write {"spleen": 1, "liver": 6}',
            ) from error
    return {}


def _listing(values: Sequence[int], most: int = 12) -> str:
    return ", ".join(map(str, values[:most])) + (", ..." if len(values) > most else "")
