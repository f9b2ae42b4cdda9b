"""NIfTI-1 and NIfTI-2 files, through nibabel.

Masks carry the geometry fields of the source header unchanged, byte for byte, so that the affine of a result
is bit for bit the affine of its input in every program that reads either.
"""

from __future__ import annotations

import gzip
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, caution
from latentseg.imaging.files import Loaded, broken, not_an_image

GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def read_nifti(path: Path) -> Loaded:
    """Read a 3-D NIfTI file; trailing axes of length one are dropped, a 2-D file gets one slice.

    Raises:
        InputError: damaged file, four or more real axes, or color and complex voxels.
    """
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # damage is reported as an error
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opener(path, "rb") as stream:
            image = _image_of(stream, path)
            shape, dtype = tuple(image.shape), image.get_data_dtype()
            _check_shape(shape, dtype, path)
            array = np.asanyarray(image.dataobj)
            while stream.read(1 << 20):  # to the end, where gzip's checksum is
                pass
    except (InputError, MemoryError):
        raise
    except Exception as error:  # nibabel, gzip, zlib and numpy each have their own for a damaged file
        raise broken(path, "NIfTI", error) from error
    _warn_about_forms(image.header, shape, path)
    array = array.reshape((*shape, 1, 1)[:3])
    return Loaded(array, np.asarray(image.affine, np.float64), image.header)


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


def _image_of(stream: Any, path: Path) -> Any:
    """An image of NIfTI version 1 or 2 that reads its voxels from an open file."""
    import nibabel as nib

    size = stream.read(4)
    stream.seek(0)
    sizes = [n.to_bytes(4, order) for n in (348, 540) for order in ("little", "big")]
    if size not in sizes:
        raise not_an_image(path)
    image: Any = nib.Nifti1Image if size in sizes[:2] else nib.Nifti2Image
    return image.from_stream(stream)


def _describes(header: Any, affine_ras_mm: NDArray[np.float64]) -> bool:
    """Whether a header is NIfTI's (version 2 is a subclass of 1) and still says what the affine says."""
    import nibabel as nib

    return isinstance(header, nib.Nifti1Header) and np.array_equal(header.get_best_affine(), affine_ras_mm)


def _check_shape(shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> None:
    if dtype.fields is not None or dtype.kind == "c":
        kind = "RGB color" if dtype.fields is not None else "complex"
        raise InputError(f"voxels are {kind} values", where=str(path), fix="Export a single-channel image")
    if any(count > 1 for count in shape[3:]):
        what = f"the image has {len(shape)} axes {shape}, expected 3"
        raise InputError(what, where=str(path), fix="Save one volume of it (one time point, echo or channel)")
    if len(shape) < 2 or 0 in shape:
        raise InputError(
            f"the image has shape {shape}, expected 3 axes", where=str(path), fix="Export it again"
        )


def _warn_about_forms(header: Any, shape: tuple[int, ...], path: Path) -> None:
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
    far = np.array([*((*shape, 1, 1)[:3]), 1])
    gap_mm = max(float(np.linalg.norm((difference @ at)[:3])) for at in (far, np.array([0, 0, 0, 1])))
    if gap_mm > 0.1 * float(np.min(np.abs(header["pixdim"][1:4]))):
        message = f"sform and qform of {path} disagree by {gap_mm:.3g} mm: the sform is used"
        caution(message, stacklevel=4)
