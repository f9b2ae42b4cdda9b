"""A DICOM series as one volume: chosen, audited, decoded and rescaled.

Arrays are `(I, J, K)` with I along a row of the picture, J down its columns, and K along the normal of the
slices, whatever the order of files, instance numbers or table positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import caution
from latentseg.imaging import files
from latentseg.imaging.dicom.files import Entry, Scan, Series, choose, scan
from latentseg.imaging.dicom.frames import frames_of, planes_of
from latentseg.imaging.dicom.geometry import Stack, audit
from latentseg.imaging.dicom.pixels import voxels
from latentseg.imaging.dicom.volumes import single_images
from latentseg.imaging.intensity import Modality

OTHER_THAN_HU = {
    *("PT", "NM", "US", "IVUS", "XA", "RF", "CR", "DX", "MG", "IO", "PX", "GM", "SM", "XC", "ES", "OP"),
    *("OPT", "RG", "RTIMAGE", "RTDOSE", "SEG", "BI", "DG", "TG", "LS"),
}
"""Modalities whose values are no Hounsfield units, whatever they look like."""

CLASSES: dict[str, Modality] = {
    **dict.fromkeys([f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2")], "CT"),
    **dict.fromkeys([f"1.2.840.10008.5.1.4.1.1.4{end}" for end in ("", ".1", ".4")], "MR"),
}


@dataclass(frozen=True)
class DicomOptions:
    """How to read DICOM.

    Attributes:
        series: Series Instance UID or series number, where there are several.
        allow_gaps: resample a series with uneven gaps or missing slices instead of refusing it.
        resample_tilt: resample a series of a tilted gantry instead of refusing it.
        volume: which of the volumes in a series, from 1, where there are several, such as echoes.
    """

    series: str | None = None
    allow_gaps: bool = False
    resample_tilt: bool = False
    volume: int | None = None


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
        padding: `(I, J, K)` where the voxels are padding and no part of the patient; None where none are.
        dimensions: 3, for a single slice has a place in space, too.
    """

    series: Series
    case: str
    slices: tuple[tuple[Entry, int], ...]
    stack: Stack
    frame_of_reference: str
    size: tuple[int, int]
    padding: NDArray[np.bool_] | None = field(default=None, repr=False)
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
    frames, volumes = single_images(frames_of(series.entries), where, volume=options.volume)
    stack = audit(
        planes_of(frames),
        frames[0].size,
        allow_gaps=options.allow_gaps,
        resample_tilt=options.resample_tilt,
        where=where,
    )
    ordered = [frames[n] for n in stack.order]
    modality = modality_of(series)
    array, padding = voxels(ordered, modality=modality)
    if stack.marks:
        caution(f"{where} is approximate: {'; '.join(stack.marks)}")
        array = stack.resample(array)
        padding = None if padding is None else stack.onto_grid(padding)
    header = DicomHeader(
        series,
        case_of(scanned, series) + (f"_volume-{options.volume}" if volumes > 1 else ""),
        tuple((frame.entry, frame.number) for frame in ordered),
        stack,
        ordered[0].frame_of_reference,
        ordered[0].size,
        padding,
    )
    return files.Loaded(array, stack.affine_ras_mm, header, modality)


def modality_of(series: Series) -> Modality | None:
    """What the values of a series mean; None where only they can tell, as in a secondary capture (OT)."""
    named = series.modality.upper()
    if named in ("CT", "MR"):
        return "CT" if named == "CT" else "MR"
    if named in OTHER_THAN_HU:
        return "unknown"
    return None if named else CLASSES.get(series.sop_class)


def case_of(scanned: Scan, series: Series) -> str:
    """The case id of a series: unique among the series of the same folder or archive."""
    path = scanned.path.resolve()
    name = path.stem if path.suffix.lower() in (".zip", ".dcm", ".ima") and path.is_file() else path.name
    images = [s for s in scanned.series if s.kind == "image"]
    if len(images) < 2:
        return name
    alone = sum(s.number == series.number for s in images) == 1
    return f"{name}_series-{series.number if series.number and alone else series.uid}"


def _warn_about_damage(scanned: Scan) -> None:
    if scanned.damaged:
        entry, reason = scanned.damaged[0]
        files_are = (
            "1 DICOM file is" if len(scanned.damaged) == 1 else f"{len(scanned.damaged)} DICOM files are"
        )
        caution(f"{files_are} damaged and left out, such as {entry}: {reason}")
