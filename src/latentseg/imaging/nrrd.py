"""NRRD and MetaImage files, through SimpleITK.

ITK keeps spacing and direction apart and multiplies them when writing, which costs the last bits. The
geometry lines of the source's header are therefore copied into the header of the result.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution
from latentseg.imaging.affine import LPS_TO_RAS, spacing_of
from latentseg.imaging.files import Loaded, broken

NRRD_LINE = re.compile(rb"(?m)^(space|space directions|space origin):[^\n]*\n")
META_LINE = re.compile(rb"(?m)^(Offset|TransformMatrix|ElementSpacing|AnatomicalOrientation) =[^\n]*\n")
META_AXES = re.compile(rb"NDims\s*[=:]([^\r\n]*)")
MOST_AXES = 10
HEADER_BYTES = 65536


class ItkHeader(NamedTuple):
    """The geometry of an ITK file: its header lines as text, and the affine they mean."""

    lines: tuple[bytes, ...]
    affine_ras_mm: NDArray[np.float64]
    dimensions: int


def read_itk(path: Path) -> Loaded:
    """Read a 2-D or 3-D scalar NRRD or MetaImage file; trailing axes of length one are dropped.

    Raises:
        InputError: damaged file, several channels, or four and more real axes.
    """
    lines = _geometry_lines(path)
    loaded = loaded_from(open_itk(path), lines=lines, where=str(path))
    placed = any(line.startswith(b"space:") for line in lines) or _pattern(path) is META_LINE
    if loaded.header.dimensions > 2 and not placed:
        what = f"{path} says nothing about orientation (it names no space): left and right are a guess"
        caution(what, stacklevel=4)
    return loaded


def open_itk(path: Path, *, pixels: bool = True) -> Any:
    """A SimpleITK image; without its pixels a reader that knows the header.

    Raises:
        InputError: damaged file.
    """
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    _check_axes(path)
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(str(path))
        if pixels:
            return reader.Execute()
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise broken(path, "NRRD or MetaImage", _short(error)) from error
    return reader


def loaded_from(image: Any, *, lines: tuple[bytes, ...] = (), where: str = "") -> Loaded:
    """The voxels and the grid of a SimpleITK image of one channel and up to three real axes.

    Args:
        image: the image.
        lines: the geometry lines of its file.
        where: names it in messages.

    Raises:
        InputError: several channels, or four and more real axes.
    """
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

    channels, size = image.GetNumberOfComponentsPerPixel(), image.GetSize()
    if channels > 1 or any(count > 1 for count in size[3:]):
        extra = f"{channels} channels" if channels > 1 else f"{len(size)} axes {size}"
        what = f"the image has {extra}, expected one channel and 3 axes"
        raise InputError(what, where=where, fix="Save one volume of it (one channel, time point or segment)")
    array = sitk.GetArrayFromImage(image).T.reshape((*size, 1, 1)[:3], order="F")
    affine = affine_of(image)
    return Loaded(array, affine, ItkHeader(lines, affine, len(size)))


def write_itk(array: NDArray[Any], affine_ras_mm: NDArray[np.float64], header: Any, path: Path) -> None:
    """Write `(I, J, K)` voxels, compressed, as one .nrrd or .mha file.

    Raises:
        InputError: a format with a separate data file (.nhdr, .mhd), which could not appear whole.
    """
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

    if path.suffix.lower() not in (".nrrd", ".mha"):
        fix = "Write .nrrd or .mha, which hold everything in one file"
        raise InputError(f"results are not written as {path.suffix}", fix=fix)
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps, spacing = LPS_TO_RAS @ affine_ras_mm, spacing_of(affine_ras_mm)
    image.SetSpacing(spacing)
    image.SetOrigin(lps[:3, 3].tolist())
    try:
        image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
        sitk.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise InputError(f"cannot write the result ({_short(error)})") from error
    same = isinstance(header, ItkHeader) and np.array_equal(header.affine_ras_mm, affine_ras_mm)
    if same and header.dimensions == 3:
        _replace_lines(path, header.lines)


def _check_axes(path: Path) -> None:
    """Refuse a MetaImage of an absurd number of axes, which ends the process in ITK."""
    with path.open("rb") as file:
        counts = META_AXES.findall(file.read(HEADER_BYTES))
    absurd = [count for count in counts if not (count.strip().isdigit() and 0 < int(count) <= MOST_AXES)]
    if absurd and path.suffix.lower() in (".mha", ".mhd"):
        raise broken(path, "MetaImage", ValueError(f"NDims is {absurd[0].decode('latin-1').strip()[:20]!r}"))


def affine_of(image: Any) -> NDArray[np.float64]:
    """ITK's origin, spacing and direction (LPS) as one RAS affine; a 2-D image lies in the axial plane."""
    n = min(image.GetDimension(), 3)
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:n, :n]
    lps = np.eye(4)
    lps[:n, :n] = direction * np.array(image.GetSpacing()[:n])
    lps[:n, 3] = image.GetOrigin()[:n]
    return np.asarray(LPS_TO_RAS @ lps, np.float64)


def _pattern(path: Path) -> re.Pattern[bytes]:
    return NRRD_LINE if path.suffix.lower() in (".nrrd", ".nhdr") else META_LINE


def _header_of(data: bytes, path: Path) -> bytes:
    """The text part of a file: up to the empty line in NRRD, up to the data's name in MetaImage."""
    end = data.find(b"\n\n") + 1 if _pattern(path) is NRRD_LINE else data.find(b"ElementDataFile")
    return data[: max(end, 0)]


def _geometry_lines(path: Path) -> tuple[bytes, ...]:
    with path.open("rb") as file:
        header = _header_of(file.read(HEADER_BYTES), path)
    return tuple(match.group() for match in _pattern(path).finditer(header))


def _replace_lines(path: Path, lines: tuple[bytes, ...]) -> None:
    """Put the source's geometry lines in the place of ITK's, where both name the same fields."""
    data = path.read_bytes()
    header, pattern = _header_of(data, path), _pattern(path)
    fields = {line.split(b":")[0].split(b" =")[0]: line for line in lines}
    ours = {match.group(1) for match in pattern.finditer(header)}
    if ours == set(fields):
        fresh = pattern.sub(lambda match: fields[match.group(1)], header)
        path.write_bytes(fresh + data[len(header) :])


def _short(error: RuntimeError) -> RuntimeError:
    """ITK's message without its source file and line."""
    text = str(error).strip().splitlines()[-1]
    return RuntimeError(re.sub(r"^.*?ERROR: ?", "", re.sub(r"\(0x[0-9a-f]+\)", "", text)))
