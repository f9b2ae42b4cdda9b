"""A DICOM series as one volume: chosen, audited, decoded and rescaled.

Arrays are `(I, J, K)` with I along a row of the picture, J down its columns, and K along the normal of the
slices, whatever the order of files, instance numbers or table positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, caution
from latentseg.imaging import files
from latentseg.imaging.dicom.codecs import plugin_for
from latentseg.imaging.dicom.files import Entry, Scan, Series, choose, parsing, quiet_pydicom, scan
from latentseg.imaging.dicom.geometry import Planes, Stack, audit

MEANT_TO_DIFFER = (
    *("EchoTime", "AcquisitionNumber", "TemporalPositionIdentifier", "TriggerTime", "DiffusionBValue"),
    *("InversionTime", "FlipAngle", "ImageType", "ContrastBolusAgent", "AcquisitionTime", "ContentTime"),
)
"""What commonly tells images at one position apart, the most telling first."""


@dataclass(frozen=True)
class DicomOptions:
    """How to read DICOM.

    Attributes:
        series: Series Instance UID or series number, where there are several.
        allow_gaps: resample a series with uneven gaps or missing slices instead of refusing it.
        resample_tilt: resample a series of a tilted gantry instead of refusing it.
    """

    series: str | None = None
    allow_gaps: bool = False
    resample_tilt: bool = False


class Frame(NamedTuple):
    """One slice: a classic file, or one frame of a multi-frame file."""

    entry: Entry
    number: int
    name: str
    size: tuple[int, int]
    position_lps_mm: NDArray[np.float64]
    directions: NDArray[np.float64]
    spacing_mm: NDArray[np.float64]
    thickness_mm: float
    rescale: tuple[float, float]
    frame_of_reference: str


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """Where a volume came from, for results that refer to it.

    Attributes:
        series: the series.
        case: case id: the folder's name, with the series number where the folder holds several.
        slices: file and frame number of each slice, in order along the normal.
        stack: the audited geometry.
        frame_of_reference: its UID.
        size: columns and rows of the slices.
        dimensions: 3, for a single slice has a place in space, too.
    """

    series: Series
    case: str
    slices: tuple[tuple[Entry, int], ...]
    stack: Stack
    frame_of_reference: str
    size: tuple[int, int]
    dimensions: int = 3

    @property
    def marks(self) -> tuple[str, ...]:
        """What makes results approximate, in words; empty where the grid is the series' own."""
        return self.stack.marks


def read_dicom(path: Path, options: DicomOptions | None = None) -> files.Loaded:
    """Read one series from a folder, a zip archive or a file.

    Raises:
        InputError: no series or several to choose from, damaged files, or no single image per position.
        GeometryError: slices that make no grid (see :func:`latentseg.imaging.dicom.geometry.audit`).
    """
    options = options or DicomOptions()
    scanned = scan(path)
    series = choose(scanned, options.series)
    _warn_about_damage(scanned)
    where = f"{path} (series {series.uid})"
    frames = single_images(frames_of(series.entries), where)
    stack = audit(
        planes_of(frames),
        frames[0].size,
        allow_gaps=options.allow_gaps,
        resample_tilt=options.resample_tilt,
        where=where,
    )
    ordered = [frames[n] for n in stack.order]
    array = _voxels(ordered)
    if stack.marks:
        caution(f"{where} is approximate: {'; '.join(stack.marks)}")
        array = stack.resample(array)
    header = DicomHeader(
        series,
        case_of(scanned, series),
        tuple((frame.entry, frame.number) for frame in ordered),
        stack,
        ordered[0].frame_of_reference,
        ordered[0].size,
    )
    modality = {"CT": "CT", "MR": "MR"}.get(series.modality, "unknown")
    return files.Loaded(array, stack.affine_ras_mm, header, modality)


def case_of(scanned: Scan, series: Series) -> str:
    """The case id of a series: unique among the series of the same folder or archive."""
    path = scanned.path.resolve()
    name = path.stem if path.suffix.lower() in (".zip", ".dcm", ".ima") and path.is_file() else path.name
    images = [s for s in scanned.series if s.kind == "image"]
    if len(images) < 2:
        return name
    alone = sum(s.number == series.number for s in images) == 1
    return f"{name}_series-{series.number if series.number and alone else series.uid}"


def frames_of(entries: Iterable[Entry]) -> list[Frame]:
    """The frames of all files, from their headers.

    Raises:
        InputError: a header that does not say where its image is.
    """
    frames = []
    for entry in entries:
        dataset = entry.read()
        with parsing(entry):
            frames += _frames(entry, dataset)
    return frames


def planes_of(frames: Sequence[Frame]) -> Planes:
    """The geometry of frames."""
    return Planes(
        np.stack([frame.position_lps_mm for frame in frames]),
        np.stack([frame.directions for frame in frames]),
        np.stack([frame.spacing_mm for frame in frames]),
        frames[0].thickness_mm,
        tuple(frame.name for frame in frames),
    )


def single_images(frames: list[Frame], where: str) -> list[Frame]:
    """Leave out copies of an image.

    Raises:
        InputError: frames of different sizes or coordinate systems, or different images at one position.
    """
    for what, values in (
        ("sizes (columns, rows)", {frame.size for frame in frames}),
        ("frames of reference", {frame.frame_of_reference for frame in frames}),
    ):
        if len(values) > 1:
            listed = ", ".join(map(str, sorted(values)[:4]))
            fix = "Separate the acquisitions into folders of their own"
            raise GeometryError(f"the slices have {len(values)} {what}: {listed}", where=where, fix=fix)
    groups = [list(group) for _, group in groupby(sorted(frames, key=_place), key=_place)]
    for group in groups:
        if any(not _same_pixels(group[0], other) for other in group[1:]):
            what = f"{len(frames)} images lie at {len(groups)} positions; {_difference(group)}"
            raise InputError(what, where=where, fix="Separate them into one folder per volume")
    copies = len(frames) - len(groups)
    if copies:
        caution(f"{where}: {copies} copies of images were left out")
    return [group[0] for group in groups]


def decode(entry: Entry) -> NDArray[Any]:
    """The stored pixels of a file, decompressed: `(frames, rows, columns)`.

    Raises:
        InputError: damaged, no pixels, or a compression that nothing installed can decode.
    """
    dataset, pydicom = entry.read(pixels=True), quiet_pydicom()
    with parsing(entry):
        syntax = pydicom.uid.UID(dataset.file_meta.get("TransferSyntaxUID") or _plain_syntax(dataset))
        dataset.file_meta.TransferSyntaxUID = syntax
        try:
            pixels: NDArray[Any] = pydicom.pixels.pixel_array(dataset, decoding_plugin=plugin_for(syntax))
        except RuntimeError as error:
            if "missing dependencies" not in str(error):
                raise
            what = f"its compression ({syntax.name}) needs a decoder that is not installed"
            raise InputError(what, where=str(entry), fix="pip install 'latentseg[dicom]'") from error
    return pixels.reshape(-1, *pixels.shape[-2:])


def _plain_syntax(dataset: Any) -> str:
    """The transfer syntax of a file that does not name it, from how its elements are written."""
    implicit, little = dataset.original_encoding
    return f"1.2.840.10008.1.2{'' if implicit else '.1' if little else '.2'}"


def _frames(entry: Entry, dataset: Any) -> list[Frame]:
    count = int(dataset.get("NumberOfFrames") or 1)
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    if count > 1 and len(per_frame) != count:
        what = f"{count} frames, but positions of {len(per_frame)}"
        raise InputError(what, where=str(entry), fix="Export it as single slices or as enhanced multi-frame")
    if not per_frame:
        return [_frame(entry, 0, dataset, [])]
    return [_frame(entry, n, dataset, [groups, *shared]) for n, groups in enumerate(per_frame)]


def _frame(entry: Entry, number: int, dataset: Any, groups: list[Any]) -> Frame:
    def value(sequence: str, name: str) -> Any:
        """From the frame's own group, the shared one, or the data set."""
        found = [group.get(sequence) for group in groups]
        return next((items[0].get(name) for items in found if items), None) if groups else dataset.get(name)

    def numbers(sequence: str, name: str, count: int) -> NDArray[np.float64]:
        return _numbers(value(sequence, name), name=name, count=count, entry=entry)

    rows_mm, columns_mm = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if min(rows_mm, columns_mm) <= 0:
        what = f"PixelSpacing is {rows_mm:g}, {columns_mm:g}"
        raise GeometryError(what, where=str(entry), fix="Export the series again")
    thickness = value("PixelMeasuresSequence", "SliceThickness")
    slope = value("PixelValueTransformationSequence", "RescaleSlope")
    intercept = value("PixelValueTransformationSequence", "RescaleIntercept")
    return Frame(
        entry,
        number,
        f"{entry.name} frame {number + 1}"
        if groups
        else f"{entry.name} (image {dataset.get('InstanceNumber')})",
        (int(dataset.Columns), int(dataset.Rows)),
        numbers("PlanePositionSequence", "ImagePositionPatient", 3),
        numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6).reshape(2, 3),
        np.array([columns_mm, rows_mm]),
        float(thickness) if thickness and float(thickness) > 0 else 1.0,
        (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
        str(dataset.get("FrameOfReferenceUID") or ""),
    )


def _numbers(value: Any, *, name: str, count: int, entry: Entry) -> NDArray[np.float64]:
    fix = "Export the series again, with its geometry"
    if value is None or value == "":
        raise GeometryError(f"{name} is missing", where=str(entry), fix=fix)
    numbers = np.atleast_1d(np.asarray(value, np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        what = f"{name} should be {count} numbers and is {value}"
        raise GeometryError(what, where=str(entry), fix=fix)
    return numbers


def _voxels(frames: Sequence[Frame]) -> NDArray[Any]:
    """Rescaled values `(I, J, N)`: int16 or int32 where they are whole, float32 elsewhere."""
    whole = all(number.is_integer() for frame in frames for number in frame.rescale)
    columns, rows = frames[0].size
    out: NDArray[Any] = np.empty((len(frames), rows, columns), np.int32 if whole else np.float32)
    places: dict[Entry, list[int]] = {}
    for n, frame in enumerate(frames):
        places.setdefault(frame.entry, []).append(n)
    for entry, listed in places.items():
        pixels = decode(entry)
        if pixels.shape[1:] != (rows, columns) or max(frames[n].number for n in listed) >= len(pixels):
            what = f"pixels of shape {pixels.shape} do not fit the header"
            raise InputError(what, where=str(entry), fix="Export the series again")
        if pixels.dtype.kind == "f" and whole:
            out, whole = out.astype(np.float32), False
        for n in listed:
            slope, intercept = frames[n].rescale
            values = pixels[frames[n].number]
            out[n] = values if (slope, intercept) == (1, 0) else values * slope + intercept
    if whole and out.min() >= -32768 and out.max() <= 32767:
        out = out.astype(np.int16)
    return out.transpose(2, 1, 0)


def _place(frame: Frame) -> tuple[float, ...]:
    """Position and orientation, to a micrometer."""
    return tuple(np.round([*frame.position_lps_mm, *frame.directions.ravel()], 3) + 0.0)


def _same_pixels(a: Frame, b: Frame) -> bool:
    if a.rescale != b.rescale:
        return False
    return np.array_equal(decode(a.entry)[a.number], decode(b.entry)[b.number])


def _difference(group: Sequence[Frame]) -> str:
    """In what the headers of images at one position differ."""
    headers = [frame.entry.read() for frame in group]
    for name in MEANT_TO_DIFFER:
        with parsing(group[0].entry):
            values = dict.fromkeys(str(header.get(name)) for header in headers)
        if len(values) > 1:
            return f"{len(group)} at one position differ in {name} ({', '.join(list(values)[:4])})"
    return f"{len(group)} at one position differ in their pixels, such as {group[0].name} and {group[1].name}"


def _warn_about_damage(scanned: Scan) -> None:
    if scanned.damaged:
        entry, reason = scanned.damaged[0]
        files_are = (
            "1 DICOM file is" if len(scanned.damaged) == 1 else f"{len(scanned.damaged)} DICOM files are"
        )
        caution(f"{files_are} damaged and left out, such as {entry}: {reason}")
