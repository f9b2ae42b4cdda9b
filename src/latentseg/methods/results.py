"""The result of a segmenter for one target and for several, on the grid of the scan, and how it is saved."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError, caution
from latentseg.imaging import Volume, default_suffix, to_canonical, write_like
from latentseg.imaging.components import box_around
from latentseg.imaging.dicom.seg import SegKind, Segment, seg_dataset
from latentseg.imaging.dicom.series import DicomHeader
from latentseg.imaging.dicom.sr import write_sr
from latentseg.imaging.files import write_file, write_json, written_whole
from latentseg.imaging.previews import Canvas, Layer, figure, fitted_height, key_slices, montage, overlay
from latentseg.imaging.windows import display_windows
from latentseg.methods.bids import dseg_name, dseg_table
from latentseg.methods.measures import (
    bounding_box,
    intensity_statistics,
    largest_axial_diameter_mm,
    touches_border,
)
from latentseg.methods.radiomic_features import radiomic_features, radiomics_module
from latentseg.text.codes import segment_code

SAVED = ("mask", "prob", "preview")
DICOM_SAVED = ("dicom-labelmap", "dicom-prob", "dicom-sr")
MORE_SAVED = ("radiomics", "multilabel", "dseg")
ONE_FILE = ("multilabel", "dseg")  # of all targets together
SAVED_DECIMALS = 3  # of a probability on disk: a third of the size, in less than half the time
PREVIEW = 320  # pixels of the longer side of a slice


@dataclass(frozen=True, eq=False)
class Segmentation:
    """One target in one scan.

    Attributes:
        target: Name of the target.
        scan: The scan; all arrays share its grid.
        mask: ``(I, J, K)`` bool; nothing where the scan is padding.
        probability: ``(I, J, K)`` float32 in [0, 1].
        presence: Score in [0, 1] that the target is in the scan at all; the mask is empty where it is called
            absent.
        reason: Why it is called absent, where that is known; one clause.
    """

    target: str
    scan: Volume
    mask: NDArray[np.bool_]
    probability: NDArray[np.float32]
    presence: float
    reason: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        """Take padding out of the mask."""
        padding = self.scan.padding
        if padding is not None and (self.mask & padding).any():
            object.__setattr__(self, "mask", self.mask & ~padding)

    def __repr__(self) -> str:
        """One line: the target, what was found, and in which scan."""
        found = "absent" if self.absent else f"{self.volume_ml:.1f} ml"
        what = f"{self.target!r}: {found}, presence {self.presence:.2f}, in {self.scan.name}"
        return f"{type(self).__name__}({what})"

    def _repr_html_(self) -> str:
        """The slices that hold most of the mask, for notebooks."""
        return figure(self.preview(), caption=repr(self))

    @property
    def absent(self) -> bool:
        """Whether the target is reported as not in the scan."""
        return not bool(self.mask.any())

    @property
    def volume_ml(self) -> float:
        """Volume of the mask in milliliters."""
        return float(np.count_nonzero(self.mask)) * self.scan.voxel_volume_ml

    @cached_property
    def components(self) -> int:
        """Number of separate parts of the mask (26-connected)."""
        from scipy import ndimage

        return int(ndimage.label(self.mask[box_around(self.mask)], structure=np.ones((3, 3, 3)))[1])

    @cached_property
    def largest_axial_diameter_mm(self) -> float:
        """Longest straight line inside one axial slice of the mask; 0 where the target is absent."""
        canonical = to_canonical(self.scan)
        return largest_axial_diameter_mm(canonical.apply(self.mask), canonical.spacing_mm[1:])

    def stats(self) -> dict[str, Any]:
        """Presence, volume, shape, place and intensities of the mask.

        Distances are in millimeters, ``bounding_box_ijk`` holds the first and last voxel index along each
        axis of the stored array, and intensities are in the units of the scan. Where it is known why
        the target is absent also the ``reason``, and of a DICOM series that was resampled what makes the mask
        ``approximate``.
        """
        centroid = None
        if not self.absent:
            world = self.scan.affine_ras_mm @ [*_center(self.mask), 1.0]
            centroid = [round(float(v), 2) for v in world[:3]]
        marks = getattr(self.scan.header, "marks", ())
        return {
            "target": self.target,
            "absent": self.absent,
            "presence": round(self.presence, 4),
            "volume_ml": round(self.volume_ml, 3),
            "components": self.components,
            "largest_axial_diameter_mm": round(self.largest_axial_diameter_mm, 2),
            "centroid_ras_mm": centroid,
            "bounding_box_ijk": bounding_box(self.mask),
            "touches_border": touches_border(self.mask),
            **intensity_statistics(self.scan.array[self.mask]),
            **({"reason": self.reason} if self.reason else {}),
            **({"approximate": "; ".join(marks)} if marks else {}),
        }

    def preview(self, *, slices: int = 3) -> bytes:
        """PNG of the slices that hold most of the mask, or of the most probable ones where it is empty.

        A CT is drawn in its soft-tissue window, and what lies in the lungs in the lung window.
        """
        canonical = to_canonical(self.scan)
        _, low, high = display_windows(self.scan, target=self.target, mask=self.mask)[0]
        mask, chance = canonical.apply(self.mask), canonical.apply(self.probability)
        shown = key_slices(mask if mask.any() else chance >= chance.max(), count=slices)
        pixel_mm = canonical.spacing_mm[1:]
        height = fitted_height(canonical.slices.shape[1:], pixel_mm, longest=PREVIEW)
        canvas = Canvas(height=height, spacing_mm=pixel_mm, window=(low, high))
        pictures = [
            overlay(canonical.slices[k], layers=[Layer(mask[k], (255, 99, 71), "both")], canvas=canvas)
            for k in shown
        ]
        return montage(pictures, columns=len(pictures))

    def save(self, folder: str | Path, *, what: Iterable[str] = SAVED) -> list[Path]:
        """Write mask, probability and preview under ``folder/<case>/``; for a DICOM scan also a DICOM SEG.

        Args:
            folder: Output folder; made where it is missing.
            what: Any of ``mask``, ``prob``, ``preview``, ``radiomics`` (features by pyradiomics); for DICOM
                scans also ``dicom-labelmap`` (instead of a binary SEG beside the mask), ``dicom-prob`` (a
                fractional SEG) and ``dicom-sr`` (the volume of the SEG as a structured report). What is one
                file of all targets is written by :meth:`Segmentations.save`.

        Returns:
            The paths written, each whole or not at all.

        Raises:
            UsageError: Something else is asked for, or radiomics without pyradiomics.
            InputError: A file cannot be written.
        """
        what = check_outputs(what)
        case, suffix = self.scan.name, default_suffix(self.scan)
        soft = suffix if suffix in (".nii.gz", ".nrrd", ".mha", ".tif") else ".tif"
        base, target = Path(folder) / case, file_name(self.target)
        written = []
        if "mask" in what:
            written.append(write_like(self.mask, like=self.scan, path=base / f"{case}_seg-{target}{suffix}"))
        if "prob" in what:
            path = base / f"{case}_prob-{target}{soft}"
            probability = self.probability.round(SAVED_DECIMALS)
            written.append(write_like(probability, like=self.scan, path=path, kind="probability"))
        if "preview" in what:
            written.append(write_file(base / f"{case}_preview-{target}.png", self.preview()))
        if "radiomics" in what:
            features = json.dumps(radiomic_features(self.scan, self.mask), indent=2) + "\n"
            written.append(write_file(base / f"{case}_radiomics-{target}.json", features))
        return written + self._save_dicom(base, what)

    def _save_dicom(self, base: Path, what: Sequence[str]) -> list[Path]:
        """SEG files; where a series cannot be referred to, the NIfTI stands alone and a warning says why."""
        kinds: dict[str, SegKind] = {}
        if "dicom-labelmap" in what:
            kinds["seg"] = "labelmap"
        elif "dicom-sr" in what or ("mask" in what and isinstance(self.scan.header, DicomHeader)):
            kinds["seg"] = "binary"
        if "dicom-prob" in what:
            kinds["prob"] = "fractional"
        written = []
        for name, kind in kinds.items():
            path = base / f"{self.scan.name}_{name}-{file_name(self.target)}.dcm"
            array = self.probability if kind == "fractional" else self.mask
            written += save_seg({self.target: array}, like=self.scan, path=path, kind=kind)
        seg = base / f"{self.scan.name}_seg-{file_name(self.target)}.dcm"
        if "dicom-sr" in what and seg in written:
            path = base / f"{self.scan.name}_sr-{file_name(self.target)}.dcm"
            written.append(write_sr(seg, volumes_ml=[self.volume_ml], like=self.scan, path=path))
        return written


class Segmentations(dict[str, Segmentation]):
    """The targets of one scan, by name, in the order they were asked for."""

    def __repr__(self) -> str:
        """One line: what was found of each target."""
        volumes = {one.target: "absent" if one.absent else f"{one.volume_ml:.1f} ml" for one in self.values()}
        found = ", ".join(f"{target} {volume}" for target, volume in volumes.items())
        scan = f" in {next(iter(self.values())).scan.name}" if self else ""
        return f"Segmentations({len(self)} target{'s' if len(self) != 1 else ''}{scan}: {found or 'none'})"

    def _repr_html_(self) -> str:
        """Every target, for notebooks."""
        return "".join(result._repr_html_() for result in self.values())

    def save(self, folder: str | Path, *, what: Iterable[str] = SAVED) -> list[Path]:
        """Write every target, and ``<case>_stats.json``; see :meth:`Segmentation.save`.

        ``what`` may also hold ``multilabel`` and ``dseg``: one label map of all targets, in which earlier
        ones win where they overlap; see :meth:`save_combined`.
        """
        what = tuple(what)
        check_names(list(self))
        written = [path for result in self.values() for path in result.save(folder, what=what)]
        if self:
            case = next(iter(self.values())).scan.name
            stats = json.dumps([result.stats() for result in self.values()], indent=2) + "\n"
            written.append(write_file(Path(folder) / case / f"{case}_stats.json", stats))
        if self and set(ONE_FILE) & set(what):
            self.save_combined(folder, list(self), what=what)
        return written

    def combined(self, priority: Sequence[str]) -> tuple[NDArray[np.uint16], int]:
        """One label map: targets numbered 1, 2, ... in the order of ``priority``; earlier ones win overlaps.

        Returns:
            Labels ``(I, J, K)``, and how many voxels more than one target claimed.

        Raises:
            UsageError: ``priority`` does not name each target once.
        """
        check_priority(priority, list(self))
        masks = np.stack([self[name].mask for name in priority])
        labels = np.where(masks.any(0), masks.argmax(0) + 1, 0).astype(np.uint16)
        return labels, int((masks.sum(0) > 1).sum())

    def save_combined(
        self, folder: str | Path, priority: Sequence[str], *, what: Iterable[str] = SAVED
    ) -> int:
        """Write one label map ``<case>_combined`` under ``folder/<case>/``, and its names as ``labels.json``.

        Of a DICOM scan also one SEG with every target as a segment, whatever overlaps, and where ``what``
        has ``dicom-sr`` their volumes as one structured report. Where ``what`` has ``dseg`` the label map has
        a name of BIDS and a table of its labels, instead of all this unless ``what`` has ``multilabel`` too.

        Returns:
            How many voxels more than one target claimed.

        Raises:
            UsageError: ``priority`` does not name each target once.
            InputError: A file cannot be written.
        """
        labels, overlap = self.combined(priority)
        scan, what = next(iter(self.values())).scan, tuple(what)
        base = Path(folder) / scan.name
        if "dseg" in what:
            name = dseg_name(scan.name)
            write_like(labels, like=scan, path=base / f"{name}.nii.gz")
            write_file(base / f"{name}.tsv", dseg_table(priority))
        if "dseg" not in what or "multilabel" in what:
            write_like(labels, like=scan, path=base / f"{scan.name}_combined{default_suffix(scan)}")
            self._save_combined_dicom(base, priority, what)
            names = {name: number for number, name in enumerate(priority, start=1)}
            write_json(base / "labels.json", names)
        return overlap

    def _save_combined_dicom(self, base: Path, priority: Sequence[str], what: Sequence[str]) -> None:
        scan = self[priority[0]].scan
        if isinstance(scan.header, DicomHeader):
            masks, seg = {name: self[name].mask for name in priority}, base / f"{scan.name}_combined.dcm"
            if save_seg(masks, like=scan, path=seg) and "dicom-sr" in what:
                volumes = [self[name].volume_ml for name in priority]
                write_sr(seg, volumes_ml=volumes, like=scan, path=base / f"{scan.name}_combined_sr.dcm")


def save_seg(
    arrays: Mapping[str, NDArray[Any]], *, like: Volume, path: Path, kind: SegKind = "binary"
) -> list[Path]:
    """Write targets as segments of one DICOM SEG, or warn where the scan is nothing that one can refer to.

    Returns:
        The path, or nothing.

    Raises:
        InputError: The file cannot be written.
    """
    segments = [Segment(name, array, segment_code(name)) for name, array in arrays.items()]
    try:
        dataset = seg_dataset(segments, like=like, kind=kind)
    except InputError as error:
        caution(f"no DICOM SEG was written: {error}")
        return []
    with written_whole(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return [path]


def file_name(target: str) -> str:
    """The part of a file name that stands for a target: what is no letter, digit, ``.+-_`` becomes ``_``."""
    return re.sub(r"[^\w.+-]+", "_", target)


def check_names(targets: Sequence[str]) -> None:
    """Refuse target names that are equal, or that would give files of the same name.

    Raises:
        UsageError: No target, one without a name, or two whose files would have one name.
    """
    if not targets:
        raise UsageError("no target to segment", fix="give at least one support, or a prompt")
    seen: dict[str, str] = {}
    for target in targets:
        if not target.strip():
            raise UsageError("a prompt or the name of a target is empty", fix="name each one")
        key = file_name(target).casefold()
        if key in seen:
            what = f"the targets {seen[key]!r} and {target!r} would share one file name"
            raise UsageError(what, fix="give each target a name of its own")
        seen[key] = target


def check_outputs(what: Iterable[str], *, known: Sequence[str] = SAVED) -> tuple[str, ...]:
    """The outputs asked for, each one known.

    Raises:
        UsageError: An output that is none of ``known``, none of those for DICOM and none that any result has;
            or radiomics without pyradiomics.
    """
    asked, known = tuple(what), (*known, *MORE_SAVED, *DICOM_SAVED)
    unknown = set(asked) - set(known)
    if unknown:
        raise UsageError(f"unknown output {min(unknown)!r}", fix=f"choose from {', '.join(known)}")
    if "radiomics" in asked:
        radiomics_module()
    return asked


def check_priority(priority: Sequence[str], targets: Sequence[str]) -> None:
    """Require an order of all targets.

    Raises:
        UsageError: ``priority`` does not name each target once.
    """
    if sorted(priority) != sorted(targets):
        what = f"the priority {', '.join(priority) or '(empty)'} does not name each target once"
        raise UsageError(what, where="combined", fix=f"order all of {', '.join(targets)}")


def check_writable(folder: Path) -> None:
    """Check, before the work begins, that results can be written.

    Raises:
        InputError: The folder, or the nearest one above it that exists, is a file or may not be written.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError("a file is in the way of the output", where=str(there), fix="choose another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        fix = "choose a folder you may write to"
        raise InputError("no permission to write the output", where=str(there), fix=fix)


def _center(mask: NDArray[np.bool_]) -> list[float]:
    """Mean voxel index, from the counts along each axis: a list of all voxels would be large."""
    counts = [mask.sum(tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    return [float(np.average(np.arange(len(c)), weights=c)) for c in counts]
