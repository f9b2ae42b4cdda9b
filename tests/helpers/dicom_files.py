"""Volumes as DICOM files: what tests and benchmarks use in the place of a hospital's export."""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Mapping, Sequence
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


def mosaic(datasets: Sequence[Any], *, csa: bool = True) -> Any:
    """MR slices as tiles of one Siemens mosaic, in the same order.

    Args:
        datasets: at least two, evenly spaced.
        csa: name the number of tiles and the direction of the slices in a CSA header; else the number alone,
            in the private element (0019,100A).
    """
    whole = copy.deepcopy(datasets[0])
    side = math.ceil(math.sqrt(len(datasets)))
    rows, columns = whole.Rows, whole.Columns
    picture = np.zeros((side, rows, side, columns), "<u2")
    for n, one in enumerate(datasets):
        picture[n // side, :, n % side] = np.frombuffer(one.PixelData, "<u2").reshape(rows, columns)
    first, second = (np.array(one.ImagePositionPatient, float) for one in datasets[:2])
    turn = np.array(whole.ImageOrientationPatient, float).reshape(2, 3)
    outward = (side - 1) / 2 * np.array([columns, rows]) * np.array(whole.PixelSpacing, float)[::-1]
    whole.ImagePositionPatient = [_decimal(value) for value in first - outward @ turn]
    whole.Rows, whole.Columns = side * rows, side * columns
    whole.PixelData = picture.tobytes()
    whole.ImageType = [*whole.ImageType[:2], "M", "ND", "MOSAIC"]
    step = float(np.linalg.norm(second - first))
    whole.SpacingBetweenSlices = _decimal(step)
    if csa:
        block = whole.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        normal = [f"{value:.8f}" for value in (second - first) / step]
        tags = {"NumberOfImagesInMosaic": [str(len(datasets))], "SliceNormalVector": normal}
        block.add_new(0x10, "OB", csa_header(tags))
    else:
        block = whole.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", len(datasets))
    return whole


def csa_header(tags: Mapping[str, Sequence[str]]) -> bytes:
    """Decimal strings by name in Siemens' CSA format, version 2."""
    parts = [b"SV10\4\3\2\1", struct.pack("<2I", len(tags), 77)]
    for name, values in tags.items():
        parts.append(struct.pack("<64si4s3i", name.encode(), len(values), b"DS", 3, len(values), 77))
        for value in values:
            content = value.encode() + b"\0"
            parts += [struct.pack("<4i", 0, len(content), 77, 0), content, bytes(-len(content) % 4)]
    return b"".join(parts)


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
