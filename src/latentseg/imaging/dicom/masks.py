"""DICOM masks: radiotherapy structure sets (RTSTRUCT) and segmentations (SEG) on the grid of their scan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.imaging import files
from latentseg.imaging.affine import LPS_TO_RAS
from latentseg.imaging.dicom.contours import Outlines
from latentseg.imaging.dicom.files import Entry, parsing, scan
from latentseg.imaging.dicom.pixels import decode
from latentseg.imaging.dicom.series import DicomHeader
from latentseg.imaging.volume import Volume

MASK_KINDS = ("segmentation", "radiotherapy structures")
MOST_SLICES = 8192
MAX_OFF_VOXEL = 0.1
"""How far a voxel of a SEG may lie beside the scan's, as a fraction of a voxel."""


@dataclass(frozen=True)
class MaskHeader:
    """What a label map read from DICOM knows besides its voxels.

    Attributes:
        names: label id of each structure.
        dimensions: always 3.
    """

    names: dict[str, int]
    dimensions: int = 3


def holds_masks(path: Path) -> bool:
    """Whether a DICOM file, folder or archive holds masks and no images."""
    kinds = {one.kind for one in scan(path).series}
    return "image" not in kinds and bool(kinds.intersection(MASK_KINDS))


def structure_names(path: str | Path) -> list[str]:
    """Names of the structures of one RTSTRUCT or SEG object, in its order.

    Raises:
        InputError: no such object or several, or damage.
    """
    entry, kind = _the_object(Path(path))
    with parsing(entry):
        return list(_names(entry.read(), kind).values())


def read_masks(
    path: str | Path, *, like: Volume | None = None, names: Sequence[str] | None = None
) -> dict[str, NDArray[np.bool_]]:
    """Structures of one RTSTRUCT or SEG object, by name; they may overlap.

    Args:
        path: the file, or a folder or archive that holds one such object besides others.
        like: the scan; needed for contours, which have no voxels of their own.
        names: of :func:`structure_names`, those to read; default: all.

    Returns:
        `(I, J, K)` each, on the grid of ``like``; empty structures included.

    Raises:
        InputError: no such object or several, damage, or contours without a scan.
        GeometryError: structures of another scan, or that lie between its voxels.
    """
    entry, kind = _the_object(Path(path))
    grid, dataset = like or _own_grid(entry, kind), entry.read()
    with parsing(entry):
        listed = _names(dataset, kind)
        wanted = {number: name for number, name in listed.items() if names is None or name in names}
        return dict(_drawn(dataset, kind, grid, wanted, entry))


def find_name(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that is ``name``, whatever its case and separators; the first of several."""

    def plain(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    alike = [one for one in names if plain(one) == plain(name)]
    return name if name in names else next(iter(alike), None)


def read_label_map(path: Path, *, like: Volume | None = None, name: str | None = None) -> files.Loaded:
    """One label map: structures numbered from 1 in the order of the object, or one structure alone as 1.

    Only structures that are asked for are drawn, one after the other.

    Raises:
        UsageError: no structure of that name.
        InputError: as :func:`read_masks`; or structures overlap, which a label map cannot hold.
        GeometryError: for the reasons of :func:`read_masks`.
    """
    entry, kind = _the_object(path)
    grid = like or _own_grid(entry, kind)
    dataset = entry.read()
    with parsing(entry):
        listed = _names(dataset, kind)
        wanted = listed if name is None else _only(_match(name, list(listed.values()), entry), listed)
        names = list(wanted.values())
        labels = np.zeros(grid.shape, np.uint8 if len(names) < 256 else np.uint16)
        for number, (structure, mask) in enumerate(_drawn(dataset, kind, grid, wanted, entry), start=1):
            overlap = int(np.count_nonzero(labels[mask]))
            if overlap:
                other = names[int(labels[mask].max()) - 1]
                what = (
                    f"{structure!r} and {other!r} overlap in {overlap} voxels, which a label map cannot hold"
                )
                raise InputError(what, where=str(entry), fix="Ask for one structure by its name")
            labels[mask] = number
    numbers = {structure: number for number, structure in enumerate(names, start=1)}
    return files.Loaded(labels, grid.affine_ras_mm, MaskHeader(numbers))


def _the_object(path: Path) -> tuple[Entry, str]:
    found = [
        (entry, one.kind) for one in scan(path).series if one.kind in MASK_KINDS for entry in one.entries
    ]
    if len(found) != 1:
        listed = ", ".join(sorted(entry.name for entry, _ in found)[:4]) or "none"
        what = f"there are {len(found)} RTSTRUCT or SEG files ({listed})"
        raise InputError(what, where=str(path), fix="Give the file of one")
    return found[0]


def _only(name: str, listed: dict[int, str]) -> dict[int, str]:
    return {number: one for number, one in listed.items() if one == name}


def _names(dataset: Any, kind: str) -> dict[int, str]:
    """Names of structures by number; equal ones get their number added."""
    if kind == "segmentation":
        rows = [(int(one.SegmentNumber), str(one.SegmentLabel)) for one in dataset.SegmentSequence]
    else:
        rows = [(int(one.ROINumber), str(one.ROIName)) for one in dataset.StructureSetROISequence]
    names = [name for _, name in rows]
    return {
        n: name if names.count(name) == 1 else f"{name} {n}"
        for n, name in rows
        if n or kind != "segmentation"
    }


def _drawn(
    dataset: Any, kind: str, like: Volume, wanted: dict[int, str], entry: Entry
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Name and mask of each of the structures that are wanted, by number."""
    _check_reference(dataset, kind, like, wanted, entry)
    target = _Target(like)
    segments = _Segments(dataset, entry) if kind == "segmentation" and wanted else None
    for number, name in wanted.items():
        mask = np.zeros(target.shape, np.bool_, order="F")
        if segments is not None:
            for points in segments.points_ras_mm(number):
                _mark(mask, target.index_of(points), entry)
        else:
            outlines = (target.index_of(points) for points in _contours(dataset, number))
            Outlines(mask, name=name, entry=entry).fill(outlines)
        yield name, target.on_grid(mask)


class _Target:
    """The voxels to draw on: a scan's grid, or the own slices of a series that was resampled."""

    def __init__(self, like: Volume) -> None:
        resampled = isinstance(like.header, DicomHeader) and bool(like.header.marks)
        self.stack = like.header.stack if resampled else None
        self.shape = like.shape if self.stack is None else (*like.header.size, len(self.stack.order))
        self.inverse = np.linalg.inv(like.affine_ras_mm)

    def index_of(self, points_ras_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.stack is not None:
            return np.asarray(self.stack.index_of(points_ras_mm))
        return np.asarray(self.inverse[:3, :3] @ points_ras_mm + self.inverse[:3, 3:])

    def on_grid(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask if self.stack is None else self.stack.onto_grid(mask)


def _mark(mask: NDArray[np.bool_], index: NDArray[np.float64], entry: Entry) -> None:
    """Mark single voxels."""
    near = np.rint(index)
    off = float(np.abs(index - near).max())
    if off > MAX_OFF_VOXEL:
        what = f"its voxels lie up to {off:.2f} voxels beside those of the scan"
        raise GeometryError(what, where=str(entry), fix="Give the scan it was drawn on, or resample it")
    voxels = near.astype(np.intp)
    outside = ((voxels < 0) | (voxels >= np.array(mask.shape)[:, None])).any(0)
    if outside.any():
        what = f"{int(outside.sum())} of its voxels lie outside of the scan"
        raise GeometryError(what, where=str(entry), fix="Give the scan it was drawn on")
    mask[tuple(voxels)] = True


def _contours(dataset: Any, number: int) -> Iterator[NDArray[np.float64]]:
    """Corners `(3, P)` in RAS mm of the closed contours of one structure."""
    for structure in dataset.ROIContourSequence:
        if int(structure.ReferencedROINumber) != number:
            continue
        for contour in structure.get("ContourSequence") or []:
            if contour.ContourGeometricType in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                points = np.asarray(contour.ContourData, np.float64).reshape(-1, 3).T
                yield LPS_TO_RAS[:3, :3] @ points


class _Segments:
    """The frames of a SEG: voxels of each segment; of a fractional one those of at least one half."""

    def __init__(self, dataset: Any, entry: Entry) -> None:
        self.pixels = decode(entry)
        self.kind = str(dataset.SegmentationType)
        self.half = int(dataset.get("MaximumFractionalValue") or 1) / 2
        frames, self.affines = _frame_groups(dataset)
        if len(frames) != len(self.pixels):
            raise ValueError(f"{len(self.pixels)} frames, positions of {len(frames)}")
        self.numbers = [0] * len(frames)
        if self.kind != "LABELMAP":
            items = (_item(dataset, groups, "SegmentIdentificationSequence") for groups in frames)
            self.numbers = [int(item.ReferencedSegmentNumber) for item in items]

    def points_ras_mm(self, number: int) -> Iterator[NDArray[np.float64]]:
        """Centers `(3, P)` of the voxels of a segment, frame by frame."""
        for frame, own, affine in zip(self.pixels, self.numbers, self.affines, strict=True):
            if self.kind == "LABELMAP":
                inside = frame == number
            elif own != number:
                continue
            else:
                inside = frame >= self.half if self.kind == "FRACTIONAL" else frame > 0
            j, i = np.nonzero(inside)
            if i.size:
                yield affine[:3, :2] @ np.stack([i, j]) + affine[:3, 3:]


def _frame_groups(dataset: Any) -> tuple[list[Any], list[NDArray[np.float64]]]:
    """The functional groups of each frame, and its affine: pixel (I, J) to RAS mm."""
    frames = list(dataset.PerFrameFunctionalGroupsSequence)
    affines = []
    for groups in frames:
        affine = np.eye(4)
        rows_mm, columns_mm = map(float, _item(dataset, groups, "PixelMeasuresSequence").PixelSpacing)
        plane = _item(dataset, groups, "PlaneOrientationSequence")
        turn = np.array(plane.ImageOrientationPatient, float).reshape(2, 3)
        affine[:3, 0], affine[:3, 1] = turn[0] * columns_mm, turn[1] * rows_mm
        affine[:3, 2] = np.cross(*turn)
        affine[:3, 3] = _item(dataset, groups, "PlanePositionSequence").ImagePositionPatient
        affines.append(np.asarray(LPS_TO_RAS @ affine))
    return frames, affines


def _item(dataset: Any, groups: Any, name: str) -> Any:
    """A functional group of one frame, which may be shared by all."""
    return (groups.get(name) or dataset.SharedFunctionalGroupsSequence[0][name].value)[0]


def _check_reference(dataset: Any, kind: str, like: Volume, wanted: dict[int, str], entry: Entry) -> None:
    """The masks must be those of the scan: one frame of reference, and for a SEG voxels of one size."""
    if kind == "segmentation":
        _, affines = _frame_groups(dataset)
        steps = np.linalg.inv(like.affine_ras_mm)[:3, :3] @ affines[0][:3, :2]
        lengths = np.linalg.norm(steps, axis=0)
        if np.abs(lengths - 1).max() > 0.01:
            what = f"its pixels measure {lengths[0]:.3g} x {lengths[1]:.3g} voxels of the scan"
            raise GeometryError(what, where=str(entry), fix="Resample it onto the scan's grid first")
        theirs = {str(dataset.get("FrameOfReferenceUID") or "")}
    else:
        rois = [roi for roi in dataset.StructureSetROISequence if int(roi.ROINumber) in wanted]
        theirs = {str(roi.get("ReferencedFrameOfReferenceUID") or "") for roi in rois}
    ours = like.header.frame_of_reference if isinstance(like.header, DicomHeader) else ""
    if ours and theirs - {"", ours}:
        other = min(theirs - {"", ours})
        what = f"it was drawn in another frame of reference ({other}) than the scan's ({ours})"
        raise GeometryError(what, where=str(entry), fix="Give the scan it was drawn on")


def _own_grid(entry: Entry, kind: str) -> Volume:
    """The grid that the frames of a SEG lie on, from the first to the last that is not left out as empty."""
    if kind != "segmentation":
        what = "contours have no voxels of their own"
        raise InputError(what, where=str(entry), fix="Give the scan they were drawn on (like=...)")
    dataset = entry.read()
    with parsing(entry):
        _, affines = _frame_groups(dataset)
        normal = affines[0][:3, 2]
        distances = np.array([affine[:3, 3] @ normal for affine in affines])
        measures = _item(dataset, dataset.PerFrameFunctionalGroupsSequence[0], "PixelMeasuresSequence")
        step = float(measures.get("SpacingBetweenSlices") or measures.SliceThickness)
        gaps = np.diff(np.unique(np.round(distances, 3)))
        step = float(gaps.min()) if gaps.size and gaps.min() < step * 0.99 else step
        count = round(float(np.ptp(distances)) / step) + 1
        if count > MOST_SLICES:
            raise ValueError(f"its frames span {count} slices")
        affine = affines[int(distances.argmin())].copy()
        affine[:3, 2] *= step
        shape = (int(dataset.Columns), int(dataset.Rows), count)
        return Volume(np.zeros(shape, np.uint8), affine, source=entry.path)


def _match(name: str, names: list[str], entry: Entry) -> str:
    """The structure of a name, or the only one."""
    found = find_name(name, names) or (names[0] if len(names) == 1 else None)
    if found is not None:
        return found
    what = f"no structure is called {name!r}"
    raise UsageError(what, where=str(entry), fix=f"Choose from {', '.join(names)}")
