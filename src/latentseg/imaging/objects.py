"""Images in memory, of numpy, nibabel and SimpleITK: their voxels, and where they are in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.errors import InputError, UsageError, caution
from latentseg.imaging.affine import orientation_from
from latentseg.imaging.files import Loaded

ARRAY_FRAME = "LPS"
"""Where the axes of an array are taken to run when nothing says so; the frame of pictures, too."""


class ArrayHeader(NamedTuple):
    """What is known of an image that was an array.

    Attributes:
        dimensions: 2 for a picture `(H, W)`, 3 for a volume.
    """

    dimensions: int


class Frame(NamedTuple):
    """What the caller says of where an array is.

    Attributes:
        spacing_mm: distance of its voxels along each axis.
        affine_ras_mm: `(4, 4)`, voxel index to RAS world millimeters.
        orientation: axis codes such as ``"LPS"``.
    """

    spacing_mm: Sequence[float] | None = None
    affine_ras_mm: ArrayLike | None = None
    orientation: str | None = None


def source_of(image: Any) -> Path | None:
    """The file that an image in memory was read from, where it still knows."""
    name = image.get_filename() if hasattr(image, "get_filename") else None
    return Path(name) if name else None


def load_object(image: Any, frame: Frame) -> Loaded:
    """The voxels and the geometry of an image of nibabel or SimpleITK, or of an array.

    Raises:
        UsageError: something else, or an array of which nothing says how large its voxels are.
        InputError: four and more real axes, color, or values that are no numbers.
    """
    if hasattr(image, "dataobj") and hasattr(image, "affine"):
        return _of_nibabel(image)
    if hasattr(image, "GetDirection") and hasattr(image, "GetPixelIDValue"):
        from latentseg.imaging.nrrd import loaded_from

        return loaded_from(image, where="the SimpleITK image")
    if is_array(image):
        return _of_array(_as_array(image), frame)
    raise UsageError(
        f"{kind_name(image)} is no image",
        fix="give a path, a numpy array with its spacing or affine, or an image of nibabel or SimpleITK",
    )


def is_array(image: Any) -> bool:
    """Whether something is an array alone: of numpy, or what numpy can take for one, such as a tensor."""
    described = hasattr(image, "dataobj") or hasattr(image, "GetDirection")
    return not described and (hasattr(image, "__array__") or hasattr(image, "__array_interface__"))


def grid_array(image: Any) -> NDArray[Any] | None:
    """An array in the order of voxels `(I, J, K)`, from what is an array alone; None for all else."""
    if not is_array(image):
        return None
    array = _as_array(image)
    return array.T[..., None] if array.ndim == 2 else array


def _of_nibabel(image: Any) -> Loaded:
    import nibabel as nib

    from latentseg.imaging.nifti import check_voxels, unit_mm

    shape = check_voxels(image.shape, np.dtype(image.get_data_dtype()), where="the nibabel image")
    if image.affine is None:
        raise UsageError("the nibabel image has no affine", fix="make it with one")
    affine = np.array(image.affine, np.float64)
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    affine[:3] *= unit_mm(header) if header is not None else 1.0
    return Loaded(np.asanyarray(image.dataobj).reshape(shape), affine, header)


def _of_array(array: NDArray[Any], frame: Frame) -> Loaded:
    if array.ndim == 2:
        spacing = [1.0, 1.0] if frame.spacing_mm is None else list(frame.spacing_mm)
        affine = _affine_of(Frame([*spacing[::-1], 1.0][:3], frame.affine_ras_mm, ARRAY_FRAME))
        return Loaded(np.ascontiguousarray(array.T[..., None]), affine, ArrayHeader(2))
    if frame.spacing_mm is None and frame.affine_ras_mm is None:
        what = f"nothing says how large the voxels of the array of shape {array.shape} are"
        raise UsageError(what, fix="read it with latentseg.read(array, spacing_mm=...) or affine_ras_mm=")
    if frame.affine_ras_mm is None and frame.orientation is None:
        what = "its axes are taken to run to the patient's left, back and head (LPS)"
        caution(
            f"nothing says where the array lies: {what}; give orientation= or affine_ras_mm=", stacklevel=5
        )
    return Loaded(array, _affine_of(frame), ArrayHeader(3))


def _affine_of(frame: Frame) -> NDArray[np.float64]:
    if frame.affine_ras_mm is not None:
        return np.array(frame.affine_ras_mm, np.float64)
    spacing = np.asarray(frame.spacing_mm, np.float64)
    if spacing.shape != (3,) or not (np.isfinite(spacing).all() and spacing.min() > 0):
        what = f"the spacing {frame.spacing_mm} is not one positive number of millimeters for each axis"
        raise UsageError(what, fix="give spacing_mm=, such as (0.8, 0.8, 5.0)")
    affine = np.eye(4)
    axes, positive = orientation_from(frame.orientation or ARRAY_FRAME)
    affine[:3, :3] = 0
    for world, (axis, forward) in enumerate(zip(axes, positive, strict=True)):
        affine[world, axis] = spacing[axis] if forward else -spacing[axis]
    return affine


def _as_array(image: Any) -> NDArray[Any]:
    try:
        array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    except Exception as error:  # whatever an object's __array__ raises
        raise UsageError(
            f"{kind_name(image)} does not become an array ({error})", fix="give a numpy array"
        ) from error
    if array.dtype.kind not in "buif":
        what = f"the array holds values of type {array.dtype}, no real numbers"
        raise InputError(what, fix="give integers or floating-point numbers")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def kind_name(thing: Any) -> str:
    """What something is, for a sentence: ``a list``, ``an int``, ``None``."""
    if thing is None:
        return "None"
    name = type(thing).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
