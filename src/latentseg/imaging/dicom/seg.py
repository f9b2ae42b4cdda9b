"""Masks as DICOM Segmentation objects that refer to the slices of the series they were drawn on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError
from latentseg.imaging import files
from latentseg.imaging.dicom.files import quiet_pydicom
from latentseg.imaging.dicom.series import DicomHeader
from latentseg.imaging.dicom.sources import TAKE_NIFTI, sources_of
from latentseg.imaging.volume import Volume
from latentseg.version import __version__

SegKind = Literal["binary", "labelmap", "fractional"]
SEG_KINDS: tuple[SegKind, ...] = ("binary", "labelmap", "fractional")
SERIES_NUMBER = 900


@dataclass(frozen=True)
class Code:
    """A coded concept: its value in a scheme such as SNOMED CT (``"SCT"``), and its meaning in words."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class SegmentCode:
    """What a segment is, in codes.

    Attributes:
        category: anatomical structure, abnormal structure or tissue.
        kind: the organ, or the kind of abnormality.
        region: where an abnormality is.
        side: left or right.
    """

    category: Code
    kind: Code
    region: Code | None = None
    side: Code | None = None


@dataclass(frozen=True, eq=False)
class Segment:
    """One structure.

    Attributes:
        name: its label.
        array: `(I, J, K)` on the grid of the scan: bool, or probabilities in [0, 1] for ``"fractional"``.
        code: what it is.
    """

    name: str
    array: NDArray[Any]
    code: SegmentCode


def write_seg(
    segments: Sequence[Segment], *, like: Volume, path: str | Path, kind: SegKind = "binary"
) -> Path:
    """Write segments as one DICOM SEG file; it appears whole or not at all.

    Args:
        segments: in the order of their segment numbers, which count from 1.
        like: the scan, read from DICOM.
        path: where to.
        kind: ``"binary"`` (segments may overlap), ``"labelmap"`` (they may not) or ``"fractional"``.

    Raises:
        InputError: see :func:`seg_dataset`; or the file cannot be written.
        GeometryError: an array that is not on the grid of ``like``.
    """
    path = Path(path)
    dataset = seg_dataset(segments, like=like, kind=kind)
    with files.written_whole(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def seg_dataset(segments: Sequence[Segment], *, like: Volume, kind: SegKind = "binary") -> Any:
    """Segments as a pydicom data set; the parameters are those of :func:`write_seg`.

    Raises:
        InputError: ``like`` is not DICOM or lacks what a reference needs, overlaps in a label map, or
            highdicom is not installed.
        GeometryError: an array that is not on the grid of ``like``.
    """
    header, where = like.header, str(like.source or "")
    if not isinstance(header, DicomHeader):
        raise InputError(
            "a DICOM SEG refers to a DICOM series, and the scan is none", where=where, fix="Write NIfTI"
        )
    highdicom = highdicom_module()
    arrays = [_on_slices(segment, like, header) for segment in segments]
    sources = sources_of(header, where)
    pixels = _pixels(arrays, kind, where)[sources.order]
    created = now()
    seed = [header.series.uid, created.isoformat(), kind, hashlib.sha256(pixels.tobytes()).hexdigest()]
    uid = quiet_pydicom().uid.generate_uid
    descriptions = [_description(n, s, highdicom) for n, s in enumerate(segments, start=1)]
    try:
        dataset = highdicom.seg.Segmentation(
            source_images=sources.datasets,
            pixel_array=pixels,
            segmentation_type=kind.upper(),
            segment_descriptions=descriptions,
            series_instance_uid=uid(entropy_srcs=["series", *seed]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid(entropy_srcs=["instance", *seed]),
            instance_number=1,
            manufacturer="latentseg",
            manufacturer_model_name="latentseg",
            software_versions=__version__,
            device_serial_number="0",
            content_description="; ".join(header.marks)[:64] or None,
            series_description="Segmentation" + (" (approximate: resampled)" if header.marks else ""),
        )
    except (ValueError, TypeError, AttributeError, LookupError) as error:  # a source that bends the standard
        raise InputError(f"a DICOM SEG cannot refer to it ({error})", where=where, fix=TAKE_NIFTI) from error
    _refer_to_frames(dataset, sources.frames)
    _stamp(dataset, created, uid(entropy_srcs=["dimensions", *seed]))
    return dataset


def _stamp(dataset: Any, created: datetime, dimensions: str) -> None:
    """Replace what highdicom takes from the clock and at random."""
    for item in (*dataset.DimensionOrganizationSequence, *dataset.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    for item in dataset.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = created.strftime("%Y%m%d%H%M%S")
    dataset.ContentDate = dataset.InstanceCreationDate = created.strftime("%Y%m%d")
    dataset.ContentTime = dataset.InstanceCreationTime = created.strftime("%H%M%S")


def _on_slices(segment: Segment, like: Volume, header: DicomHeader) -> NDArray[Any]:
    """`(N, rows, columns)` on the source's slices."""
    if segment.array.shape != like.shape:
        what = f"segment {segment.name!r} of shape {segment.array.shape} does not fit the grid {like.shape}"
        raise GeometryError(what, where=str(like.source or ""), fix="Bring it back to the scan's grid first")
    array = header.stack.onto_slices(segment.array, header.size) if header.marks else segment.array
    return np.transpose(array, (2, 1, 0))


def _pixels(arrays: list[NDArray[Any]], kind: SegKind, where: str) -> NDArray[Any]:
    """Frames as highdicom wants them: `(N, rows, columns, segments)`, or labels `(N, rows, columns)`."""
    if kind == "fractional":
        return np.stack([np.clip(array, 0, 1).astype(np.float32) for array in arrays], axis=-1)
    masks = np.stack([array > 0 for array in arrays], axis=-1)
    if kind == "binary":
        return masks.astype(np.uint8)
    overlap = int((masks.sum(-1, dtype=np.uint16) > 1).sum())
    if overlap:
        what = f"{overlap} voxels belong to more than one segment, which a label map cannot hold"
        raise InputError(what, where=where, fix="Write binary segments, or one file per segment")
    return np.asarray(
        np.where(masks.any(-1), masks.argmax(-1) + 1, 0), np.uint8 if len(arrays) < 256 else np.uint16
    )


def _refer_to_frames(dataset: Any, numbers: Sequence[int]) -> None:
    """Give frames of the source, which are counted within the volume, their numbers in the file."""
    sources = {
        id(source): source  # segments of one slice share it
        for groups in (dataset.PerFrameFunctionalGroupsSequence if numbers else ())
        for derivation in groups.get("DerivationImageSequence", ())
        for source in derivation.SourceImageSequence
    }
    for source in sources.values():
        source.ReferencedFrameNumber = numbers[int(source.ReferencedFrameNumber) - 1]


def _label(name: str) -> str:
    """A name as DICOM's long string: 64 letters of any script, without the letter that parts values."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name.replace("\\", "/"))
    return plain[:64].strip()


def _description(number: int, segment: Segment, highdicom: Any) -> Any:
    def coded(code: Code) -> Any:
        return highdicom.sr.CodedConcept(_label(code.value)[:16], code.scheme, _label(code.meaning))

    code = segment.code
    method = highdicom.AlgorithmIdentificationSequence(
        name="latentseg",
        family=coded(Code("123110", "DCM", "Artificial Intelligence")),
        version=__version__,
    )
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=_label(segment.name),
        segmented_property_category=coded(code.category),
        segmented_property_type=coded(code.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=method,
        anatomic_regions=[coded(code.region)] if code.region else None,
    )
    if code.side and code.region:
        description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [coded(code.side)]
    elif code.side:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(code.side)]
    return description


def now() -> datetime:
    """The time of creation; ``SOURCE_DATE_EPOCH`` fixes it where files must be reproduced bit for bit."""
    fixed = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(fixed), UTC) if fixed else datetime.now(UTC)


def highdicom_module() -> Any:
    """The module.

    Raises:
        InputError: It is not installed.
    """
    quiet_pydicom()
    try:
        import highdicom
    except ImportError as error:
        raise InputError("DICOM SEG needs highdicom", fix="pip install 'latentseg[dicom]'") from error
    return highdicom
