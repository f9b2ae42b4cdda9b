"""Volumes as DICOM files: what tests, benchmarks and first steps use in the place of a hospital's export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentseg.imaging.affine import LPS_TO_RAS
from latentseg.imaging.dicom.files import quiet_pydicom
from latentseg.imaging.volume import Volume

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".1", ".2", ".1.99"))


def slice_datasets(volume: Volume, *, description: str = "phantom", series_number: int = 1) -> list[Any]:
    """One CT or MR image object per slice K of a volume of whole numbers, ready to be changed and saved.

    Args:
        volume: `(I, J, K)` int16; CT is stored with a rescale intercept of -1024.
        description: series description.
        series_number: series number.
    """
    pydicom = quiet_pydicom()
    study, series, frame = (pydicom.uid.generate_uid() for _ in range(3))
    lps = LPS_TO_RAS @ volume.affine_ras_mm
    spacing = volume.spacing_mm
    cosines = lps[:3, :2] / np.array(spacing[:2])
    common = {
        "SOPClassUID": CLASSES["CT" if volume.modality == "CT" else "MR"],
        "Modality": "CT" if volume.modality == "CT" else "MR",
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "FrameOfReferenceUID": frame,
        "SeriesDescription": description,
        "SeriesNumber": series_number,
        "PatientName": "Phantom",
        "PatientID": "phantom",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PixelSpacing": [_decimal(spacing[1]), _decimal(spacing[0])],
        "SliceThickness": _decimal(spacing[2]),
        "ImageOrientationPatient": [_decimal(value) for value in cosines.T.ravel()],
    }
    return [_dataset(pydicom, volume, k, common, lps @ [0, 0, k, 1]) for k in range(volume.shape[2])]


def save_slices(datasets: Sequence[Any], folder: str | Path, *, name: str = "slice_{:04d}.dcm") -> list[Path]:
    """Write image objects as files ``slice_0001.dcm`` and so on."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(number) for number in range(1, len(datasets) + 1)]
    for dataset, path in zip(datasets, paths, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    return paths


def recode(dataset: Any, syntax: str) -> None:
    """Change an image object to another lossless transfer syntax, given by its UID."""
    if syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED):
        dataset.compress(syntax, generate_instance_uid=False)
    elif syntax == BIG_ENDIAN:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax


def multi_frame(datasets: Sequence[Any]) -> Any:
    """CT slices as one enhanced multi-frame object, in the same order."""
    new = quiet_pydicom().Dataset
    whole, frames, shared = new(), [], new()
    whole.update(datasets[0])
    whole.file_meta = datasets[0].file_meta
    whole.SOPClassUID, whole.NumberOfFrames = f"{CLASSES['CT']}.1", len(datasets)
    for one in datasets:
        frames.append(new())
        frames[-1].PlanePositionSequence = [new()]
        frames[-1].PlanePositionSequence[0].ImagePositionPatient = one.ImagePositionPatient
    groups = {
        "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
        "PlaneOrientationSequence": ("ImageOrientationPatient",),
        "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    }
    for sequence, names in groups.items():
        item = new()
        for name in names:
            item[name] = datasets[0][name]
            del whole[name]
        setattr(shared, sequence, [item])
    del whole.ImagePositionPatient
    whole.PerFrameFunctionalGroupsSequence, whole.SharedFunctionalGroupsSequence = frames, [shared]
    whole.PixelData = b"".join(one.PixelData for one in datasets)
    return whole


def _dataset(pydicom: Any, volume: Volume, k: int, common: dict[str, Any], position_lps_mm: Any) -> Any:
    dataset = pydicom.Dataset()
    intercept = -1024 if volume.modality == "CT" else 0
    pixels = (volume.array[:, :, k].astype(np.int32) - intercept).T
    for name in ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "PatientBirthDate", "PatientSex"):
        setattr(dataset, name, "")
    for name, value in common.items():
        setattr(dataset, name, value)
    dataset.SOPInstanceUID = pydicom.uid.generate_uid()
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [_decimal(value) for value in position_lps_mm[:3]]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    if volume.modality == "CT":
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 1, intercept, "HU"
    dataset.PixelData = np.ascontiguousarray(pixels.astype("<u2")).tobytes()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = EXPLICIT
    return dataset


def _decimal(value: float) -> str:
    """A number in the 16 characters of a DICOM decimal string."""
    return next(text for digits in range(16, 0, -1) if len(text := f"{value:.{digits}g}") <= 16)
