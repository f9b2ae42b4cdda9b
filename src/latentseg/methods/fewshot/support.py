"""Supports: the examples that show what to segment, as canonical slices with masks. They need no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import (
    fit_square,
    normalize,
    to_canonical,
)
from latentseg.imaging.formats import as_volume
from latentseg.imaging.intensity import Modality
from latentseg.imaging.label_names import Label, described
from latentseg.imaging.network_input import check_slices, square_spacing_mm
from latentseg.imaging.objects import kind_name
from latentseg.methods.fewshot.support_folder import SupportFolder
from latentseg.methods.fewshot.support_masks import is_flat, marked, masks_shown, read_example, read_mask
from latentseg.methods.fewshot.support_scan import SupportScan

SIZE = 256
THIRDS = 3

Pair = tuple[Any, Any]
"""An image and its mask: paths, or images in memory (see :func:`latentseg.read`)."""


@dataclass(frozen=True, eq=False)
class Support:
    """One target, shown in ``n`` slices of one or more scans.

    Attributes:
        name: What the target is called in outputs.
        images: ``(n, 256, 256)`` float32 in [-1, 1], canonical axial slices.
        masks: ``(n, 256, 256)`` bool.
        sources: For each slice, the scan it was taken from.
        flat: Whether all of them are 2-D images.
        scans: The whole scans they come from; none of 2-D images.
        ranged: The images from the smallest to the largest value of their scans, as weights of the released
            recipe want them; None where that is not known.
    """

    name: str
    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    sources: tuple[str, ...]
    flat: bool = False
    scans: tuple[SupportScan, ...] = ()
    ranged: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """``n``, the number of shots."""
        return len(self.images)

    def __repr__(self) -> str:
        """One line: the target, and how many slices of which scans show it."""
        scans = list(dict.fromkeys(self.sources))
        named = ", ".join(scans[:3]) + (f" and {len(scans) - 3} more" if len(scans) > 3 else "")
        return f"Support({self.name!r}: {len(self)} slice{'s' if len(self) != 1 else ''} of {named})"

    def _repr_html_(self) -> str:
        """Its slices with the target, for notebooks."""
        from latentseg.imaging.previews import SUPPORT, Canvas, Layer, figure, montage, overlay

        pictures = [
            overlay(image, layers=[Layer(mask, SUPPORT, "both")], canvas=Canvas(height=200, caption=source))
            for image, mask, source in zip(self.images, self.masks, self.sources, strict=True)
        ]
        return figure(montage(pictures, columns=min(3, len(pictures))), caption=repr(self))

    @classmethod
    def from_files(  # noqa: PLR0913 - each says another thing about the files
        cls,
        pairs: Sequence[Pair] | Pair,
        *,
        name: str,
        label: Label | None = None,
        slices: int = THIRDS,
        complete: bool | None = None,
        modality: Modality | None = None,
        orientation: str | None = None,
    ) -> Support:
        """Read pairs of image and mask.

        Args:
            pairs: Images and their masks, one pair per scan (or per slice, for pictures); one pair needs no
                list. Each is a path, or an image in memory as in :func:`latentseg.read`.
            name: What the target is called.
            label: Which value of the masks is the target, or which values together; not needed where a mask
                holds one value, or names its structures.
            slices: Slices taken per scan, at the centers of that many equal parts of the target's extent
                (three in the few-shot field).
            complete: Whether each mask shows the target on every slice that holds it. Say False where a few
                slices were marked; None takes three or more that follow each other without a gap for all.
            modality: CT or MR, where the files do not tell.
            orientation: Axis codes that overrule wrong affines, see :func:`latentseg.read`.

        Raises:
            InputError: A file that cannot be read, a mask that is empty or lacks the label.
            GeometryError: An image and a mask on different grids.
            UsageError: No pairs, or a mask with several labels and none chosen.

        Example:
            >>> support = Support.from_files(("ct.nii.gz", "liver.nii.gz"), name="liver")  # doctest: +SKIP
        """
        shown = []
        for image, mask in _listed(pairs, name):
            scan = read_example(image, modality=modality, orientation=orientation)
            how: Any = {"label": label, "slices": slices, "complete": complete}
            shown.append(cls.from_volumes(scan, mask, name=name, **how))
        return cls.join(shown)

    @classmethod
    def from_volumes(
        cls,
        image: Any,
        mask: Any,
        *,
        name: str,
        label: Label | None = None,
        slices: int = THIRDS,
        complete: bool | None = None,
    ) -> Support:
        """Take the support slices of one scan; the parameters are those of :meth:`from_files`."""
        if slices < 1:
            raise UsageError(f"{slices} support slices were asked for", fix="take at least one")
        image = as_volume(image)
        mask = read_mask(mask, like=image, name=name if label is None else None)
        inside = marked(mask.array, label=label, where=str(mask.source or image.source or ""))
        canonical = to_canonical(image)
        check_slices(canonical, where=str(image.source or "image"))
        inside = canonical.apply(inside)
        pixel_mm = canonical.spacing_mm[1:]
        how: Any = {"modality": image.modality, "where": str(image.source or "image")}
        values = normalize(canonical.slices, **how)
        held = np.flatnonzero(inside.any((1, 2)))
        at = sorted({int(held[position]) for position in support_positions(len(held), count=slices)})
        images, _ = fit_square(values, SIZE, pixel_mm=pixel_mm)
        masks = fit_masks(inside, pixel_mm=pixel_mm)
        step_mm, pixel = square_spacing_mm(canonical, SIZE)[:2]
        scan = SupportScan.of(images, masks, step_mm=step_mm, side_mm=pixel * SIZE, complete=complete)
        scans = () if is_flat(image) else (scan,)
        stretched = normalize(canonical.slices, whole_range=True, only=at, **how)
        ranged, _ = fit_square(stretched, SIZE, pixel_mm=pixel_mm)
        return cls(name, images[at], masks[at], (image.name,) * len(at), is_flat(image), scans, ranged)

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        *,
        target: str,
        label: Label | None = None,
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
        how: Any = {"label": label, "slices": slices, "modality": modality, "orientation": orientation}
        return cls.several_from_folder(folder, targets=[target], **how)[0]

    @classmethod
    def several_from_folder(
        cls,
        folder: str | Path,
        *,
        targets: Sequence[str],
        label: Label | None = None,
        slices: int = THIRDS,
        modality: Modality | None = None,
        orientation: str | None = None,
    ) -> list[Support]:
        """Read a folder of examples once for several targets; arguments and errors of :meth:`from_folder`."""
        examples = SupportFolder(folder)
        labels = {name: examples.label(name) if label is None else label for name in targets}
        showing = {name: examples.showing(name) for name in targets}
        shown: dict[str, list[Support]] = {name: [] for name in targets}
        for pair in examples.pairs:
            wanted = {name: value for name, value in labels.items() if pair in showing[name]}
            if wanted:
                image = read_example(pair[0], modality=modality, orientation=orientation)
                for name, mask in masks_shown(pair[1], wanted, like=image):
                    one = cls.from_volumes(image, mask, name=name, label=wanted[name], slices=slices)
                    shown[name].append(one)
        for name, value in labels.items():
            if not shown[name]:
                raise InputError(
                    f"no example holds {name!r}{f' ({described(value)})' if value else ''}",
                    where=str(folder),
                    fix="check the label ids, or choose other targets",
                )
        return [cls.join(shown[name]) for name in targets]

    def with_corrected(
        self, image: Any, mask: Any, *, label: Label | None = None, complete: bool | None = None
    ) -> Support:
        """The same target, shown in one more scan, such as one whose result was corrected.

        A mask of a few slices is enough: what was not looked at is then not taken for something else.

        Args:
            image: The scan: a path, or an image in memory as in :func:`latentseg.read`.
            mask: What the target really is.
            label: Which value of the mask it is; not needed where the mask holds one.
            complete: As in :meth:`from_files`.

        Raises:
            InputError: A file that cannot be read, or an empty mask.
            GeometryError: An image and a mask on different grids.

        Example:
            >>> better = liver.with_corrected("case7.nii.gz", "case7_corrected.nii.gz")  # doctest: +SKIP
        """
        return self.join(
            [self, self.from_files((image, mask), name=self.name, label=label, complete=complete)]
        )

    def with_found(self, image: Any, mask: Any) -> Support:
        """The same target, shown in one more scan by a result that nobody has looked at.

        Of a cohort, the results of some scans make those of the others better: they show the target in more
        people, and in the cohort's own contrast. Examples that were marked by hand come first, and a scan is
        never compared with its own result. Only whole scans are compared with such examples.

        Args:
            image: The scan: a path, or an image in memory as in :func:`latentseg.read`.
            mask: What was found in it.

        Raises:
            InputError: A file that cannot be read, or an empty mask.
            GeometryError: An image and a mask on different grids.

        Example:
            >>> first = [segmenter(scan, liver)["liver"] for scan in scans]  # doctest: +SKIP
            >>> for result in first[:4]:  # doctest: +SKIP
            ...     liver = liver.with_found(result.scan, result.mask)
        """
        shown = self.from_volumes(image, mask, name=self.name, complete=True)
        return replace(self, scans=(*self.scans, *(replace(scan, found=True) for scan in shown.scans)))

    @classmethod
    def join(cls, supports: Sequence[Support]) -> Support:
        """One support with the slices of several, in order."""
        ranged = [s.ranged for s in supports if s.ranged is not None]
        return cls(
            supports[0].name,
            np.concatenate([s.images for s in supports]),
            np.concatenate([s.masks for s in supports]),
            tuple(source for s in supports for source in s.sources),
            all(s.flat for s in supports),
            tuple(scan for s in supports for scan in s.scans),
            np.concatenate(ranged) if len(ranged) == len(supports) else None,
        )


def fit_masks(
    inside: NDArray[np.bool_], *, pixel_mm: tuple[float, float], size: int = SIZE
) -> NDArray[np.bool_]:
    """Masks ``(n, H, W)`` as ``(n, size, size)``; one too small for any keeps the pixel it lies in most."""
    masks = fit_square(inside, size, kind="mask", pixel_mm=pixel_mm)[0].astype(bool)
    lost = inside.any((1, 2)) & ~masks.any((1, 2))
    if lost.any():
        cover = fit_square(inside[lost], size, kind="soft", pixel_mm=pixel_mm)[0]
        masks[lost] = cover >= cover.max((1, 2), keepdims=True)
    return masks


def support_positions(held: int, *, count: int = THIRDS) -> list[int]:
    """Positions ``floor((k + 0.5) / count * held)``: the middles of equal parts of ``held`` slices.

    For three of them these are 1/6, 1/2 and 5/6 of the extent, as in the few-shot field.
    """
    return [int((k + 0.5) / count * held) for k in range(count)]


def _listed(pairs: Any, name: str) -> list[Pair]:
    """The pairs, also of one that stands without a list.

    Raises:
        UsageError: No pair, or something else.
    """
    fix = "give (image, mask), or a list of such pairs"
    if not isinstance(pairs, list | tuple):
        raise UsageError(f"{kind_name(pairs)} is no pair of image and mask", fix=fix)
    if not pairs:
        raise UsageError(f"no example was given for {name!r}", fix="give at least one image with its mask")
    listed = list(pairs) if isinstance(pairs[0], list | tuple) else [pairs]
    odd = next((one for one in listed if not isinstance(one, list | tuple) or len(one) != 2), None)
    if odd is not None:
        many = isinstance(odd, list | tuple) and len(odd) > 1
        count = f"{len(odd)} parts" if many else "one part"
        raise UsageError(f"an example of {name!r} has {count}, not image and mask", fix=fix)
    return [(image, mask) for image, mask in listed]
