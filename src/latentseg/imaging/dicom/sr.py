"""Volumes as a DICOM structured report (TID 1500) that refers to the segments they were measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latentseg.errors import InputError
from latentseg.imaging import files
from latentseg.imaging.dicom.files import Entry, parsing, quiet_pydicom
from latentseg.imaging.dicom.seg import highdicom_module, now
from latentseg.imaging.dicom.series import DicomHeader
from latentseg.imaging.dicom.sources import sources_of
from latentseg.imaging.volume import Volume
from latentseg.version import __version__

SERIES_NUMBER = 901
DIGITS = 8  # of a volume, which is a decimal string of at most 16 characters


def write_sr(segmentation: Path, *, volumes_ml: Sequence[float], like: Volume, path: str | Path) -> Path:
    """Write one volume for each segment of a DICOM SEG; the file appears whole or not at all.

    Args:
        segmentation: the SEG file.
        volumes_ml: of its segments, in order.
        like: the scan, read from DICOM.
        path: where to.

    Raises:
        InputError: see :func:`sr_dataset`; or the file cannot be written.
    """
    path = Path(path)
    dataset = sr_dataset(segmentation, volumes_ml=volumes_ml, like=like)
    with files.written_whole(path) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
    return path


def sr_dataset(segmentation: Path, *, volumes_ml: Sequence[float], like: Volume) -> Any:
    """The report as a pydicom data set; the parameters are those of :func:`write_sr`.

    Raises:
        InputError: ``like`` is not DICOM, the file is no SEG of as many segments, a series that cannot be
            referred to, or highdicom is not installed.
    """
    highdicom, uid = highdicom_module(), quiet_pydicom().uid.generate_uid
    if not isinstance(like.header, DicomHeader):
        fix = "Give the scan that the SEG refers to"
        raise InputError("a DICOM SR refers to a DICOM series", where=str(like.source or ""), fix=fix)
    entry, created = Entry(segmentation), now()
    seg = entry.read()
    with parsing(entry):
        seed = [str(seg.SOPInstanceUID), created.isoformat()]
        tracked = [uid(entropy_srcs=["tracking", str(n), *seed]) for n in range(len(seg.SegmentSequence))]
        groups = [
            _measured(highdicom, seg, number, volume, (tracking, like.header.series.uid))
            for number, (volume, tracking) in enumerate(zip(volumes_ml, tracked, strict=True), start=1)
        ]
        report = highdicom.sr.Comprehensive3DSR(
            evidence=[seg, *sources_of(like.header, str(like.source or "")).datasets],
            content=_report(highdicom, groups, uid(entropy_srcs=["observer", *seed])),
            series_instance_uid=uid(entropy_srcs=["sr series", *seed]),
            series_number=SERIES_NUMBER,
            sop_instance_uid=uid(entropy_srcs=["sr instance", *seed]),
            instance_number=1,
            manufacturer="latentseg",
            series_description="Volumes" + (" (approximate: resampled)" if like.header.marks else ""),
        )
    for item in report.get("ContributingEquipmentSequence", ()):
        item.ContributionDateTime = created.strftime("%Y%m%d%H%M%S")
    report.ContentDate = report.InstanceCreationDate = created.strftime("%Y%m%d")
    report.ContentTime = report.InstanceCreationTime = created.strftime("%H%M%S")
    return report


def _measured(highdicom: Any, seg: Any, number: int, volume_ml: float, uids: tuple[str, str]) -> Any:
    """The volume of one segment, under its codes; `uids` track it, and name the series of the scan."""
    codes, (tracking, series) = highdicom.sr.CodedConcept, uids
    described = seg.SegmentSequence[number - 1]
    region = described.get("AnatomicRegionSequence") or []
    return highdicom.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=highdicom.sr.TrackingIdentifier(tracking, str(described.SegmentLabel)),
        referenced_segment=highdicom.sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            segment_number=number,
            source_series=highdicom.sr.SourceSeriesForSegmentation(series),
        ),
        finding_category=codes.from_dataset(described.SegmentedPropertyCategoryCodeSequence[0]),
        finding_type=codes.from_dataset(described.SegmentedPropertyTypeCodeSequence[0]),
        finding_sites=[highdicom.sr.FindingSite(codes.from_dataset(region[0]))] if region else None,
        measurements=[
            highdicom.sr.Measurement(
                name=codes("118565006", "SCT", "Volume"),
                value=float(f"{volume_ml:.{DIGITS}g}"),
                unit=codes("mL", "UCUM", "milliliter"),
            )
        ],
    )


def _report(highdicom: Any, groups: list[Any], observer: str) -> Any:
    device = highdicom.sr.DeviceObserverIdentifyingAttributes(
        observer, name="latentseg", manufacturer_name="latentseg", model_name=__version__
    )
    kind = highdicom.sr.CodedConcept("121007", "DCM", "Device")
    return highdicom.sr.MeasurementReport(
        observation_context=highdicom.sr.ObservationContext(highdicom.sr.ObserverContext(kind, device)),
        procedure_reported=highdicom.sr.CodedConcept("363679005", "SCT", "Imaging"),
        imaging_measurements=groups,
    )
