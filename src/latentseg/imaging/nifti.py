"""NIfTI-1 and NIfTI-2 files, through nibabel.

Masks carry the geometry fields of the source header unchanged, byte for byte, so that the affine of a result
is bit for bit the affine of its input in every program that reads either. The affine in memory is in
millimeters whatever unit the header counts in.
"""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution
from latentseg.imaging.files import Loaded, broken, not_an_image, voxel_file

GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)
SPATIAL_UNITS_MM = {1: 1000.0, 3: 0.001}
"""Millimeters of the unit codes for meters and micrometers; all other codes are taken for millimeters."""

SPATIAL_UNITS_MASK = 0x07


def read_nifti(path: Path) -> Loaded:
    """Read a 3-D NIfTI file; trailing axes of length one are dropped, a 2-D file gets one slice.

    Raises:
        InputError: damaged file, four or more real axes, or color and complex voxels.
    """
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # damage is reported as an error
    try:
        header = _header_of(path)
        shape = check_voxels(header.get_data_shape(), header.get_data_dtype(), where=str(path))
        array, affine = _voxels_of(header, path), affine_of(header)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # nibabel, gzip, zlib and numpy each have their own for a damaged file
        raise broken(path, "NIfTI", error) from error
    _warn_about_forms(header, shape, path)
    return Loaded(array.reshape(shape), affine, header)


class Facts(NamedTuple):
    """What the header says of an image that can be read.

    Attributes:
        shape: voxels along I, J, K.
        dtype: type of the voxels in memory.
        affine_ras_mm: `(4, 4)`.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    affine_ras_mm: NDArray[np.float64]


def facts_of(path: Path) -> Facts | None:
    """The size of an image without reading its voxels; None where only reading them tells that it can be.

    That is so where voxels may be no numbers, and where the length of the file is not what the header says.

    Raises:
        InputError: damaged header, four or more real axes, or color and complex voxels.
    """
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)
    try:
        header, voxels = _header_of(path), voxel_file(path)
        shape = check_voxels(header.get_data_shape(), header.get_data_dtype(), where=str(path))
        slope, intercept = header.get_slope_inter()
        stored, affine = header.get_data_dtype(), affine_of(header)
        length = int(header.get_data_offset()) + int(np.prod(shape)) * stored.itemsize
        packed = voxels.suffix.lower() == ".gz"
        whole = _length_of(voxels) == length % (1 << 32) if packed else voxels.stat().st_size >= length
    except (InputError, MemoryError):
        raise
    except Exception:  # reading it says why
        return None
    if not whole or stored.kind == "f":
        return None
    scaled = slope not in (None, 1.0) or intercept not in (None, 0.0)
    return Facts(shape, np.dtype(np.float64) if scaled else stored, affine)


def _length_of(path: Path) -> int:
    """The length of a gzip file when it is unpacked, modulo 4 GiB, as its end says."""
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        return int.from_bytes(stream.read(4), "little")


def check_voxels(shape: tuple[int, ...], dtype: np.dtype[Any], *, where: str) -> tuple[int, int, int]:
    """The three axes of voxels that are single real numbers.

    Raises:
        InputError: four or more real axes, or color and complex voxels.
    """
    if dtype.fields is not None or dtype.kind == "c":
        kind = "RGB color" if dtype.fields is not None else "complex"
        raise InputError(f"voxels are {kind} values", where=where, fix="Export a single-channel image")
    if any(count > 1 for count in shape[3:]):
        what = f"the image has {len(shape)} axes {shape}, expected 3"
        raise InputError(what, where=where, fix="Save one volume of it (one time point, echo or channel)")
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"the image has shape {shape}, expected 3 axes", where=where, fix="Export it again")
    i, j, k = (int(count) for count in (*shape, 1, 1)[:3])
    return i, j, k


def affine_of(header: Any) -> NDArray[np.float64]:
    """The affine of a NIfTI header in millimeters."""
    affine = np.array(header.get_best_affine(), np.float64)
    affine[:3] *= unit_mm(header)
    return affine


def unit_mm(header: Any) -> float:
    """Millimeters of the unit that a NIfTI header counts space in."""
    return SPATIAL_UNITS_MM.get(int(header["xyzt_units"]) & SPATIAL_UNITS_MASK, 1.0)


def write_nifti(array: NDArray[Any], affine_ras_mm: NDArray[np.float64], header: Any, path: Path) -> None:
    """Write `(I, J, K)` voxels under the geometry of ``header``, or under the affine where there is none."""
    import nibabel as nib

    version2 = isinstance(header, nib.Nifti2Header)
    fresh: Any = nib.Nifti2Header() if version2 else nib.Nifti1Header()
    fresh.set_data_dtype(array.dtype)
    fresh.set_data_shape(array.shape)
    if _describes(header, affine_ras_mm):
        for field in GEOMETRY_FIELDS:
            fresh[field] = header[field]
        fresh["pixdim"][:4] = header["pixdim"][:4]
        fresh["xyzt_units"] = header["xyzt_units"]
    else:
        marks = getattr(header, "marks", ())
        fresh["descrip"] = f"approximate: {'; '.join(marks)}"[:79].encode() if marks else b""
        fresh.set_xyzt_units("mm")
        fresh.set_sform(affine_ras_mm, code=1)
        fresh.set_qform(affine_ras_mm, code=1, strip_shears=True)
    image: Any = (nib.Nifti2Image if version2 else nib.Nifti1Image)(array, None, fresh)
    nib.save(image, path)


def _open(path: Path) -> Any:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _header_of(path: Path) -> Any:
    """The header of NIfTI version 1 or 2; of a pair it is a file of its own."""
    import nibabel as nib

    with _open(path) as stream:
        size, magic = _size_and_magic(stream)
        sizes = [n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big")]
        if size not in sizes:
            raise not_an_image(path)
        stream.seek(0)
        first, second = size in sizes[:2], size in sizes[2:]
        if voxel_file(path) == path:
            return (nib.Nifti2Header if second else nib.Nifti1Header).from_fileobj(stream)
        if first and magic != b"ni1\0":
            what = "this is a header of Analyze 7.5, which does not say where left and right are"
            raise InputError(what, where=str(path), fix="Convert it to NIfTI, and check left and right there")
        return (nib.Nifti2Pair if second else nib.Nifti1Pair).header_class.from_fileobj(stream)


def _size_and_magic(stream: Any) -> tuple[bytes, bytes]:
    """The first four bytes, and those at the end of a header of version 1."""
    start = stream.read(348)
    return start[:4], start[344:348]


def _voxels_of(header: Any, path: Path) -> NDArray[Any]:
    """The scaled voxels; the file is read to its end, where gzip's checksum is."""
    from nibabel.arrayproxy import ArrayProxy

    with _open(voxel_file(path)) as stream:
        array: NDArray[Any] = np.asanyarray(ArrayProxy(stream, _with_plain_scale(header, path)))
        try:
            while stream.read(1 << 20):
                pass
        except gzip.BadGzipFile as error:
            if not str(error).startswith("Not a gzipped file"):  # such as a wrong checksum
                raise
            caution(f"{path}: the bytes behind the compressed image are left out", stacklevel=4)
    return array


def _with_plain_scale(header: Any, path: Path) -> Any:
    """The header with an intercept of 0 where it is no number; nibabel takes such a slope for 1 itself."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isfinite(slope) and (slope == 0 or np.isfinite(intercept)):
        return header
    odd, value = ("slope", slope) if not np.isfinite(slope) else ("intercept", intercept)
    if odd == "intercept" or np.isfinite(intercept):  # with neither there is no scale
        caution(f"the {odd} of the values of {path} is {value:g}: it is left out", stacklevel=5)
    plain = header.copy()
    plain["scl_inter"] = 0.0
    return plain


def _describes(header: Any, affine_ras_mm: NDArray[np.float64]) -> bool:
    """Whether a header is NIfTI's (version 2 is a subclass of 1) and still says what the affine says."""
    import nibabel as nib

    return isinstance(header, nib.Nifti1Header) and np.array_equal(affine_of(header), affine_ras_mm)


def _warn_about_forms(header: Any, shape: tuple[int, int, int], path: Path) -> None:
    """Warn when the header's two geometries disagree by a tenth of a voxel, or when both are missing."""
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if not sform_code and not qform_code:
        message = (
            f"{path} says nothing about orientation (sform and qform codes are 0): left and right are a guess"
        )
        caution(message, stacklevel=4)
    if not (sform_code and qform_code):
        return
    try:
        difference = header.get_sform() - header.get_qform()
    except (ValueError, np.linalg.LinAlgError):
        return
    far = np.array([*shape, 1])
    gap = max(float(np.linalg.norm((difference @ at)[:3])) for at in (far, np.array([0, 0, 0, 1])))
    if gap > 0.1 * float(np.min(np.abs(header["pixdim"][1:4]))):
        message = f"sform and qform of {path} disagree by {gap * unit_mm(header):.3g} mm: the sform is used"
        caution(message, stacklevel=4)
