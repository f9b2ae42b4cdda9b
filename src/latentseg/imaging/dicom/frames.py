"""The slices of DICOM files by their headers: where each lies, how it is rescaled, what sets it apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, caution
from latentseg.imaging.dicom.files import Entry, parsing
from latentseg.imaging.dicom.geometry import Planes
from latentseg.imaging.dicom.mosaic import Mosaic, mosaic_of

SPACING_FALLBACKS = ("NominalScannedPixelSpacing", "ImagerPixelSpacing")
"""Where the size of a pixel stands in what is no CT or MR, such as a secondary capture or an X-ray."""

SETS_APART = (
    *("EffectiveEchoTime", "EchoTime", "EchoNumbers", "DiffusionBValue", "DiffusionGradientOrientation"),
    *("DiffusionDirectionality", "TemporalPositionIndex", "TemporalPositionIdentifier"),
    *("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime", "TriggerTime"),
    *("NominalPercentageOfRespiratoryPhase", "InversionTimes", "InversionTime", "FlipAngle"),
    *("ComplexImageComponent", "AcquisitionContrast", "FrameType", "ImageType", "ContrastBolusAgent"),
    *("FrameAcquisitionNumber", "AcquisitionNumber", "SequenceName", "ConvolutionKernel"),
    *("AcquisitionTime", "ContentTime"),
)
"""What commonly tells images at one position apart, the most telling first."""

IN_STACK = {
    *("ImagePositionPatient", "ImageOrientationPatient", "InStackPositionNumber", "DimensionIndexValues"),
    *("SliceLocation", "FrameAcquisitionDateTime", "FrameReferenceDateTime", "FrameComments", "FrameLabel"),
}
TIMES = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionTime")


class Frame(NamedTuple):
    """One slice: a classic file, one frame of a multi-frame file, or one tile of a mosaic.

    Attributes:
        entry: its file.
        number: of the frame or tile in the file, from 0.
        name: what to call it in a message.
        size: columns and rows.
        position_lps_mm: `(3)` center of its first pixel.
        directions: `(2, 3)` unit vectors along which columns and rows are counted.
        spacing_mm: `(2)` along them.
        thickness_mm: of the slice.
        rescale: slope and intercept.
        frame_of_reference: its UID.
        taken: what orders images at one position: time, instance number, frame.
        traits: gives the values of its header that may set it apart from others at its position.
    """

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
    taken: tuple[str, int, int]
    traits: Callable[[], Mapping[str, str]]

    @property
    def place(self) -> tuple[float, ...]:
        """Position and orientation, to a micrometer."""
        return tuple(np.round([*self.position_lps_mm, *self.directions.ravel()], 3) + 0.0)


def frames_of(entries: Iterable[Entry]) -> list[Frame]:
    """The frames of all files, from their headers; warns of pixel sizes that are taken from elsewhere.

    Raises:
        InputError: a header that does not say where its image is.
    """
    frames: list[Frame] = []
    fallbacks: dict[str, Entry] = {}
    unknown_way: list[Entry] = []
    for entry in entries:
        dataset = entry.read()
        with parsing(entry):
            mosaic = mosaic_of(dataset, str(entry))
            found = _tiles(entry, dataset, mosaic) if mosaic else _frames(entry, dataset)
            if mosaic and mosaic.normal_lps is None and mosaic.count > 1:
                unknown_way.append(entry)
            source = _spacing_source(dataset)
        if source:
            fallbacks.setdefault(source, entry)
        frames += found
    for name, entry in fallbacks.items():
        caution(f"{entry}: there is no PixelSpacing; the size of a pixel is taken from {name}")
    if unknown_way:
        way = "from which side its slices are counted: the order along their normal is taken"
        caution(f"{unknown_way[0]}: the header of this mosaic does not say {way}")
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


def _tiles(entry: Entry, dataset: Any, mosaic: Mosaic) -> list[Frame]:
    whole = _frame(entry, 0, dataset, [])
    names = ("SpacingBetweenSlices", "SliceThickness")
    step = next((mm for name in names if (mm := positive(partial(dataset.get, name)))), 0.0)
    if mosaic.count > 1 and not step:
        what = "it is a Siemens mosaic, and its header does not say how far its slices lie apart"
        raise GeometryError(what, where=str(entry), fix="Convert it to NIfTI, for example with dcm2niix")
    positions = mosaic.positions_lps_mm(
        whole.position_lps_mm,
        whole.directions,
        size=whole.size,
        spacing_mm=whole.spacing_mm,
        step_mm=step,
    )
    size = mosaic.tile(whole.size)
    return [
        whole._replace(number=n, name=f"{entry.name} tile {n + 1}", size=size, position_lps_mm=position)
        for n, position in enumerate(positions)
    ]


def _frame(entry: Entry, number: int, dataset: Any, groups: list[Any]) -> Frame:
    def value(sequence: str, name: str) -> Any:
        """From the frame's own group, the shared one, or the data set."""
        found = [group.get(sequence) for group in groups]
        return next((items[0].get(name) for items in found if items), None) if groups else dataset.get(name)

    def numbers(sequence: str, name: str, count: int) -> NDArray[np.float64]:
        return _numbers(value(sequence, name), name=name, count=count, entry=entry)

    source = _spacing_source(dataset)
    if source and not value("PixelMeasuresSequence", "PixelSpacing"):
        rows_mm, columns_mm = _numbers(dataset.get(source), name=source, count=2, entry=entry)
    else:
        rows_mm, columns_mm = numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if min(rows_mm, columns_mm) <= 0:
        what = f"{source or 'PixelSpacing'} is {rows_mm:g}, {columns_mm:g}"
        raise GeometryError(what, where=str(entry), fix="Export the series again")
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
        positive(lambda: value("PixelMeasuresSequence", "SliceThickness")) or 1.0,
        (1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)),
        str(dataset.get("FrameOfReferenceUID") or ""),
        _taken(dataset, groups, number),
        partial(_traits_of_groups, dataset, groups[0]) if groups else partial(dict, _traits(dataset)),
    )


def positive(value: Callable[[], Any]) -> float:
    """A number above 0 as a header gives it; 0 where there is none."""
    with suppress(ValueError, TypeError, OverflowError):
        number = float(value())
        return number if 0 < number < float("inf") else 0.0
    return 0.0


def _spacing_source(dataset: Any) -> str:
    """The attribute that gives the size of a pixel where PixelSpacing is missing; empty where it is not."""
    if dataset.get("PixelSpacing") or "PerFrameFunctionalGroupsSequence" in dataset:
        return ""
    return next((name for name in SPACING_FALLBACKS if dataset.get(name)), "")


def _numbers(value: Any, *, name: str, count: int, entry: Entry) -> NDArray[np.float64]:
    fix = "Export the series again, with its geometry"
    if value is None or value == "":
        raise GeometryError(f"{name} is missing", where=str(entry), fix=fix)
    numbers = np.atleast_1d(np.asarray(value, np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        what = f"{name} should be {count} numbers and is {value}"
        raise GeometryError(what, where=str(entry), fix=fix)
    return numbers


def _taken(dataset: Any, groups: list[Any], number: int) -> tuple[str, int, int]:
    places = [*(items[0] for group in groups[:1] if (items := group.get("FrameContentSequence"))), dataset]
    time = next((str(place.get(name)) for place in places for name in TIMES if place.get(name)), "")
    instance = str(dataset.get("InstanceNumber") or "")
    return time, int(instance) if instance.lstrip("-").isdigit() else 0, number


def _traits(dataset: Any) -> dict[str, str]:
    return {name: str(value) for name in SETS_APART if (value := dataset.get(name)) not in (None, "")}


def _traits_of_groups(dataset: Any, groups: Any) -> dict[str, str]:
    """All named values of a frame's functional groups, and its indices along the object's dimensions."""
    found: dict[str, str] = {}
    _collect(groups, found)
    content = groups.get("FrameContentSequence")
    indices = (content[0].get("DimensionIndexValues") if content else None) or []
    for at, dimension in enumerate(dataset.get("DimensionIndexSequence") or []):
        if at < len(indices):
            label = dimension.get("DimensionDescriptionLabel") or f"dimension {at + 1}"
            found.setdefault(str(label), str(indices[at]))
    return found


def _collect(dataset: Any, found: dict[str, str]) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _collect(item, found)
        elif element.keyword and element.keyword not in IN_STACK and element.value is not None:
            found.setdefault(element.keyword, str(element.value))
