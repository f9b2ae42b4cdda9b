"""Volumes from files of every format, and results as files on the grid of their scan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError
from latentseg.imaging import files
from latentseg.imaging.geometry import check_same_grid
from latentseg.imaging.intensity import Modality, check_finite, guess_modality
from latentseg.imaging.orientation import AUTO, with_found_orientation
from latentseg.imaging.volume import Volume

if TYPE_CHECKING:
    from latentseg.imaging.dicom.series import DicomOptions

OutputKind = Literal["mask", "probability", "image"]


def read(
    path: str | Path,
    *,
    modality: Modality | None = None,
    orientation: str | None = None,
    dicom: DicomOptions | None = None,
) -> Volume:
    """Read an image: NIfTI, NRRD, MetaImage, PNG, TIFF, JPEG, a folder of slices, or a DICOM series.

    Args:
        path: the file or folder; DICOM also as a zip archive.
        modality: CT or MR; guessed from the values when not given.
        orientation: axis codes such as ``"LAS"`` that overrule a wrong affine (see :class:`Volume`);
            ``"auto"`` takes them from the picture where it surely contradicts the affine, and warns.
        dicom: which series of several, and what of its geometry may be resampled.

    Raises:
        InputError: missing, empty, damaged, of unknown type, not 3-D, in color, with NaN or infinite values.
        GeometryError: an affine that is sheared or cannot be inverted, or DICOM slices that make no grid.
    """
    path = Path(path)
    loaded = _load(path, labels=False, dicom=dicom)
    check_finite(loaded.array, where=str(path))
    volume = Volume(
        array=loaded.array,
        affine_ras_mm=loaded.affine_ras_mm,
        modality=modality or loaded.modality or guess_modality(loaded.array),
        source=path,
        header=loaded.header,
        orientation=None if orientation == AUTO else orientation,
    )
    return with_found_orientation(volume) if orientation == AUTO else volume


def read_labels(
    path: str | Path,
    *,
    like: Volume | None = None,
    orientation: str | None = None,
    name: str | None = None,
) -> Volume:
    """Read a label map, also DICOM SEG or RTSTRUCT, as the smallest unsigned integer type that holds it.

    Args:
        path: the file or folder.
        like: an image the labels must share the grid of; its orientation is taken over.
        orientation: axis codes that overrule a wrong affine, where there is no ``like``.
        name: of the one structure to read from DICOM, as label 1; other formats hold no names.

    Raises:
        UsageError: DICOM that holds several structures, and none of that name.
        InputError: as :func:`read`, and for values that are not whole numbers from 0 to 65535.
        GeometryError: a grid other than that of ``like``, naming both.
    """
    path = Path(path)
    loaded = _load_masks(path, like, name) or _load(path, labels=True)
    array = as_labels(loaded.array, where=str(path))
    labels = Volume(
        array=array,
        affine_ras_mm=loaded.affine_ras_mm,
        source=path,
        header=loaded.header,
        orientation=like.orientation if like else orientation,
    )
    if like is not None:
        check_same_grid(like, labels)
    return labels


def write_like(array: NDArray[Any], *, like: Volume, path: str | Path, kind: OutputKind = "mask") -> Path:
    """Write an array on the grid of ``like``; the file appears whole or not at all.

    Args:
        array: `(I, J, K)` of the shape of ``like``.
        like: the volume whose grid, and for the same file format whose geometry record, is reproduced.
        path: where to; its suffix chooses the format (:func:`default_suffix` gives the natural one).
        kind: ``"mask"`` writes uint8 (uint16 above label 255), ``"probability"`` float32, ``"image"`` the
            values as they are.

    Returns:
        The path written.

    Raises:
        InputError: not writable, unknown suffix, or values that do not fit the kind or the format.
        GeometryError: a shape other than that of ``like``.
    """
    path = Path(path)
    suffix = files.suffix_of(path)
    if not suffix:
        raise files.unknown_suffix(path)
    volume = like.with_array(_for_output(array, kind, str(path)))
    with files.written_whole(path) as temporary:
        _write(volume, files.SUFFIXES[suffix], temporary)
    return path


def default_suffix(volume: Volume) -> str:
    """The suffix to save results for ``volume`` under: that of its source, where it can hold a mask."""
    suffix = files.suffix_of(volume.source) if volume.source else ""
    if volume.header is not None and hasattr(volume.header, "series"):  # DICOM, whatever the file is called
        return ".nii.gz"
    if suffix in (".png", ".jpg", ".jpeg"):
        return ".png" if volume.shape[2] == 1 else ".tif"
    if volume.source and not suffix and volume.source.is_dir():
        return ".tif"
    return {"": ".nii.gz", ".nii": ".nii.gz", ".nhdr": ".nrrd", ".mhd": ".mha", ".tiff": ".tif"}.get(
        suffix, suffix
    )


def kind_of(path: Path) -> str:
    """The format of a file; of a folder ``"DICOM"``, or ``"folder"`` for pictures.

    Raises:
        InputError: as :func:`latentseg.imaging.files.format_of`.
    """
    if not path.is_dir():
        return files.format_of(path)
    from latentseg.imaging.dicom.files import holds_dicom

    return "DICOM" if holds_dicom(path) else "folder"


def as_labels(array: NDArray[Any], *, where: str = "") -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Whole numbers from 0 to 65535 as uint8, or as uint16 above 255.

    Raises:
        InputError: NaN, fractions, negative or larger values; the message shows one.
    """
    check_finite(array, where=where)
    if array.dtype.kind not in "bui":
        whole = np.rint(array)
        off = np.abs(array - whole) > 1e-3
        if off.any():
            what = f"label values must be whole numbers, but {float(array[off].flat[0]):.6g} was found"
            raise InputError(what, where=where, fix="Give the label map, not the image or a probability")
        array = whole
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low < 0 or high > 65535:
        what = f"label values must lie in 0..65535, but {low if low < 0 else high} was found"
        raise InputError(what, where=where, fix="Give the label map, not the image")
    return array.astype(np.uint8) if high <= 255 else array.astype(np.uint16)


def _load(path: Path, *, labels: bool, dicom: DicomOptions | None = None) -> files.Loaded:
    kind = kind_of(path)
    if kind == "DICOM":
        from latentseg.imaging.dicom.series import read_dicom

        return read_dicom(path, dicom)
    if kind == "folder":
        from latentseg.imaging.raster import read_stack

        return read_stack(path, labels=labels)
    if kind == "NIfTI":
        from latentseg.imaging.nifti import read_nifti

        return read_nifti(path)
    if kind in files.RASTER_FORMATS:
        from latentseg.imaging.raster import read_raster

        return read_raster(path, kind, labels=labels)
    from latentseg.imaging.nrrd import read_itk

    return read_itk(path)


def _load_masks(path: Path, like: Volume | None, name: str | None) -> files.Loaded | None:
    """DICOM contours or segments; ``None`` for everything else."""
    if kind_of(path) != "DICOM":
        return None
    from latentseg.imaging.dicom.masks import holds_masks, read_label_map

    return read_label_map(path, like=like, name=name) if holds_masks(path) else None


def _write(volume: Volume, kind: str, path: Path) -> None:
    if kind == "NIfTI":
        from latentseg.imaging.nifti import write_nifti

        write_nifti(volume.array, volume.affine_ras_mm, volume.header, path)
    elif kind in files.RASTER_FORMATS:
        from latentseg.imaging.raster import write_raster

        write_raster(volume.array, kind, path)
    else:
        from latentseg.imaging.nrrd import write_itk

        write_itk(volume.array, volume.affine_ras_mm, volume.header, path)


def _for_output(array: NDArray[Any], kind: OutputKind, where: str) -> NDArray[Any]:
    if kind == "mask" or array.dtype == np.bool_:
        return as_labels(array, where=where)
    if array.dtype.kind not in "uif" or array.dtype.itemsize > 8:
        raise InputError(
            f"values of type {array.dtype} cannot be written", where=where, fix="Give real numbers"
        )
    check_finite(array, where=where)
    if kind == "probability" or array.dtype == np.float16:
        return array.astype(np.float32)
    return array
