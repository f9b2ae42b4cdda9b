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
from latentseg.imaging.dicom.files import Entry, parsing, scan
from latentseg.imaging.dicom.pixels import decode
from latentseg.imaging.dicom.series import DicomHeader
from latentseg.imaging.volume import Volume

MASK_KINDS = ("segmentation", "radiotherapy structures")
MAX_OFF_PLANE = 0.25
"""How far a contour may lie beside its slice, as a fraction of the distance between slices."""

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
    return _structures(entry, kind, like or _own_grid(entry, kind), names)


def find_name(name: str, names: Sequence[str]) -> str | None:
    """The one of ``names`` that is ``name``, whatever its case and separators; the first of several."""

    def plain(text: str) -> str:
        return "".join(letter for letter in text.lower() if letter.isalnum())

    alike = [one for one in names if plain(one) == plain(name)]
    return name if name in names else next(iter(alike), None)


def read_label_map(path: Path, *, like: Volume | None = None, name: str | None = None) -> files.Loaded:
    """One label map: structures numbered from 1 in the order of the object, or one structure alone as 1.

    Raises:
        UsageError: no structure of that name.
        InputError: as :func:`read_masks`; or structures overlap, which a label map cannot hold.
        GeometryError: as there.
    """
    entry, kind = _the_object(path)
    grid = like or _own_grid(entry, kind)
    masks = _structures(entry, kind, grid)
    if name is not None:
        masks = {name: masks[_match(name, list(masks), entry)]}
    labels = np.zeros(grid.shape, np.uint8 if len(masks) < 256 else np.uint16)
    for number, (structure, mask) in enumerate(masks.items(), start=1):
        overlap = int(np.count_nonzero(labels[mask]))
        if overlap:
            other = list(masks)[int(labels[mask].max()) - 1]
            what = f"{structure!r} and {other!r} overlap in {overlap} voxels, which a label map cannot hold"
            raise InputError(what, where=str(entry), fix="Ask for one structure by its name")
        labels[mask] = number
    numbers = {structure: number for number, structure in enumerate(masks, start=1)}
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


def _structures(
    entry: Entry, kind: str, like: Volume, names: Sequence[str] | None = None
) -> dict[str, NDArray[np.bool_]]:
    dataset = entry.read()
    with parsing(entry):
        _check_reference(dataset, kind, like, entry)
        parts = _segments(dataset, entry) if kind == "segmentation" else _contours(dataset)
        listed = _names(dataset, kind)
        wanted = {number: name for number, name in listed.items() if names is None or name in names}
        return _drawn(parts, wanted, like, entry)


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
    parts: Iterator[tuple[int, NDArray[np.float64], bool]], names: dict[int, str], like: Volume, entry: Entry
) -> dict[str, NDArray[np.bool_]]:
    """Fill structures from parts: number, points `(3, P)` in RAS mm, and whether they are an outline."""
    target = _Target(like)
    masks = {number: np.zeros(target.shape, np.bool_, order="F") for number in names}
    for number, points, outline in parts:
        if number in masks and points.size:
            index = target.index_of(points)
            if outline:
                _fill(masks[number], index, entry)
            else:
                _mark(masks[number], index, entry)
    return {names[number]: target.on_grid(mask) for number, mask in masks.items()}


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


def _fill(mask: NDArray[np.bool_], index: NDArray[np.float64], entry: Entry) -> None:
    """Fill one outline; an outline inside another cuts a hole (even-odd)."""
    axis = int(np.ptp(index, axis=1).argmin()) if index.shape[1] > 2 else 2
    level = float(np.median(index[axis]))
    k = round(level)
    off = float(np.abs(index[axis] - k).max())
    if off > MAX_OFF_PLANE:
        what = f"a contour lies {off:.2f} slices beside the nearest slice ({k}) of the scan"
        raise GeometryError(what, where=str(entry), fix="Give the scan it was drawn on")
    if not 0 <= k < mask.shape[axis]:
        what = f"a contour lies on slice {k} of a scan of {mask.shape[axis]} slices"
        raise GeometryError(what, where=str(entry), fix="Give the scan it was drawn on")
    plane = np.moveaxis(mask, axis, 0)[k]
    rows, columns = np.delete(index, axis, axis=0)
    plane ^= inside_outline(rows, columns, shape=plane.shape)


def inside_outline(
    rows: NDArray[np.float64], columns: NDArray[np.float64], *, shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Pixels whose centers a closed outline encloses an odd number of times.

    Every edge toggles the pixels behind its crossing with each row; an edge owns its lower end alone, so that
    outlines that share an edge share no pixel.

    Args:
        rows: `(P)` of the corners; pixel centers have whole numbers.
        columns: `(P)` likewise.
        shape: rows and columns of the result.
    """
    ends = np.roll(rows, -1), np.roll(columns, -1)
    first = np.clip(np.ceil(np.minimum(rows, ends[0])), 0, shape[0]).astype(np.intp)
    last = np.clip(np.ceil(np.maximum(rows, ends[0])), 0, shape[0]).astype(np.intp)
    count = last - first
    edge = np.repeat(np.arange(len(rows)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    along = (row - rows[edge]) / (ends[0] - rows)[edge]  # from 0 to 1
    crossing = np.ceil(columns[edge] + along * (ends[1] - columns)[edge])
    toggles = np.zeros((shape[0], shape[1] + 1), np.int32)
    np.add.at(toggles, (row, np.clip(crossing, 0, shape[1]).astype(np.intp)), 1)
    return np.asarray(toggles.cumsum(1)[:, :-1] % 2 == 1)


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


def _contours(dataset: Any) -> Iterator[tuple[int, NDArray[np.float64], bool]]:
    for structure in dataset.ROIContourSequence:
        for contour in structure.get("ContourSequence") or []:
            if contour.ContourGeometricType in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                points = np.asarray(contour.ContourData, np.float64).reshape(-1, 3).T
                yield int(structure.ReferencedROINumber), LPS_TO_RAS[:3, :3] @ points, True


def _segments(dataset: Any, entry: Entry) -> Iterator[tuple[int, NDArray[np.float64], bool]]:
    """Voxels of each frame; of a fractional segmentation those of at least one half."""
    pixels = decode(entry)
    kind = str(dataset.SegmentationType)
    half = int(dataset.get("MaximumFractionalValue") or 1) / 2
    for frame, groups, affine in zip(pixels, *_frame_groups(dataset), strict=True):
        if kind == "LABELMAP":
            found = [(int(number), frame == number) for number in np.unique(frame) if number]
        else:
            number = int(_item(dataset, groups, "SegmentIdentificationSequence").ReferencedSegmentNumber)
            found = [(number, frame >= half if kind == "FRACTIONAL" else frame > 0)]
        for number, inside in found:
            j, i = np.nonzero(inside)
            yield number, affine[:3, :2] @ np.stack([i, j]) + affine[:3, 3:], False


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


def _check_reference(dataset: Any, kind: str, like: Volume, entry: Entry) -> None:
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
        rois = dataset.StructureSetROISequence
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
