"""The images that a DICOM SEG or report refers to, with headers that bend the standard mended for it.

Only what the new object takes over is touched: text in any character set becomes Unicode, dates, times and
sexes that are no values become empty, and a slice thickness that is missing or zero comes from the positions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from latentseg.errors import InputError
from latentseg.imaging.dicom.files import Entry, parsing, quiet_pydicom
from latentseg.imaging.dicom.frames import SPACING_FALLBACKS, positive
from latentseg.imaging.dicom.geometry import Planes
from latentseg.imaging.dicom.series import DicomHeader

UNICODE = "ISO_IR 192"
TAKE_NIFTI = "Take the NIfTI, or export the series again"
MUST_HAVE = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
TAKEN_OVER = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0040)
"""Groups of what is said of the patient, the study and the equipment."""

TEXTS = ("LO", "LT", "PN", "SH", "ST", "UC", "UT")
SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}


class Sources(NamedTuple):
    """What a new object refers to.

    Attributes:
        datasets: headers of one file per slice, or of one multi-frame file reduced to the volume's frames.
        order: which slices of the volume to give for their frames, in order.
        frames: the number of each frame in its file, from 1; empty for single images.
    """

    datasets: list[Any]
    order: Any
    frames: tuple[int, ...] = ()


def sources_of(header: DicomHeader, where: str) -> Sources:
    """The source's data sets.

    Raises:
        InputError: A series that cannot be referred to.
    """
    entries = list(dict.fromkeys(entry for entry, _ in header.slices))
    thickness = _thickness(header.stack.planes)
    datasets = [_completed(entry, header.series.modality, thickness) for entry in entries]
    if len(entries) == len(header.slices) and "NumberOfFrames" not in datasets[0]:
        return Sources(datasets, slice(None))
    if len(entries) > 1:
        what = f"the volume has {len(header.slices)} slices in {len(entries)} multi-frame files"
        raise InputError(
            what, where=where, fix="Take the NIfTI: a DICOM SEG refers to the frames of one file"
        )
    if "PerFrameFunctionalGroupsSequence" not in datasets[0]:
        what = "a DICOM SEG cannot refer to the tiles of a mosaic"
        raise InputError(what, where=where, fix="Take the NIfTI")
    numbers = [number for _, number in header.slices]
    with parsing(entries[0]):
        _reduce(datasets[0], sorted(numbers), thickness)
    return Sources(datasets, np.argsort(numbers), tuple(number + 1 for number in sorted(numbers)))


def _thickness(planes: Planes) -> str:
    """The distance between slices as a decimal string; of a single slice its own thickness."""
    gaps = np.diff(planes.distances_mm)
    return f"{float(np.median(gaps)) if gaps.size else planes.thickness_mm:.6g}"


def _completed(entry: Entry, modality: str, thickness: str) -> Any:
    """The header of a file, with what it lacks and without what cannot be written."""
    dataset = entry.read()
    with parsing(entry):
        missing = [name for name in MUST_HAVE if not dataset.get(name)]
        if missing:
            what = f"a DICOM SEG cannot refer to it without {missing[0]}"
            raise InputError(what, where=str(entry), fix=TAKE_NIFTI)
        _clean(dataset)
        dataset.SpecificCharacterSet = UNICODE
        for name in MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
        dataset.PatientSex = SEXES.get(str(dataset.PatientSex or "").strip().upper(), "")
        named = str(dataset.get("Modality") or modality)
        dataset.Modality = named if re.fullmatch(r"[A-Z0-9_ ]{1,12}", named) else "OT"
        spacing = next((dataset.get(name) for name in SPACING_FALLBACKS if dataset.get(name)), None)
        if not dataset.get("PixelSpacing") and spacing:
            dataset.PixelSpacing = spacing
        _mend_thickness(dataset, thickness)
    return dataset


def _mend_thickness(dataset: Any, thickness: str) -> None:
    if not positive(partial(dataset.get, "SliceThickness")):
        dataset.SliceThickness = thickness
    if "SpacingBetweenSlices" in dataset and not positive(partial(dataset.get, "SpacingBetweenSlices")):
        del dataset.SpacingBetweenSlices


def _clean(dataset: Any) -> None:
    """Turn text into Unicode, and take out dates, times, ages and numbers that are none."""
    for tag in [tag for tag in dataset.keys() if tag.group in TAKEN_OVER]:  # noqa: SIM118 - no elements yet
        element = None
        with suppress(Exception):  # values that cannot be parsed raise many kinds
            element = dataset[tag]
            _check(element)
            if element.VR == "SQ":
                for item in element.value:
                    _clean(item)
                    item.pop("SpecificCharacterSet", None)
            elif element.VR in TEXTS:
                element.value = _text(element.value)
            continue
        keyword = quiet_pydicom().datadict.keyword_for_tag(tag)
        del dataset[tag]
        if keyword in MAY_BE_EMPTY:
            setattr(dataset, keyword, "")


def _text(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, list) or hasattr(value, "append") else str(value)


def _check(element: Any) -> None:
    """Parse dates, times and ages, which pydicom keeps as text.

    Raises:
        ValueError: no such value.
    """
    values = quiet_pydicom().valuerep
    for value in _values(element):
        text = str(value)
        if element.VR == "DA":
            values.DA(text)
        elif element.VR == "TM":
            values.TM(text)
        elif element.VR == "DT":
            values.DT(text)
        elif element.VR == "AS" and not re.fullmatch(r"\d{3}[DWMY]", text):
            msg = f"{text} is no age"
            raise ValueError(msg)
        elif element.VR in ("DS", "IS"):
            float(value)


def _values(element: Any) -> Iterator[Any]:
    many = isinstance(element.value, list) or hasattr(element.value, "append")
    for value in element.value if many else [element.value]:
        if value not in (None, ""):
            yield value


def _reduce(dataset: Any, numbers: list[int], thickness: str) -> None:
    """Keep some frames of a multi-frame header, and share what an audited volume shares."""
    frames = [dataset.PerFrameFunctionalGroupsSequence[n] for n in numbers]
    shared = (dataset.get("SharedFunctionalGroupsSequence") or [quiet_pydicom().Dataset()])[0]
    for name in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if name not in shared:
            shared[name] = frames[0][name]
    _mend_thickness(shared.PixelMeasuresSequence[0], thickness)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = frames
    dataset.NumberOfFrames = len(frames)
