"""Refuses files, before they are opened, whose headers announce more data than this machine should unpack."""

from __future__ import annotations

import gzip
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from latentseg.errors import InputError
from latentseg.imaging import files
from latentseg.serve.settings import Limits

NIFTI_HEADER = 352
DICOM_AT_ONCE = 5000  # frames that one header may promise


def check_admitted(path: Path, limits: Limits) -> None:
    """Refuse a scan that would unpack to more than the limits.

    Args:
        path: A file or a folder.
        limits: What is refused.

    Raises:
        InputError: An archive or a header that promises too much, or that cannot be read.
    """
    if path.is_dir():
        _check_sum(_folder_bytes(path), limits, path)
    elif zipfile.is_zipfile(path) and files.sniff(path) == "zip":
        _check_archive(path, limits)
    elif files.sniff(path) == "DICOM":
        _check_sum(iter([dicom_bytes(path)]), limits, path)
    elif files.suffix_of(path) in (".nii", ".nii.gz"):
        _check_sum(iter([nifti_bytes(path)]), limits, path)
    elif files.suffix_of(path) in (".nrrd", ".nhdr", ".mha", ".mhd"):
        _check_sum(iter([text_header_bytes(path)]), limits, path)
    elif files.suffix_of(path):
        _check_sum(iter([picture_bytes(path)]), limits, path)


def nifti_bytes(path: Path) -> int:
    """Bytes of the voxels that a NIfTI header promises; the voxels are not read.

    Raises:
        InputError: The header cannot be read.
    """
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            head = file.read(NIFTI_HEADER + 192)
    except (OSError, EOFError, zlib.error) as error:
        raise files.broken(path, "NIfTI", error) from error
    for order in "<>":
        if len(head) >= NIFTI_HEADER and struct.unpack_from(f"{order}i", head)[0] == 348:
            dims = struct.unpack_from(f"{order}8h", head, 40)
            bits = int(struct.unpack_from(f"{order}h", head, 72)[0])
            return _product(dims[1 : 1 + min(max(dims[0], 0), 7)]) * max(bits, 8) // 8
        if len(head) >= NIFTI_HEADER + 188 and struct.unpack_from(f"{order}i", head)[0] == 540:
            dims = struct.unpack_from(f"{order}8q", head, 16)
            bits = int(struct.unpack_from(f"{order}h", head, 14)[0])
            return _product(dims[1 : 1 + min(max(dims[0], 0), 7)]) * max(bits, 8) // 8
    raise files.not_an_image(path)


def dicom_bytes(path: Path) -> int:
    """Bytes of the pixels that a DICOM header promises; the pixels are not read.

    Raises:
        InputError: The header cannot be read, or promises more frames than any scanner makes.
    """
    import pydicom

    tags = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"]
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)
        rows, columns = int(head.get("Rows") or 0), int(head.get("Columns") or 0)
        frames = int(head.get("NumberOfFrames") or 1)
        samples, bits = int(head.get("SamplesPerPixel") or 1), int(head.get("BitsAllocated") or 16)
    except Exception as error:  # pydicom raises many kinds for a damaged header
        raise files.broken(path, "DICOM", error) from error
    if frames > DICOM_AT_ONCE:
        what = f"the header promises {frames} frames"
        raise InputError(what, where=path.name, fix="export the series again")
    return rows * columns * frames * samples * max(bits, 8) // 8


def text_header_bytes(path: Path) -> int:
    """Bytes of the voxels that an NRRD or MetaImage header promises, at 8 bytes each.

    Raises:
        InputError: There are no sizes in the header.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    for line in head.splitlines():
        name, _, value = line.replace(b"=", b":").partition(b":")
        if name.strip().lower() in (b"sizes", b"dimsize"):
            numbers = value.split()
            if numbers and all(number.isdigit() for number in numbers):
                return _product([int(number) for number in numbers]) * 8
    raise files.not_an_image(path)


def picture_bytes(path: Path) -> int:
    """Bytes of the pixels that the header of a picture promises.

    Raises:
        InputError: The header cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pages = int(getattr(picture, "n_frames", 1))
            return picture.width * picture.height * pages * 4
    except Image.DecompressionBombError as error:
        raise InputError("the picture is too large", where=path.name, fix="give a smaller one") from error
    except Exception as error:  # pillow raises many kinds for a damaged header
        raise files.broken(path, "picture", error) from error


def _check_archive(path: Path, limits: Limits) -> None:
    """Judge an archive by its table; members that lie about their size fail when they are read."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise files.broken(path, "zip", error) from error
    packed = sum(member.compress_size for member in members)
    unpacked = sum(member.file_size for member in members)
    fix = "give the DICOM files of one study"
    if len(members) > limits.archive_files:
        raise InputError(f"the archive holds {len(members)} files", where=path.name, fix=fix)
    if any(member.filename.lower().endswith((".zip", ".gz", ".7z", ".tar")) for member in members):
        raise InputError("the archive holds other archives", where=path.name, fix=fix)
    if unpacked > limits.archive_ratio * max(packed, 1):
        what = f"the archive would unpack to {unpacked // max(packed, 1)} times its size"
        raise InputError(what, where=path.name, fix=fix)
    _check_sum(iter([unpacked]), limits, path)


def _check_sum(sizes: Iterator[int], limits: Limits, path: Path) -> None:
    total = 0
    for size in sizes:
        total += size
        if total > limits.volume_bytes:
            most = limits.volume_bytes // (1 << 20)
            what = f"its voxels would take more than {most} MB of memory"
            raise InputError(what, where=path.name, fix="crop the scan, or raise --max-volume-mb")


def _folder_bytes(folder: Path) -> Iterator[int]:
    for file in sorted(folder.rglob("*")):
        if not file.is_file() or file.name.startswith("."):
            continue
        if files.sniff(file) == "DICOM":
            yield dicom_bytes(file)
        elif files.suffix_of(file) in (".png", ".tif", ".tiff", ".jpg", ".jpeg"):
            yield picture_bytes(file)


def _product(numbers: Any) -> int:
    total = 1
    for number in numbers:
        total *= max(int(number), 1)
    return total
