"""Reads volumes and label maps of all formats, and writes results on the grid of their scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.errors import InputError, UsageError
from latentseg.imaging import files, objects
from latentseg.imaging.contents import warn_about_contents
from latentseg.imaging.geometry import onto_grid
from latentseg.imaging.intensity import Modality, check_finite, guess_modality
from latentseg.imaging.orientation import AUTO, with_found_orientation
from latentseg.imaging.volume import Volume

if TYPE_CHECKING:
    from latentseg.imaging.dicom.series import DicomOptions

OutputKind = Literal["mask", "probability", "image"]


def read(
    source: Any,
    *,
    modality: Modality | None = None,
    orientation: str | None = None,
    dicom: DicomOptions | None = None,
    spacing_mm: Sequence[float] | None = None,
    affine_ras_mm: ArrayLike | None = None,
) -> Volume:
    """Read an image: from a file of any format, a folder of slices, a DICOM series, or from memory.

    Args:
        source: the path of a NIfTI, NRRD, MetaImage, PNG, TIFF or JPEG file, of a folder of slices, or of
            DICOM (a folder, a file, or a zip archive); an image of nibabel or SimpleITK; a numpy array
            `(I, J, K)`, or `(H, W)` for a picture.
        modality: CT or MR; guessed from the values when not given.
        orientation: axis codes such as ``"LAS"`` that overrule a wrong affine (see :class:`Volume`);
            ``"auto"`` takes them from the picture where it surely contradicts the affine, and warns.
        dicom: which series of several, and what of its geometry may be resampled.
        spacing_mm: of an array, the size of a voxel along each of its axes.
        affine_ras_mm: of an array, `(4, 4)`, voxel index to RAS world millimeters.

    Raises:
        InputError: missing, empty, damaged, of unknown type, not 3-D, in color, with NaN or infinite values.
        GeometryError: an affine that is sheared or cannot be inverted, or DICOM slices that make no grid.
        UsageError: no image at all, or an array without its spacing.

    Example:
        >>> import numpy as np
        >>> import latentseg as ls
        >>> scan = ls.read(np.zeros((64, 64, 8), np.int16), spacing_mm=(5.6, 5.6, 10), orientation="RAS")
        >>> scan.spacing_mm
        (5.6, 5.6, 10.0)
    """
    codes = None if orientation == AUTO else orientation
    if isinstance(source, Volume):
        given = replace(source, modality=modality or source.modality, orientation=codes or source.orientation)
        return with_found_orientation(given) if orientation == AUTO else given
    loaded, path = _loaded(source, objects.Frame(spacing_mm, affine_ras_mm, codes), dicom)
    if objects.is_array(source) and affine_ras_mm is None:
        codes = None  # it is in the affine
    where = str(path or "the image")
    check_finite(loaded.array, where=where)
    volume = Volume(
        array=loaded.array,
        affine_ras_mm=loaded.affine_ras_mm,
        modality=modality or loaded.modality or guess_modality(loaded.array),
        source=path,
        header=loaded.header,
        orientation=codes,
    )
    warn_about_contents(volume, where=where)
    return with_found_orientation(volume) if orientation == AUTO else volume


def as_volume(anything: Any, *, modality: Modality | None = None, orientation: str | None = None) -> Volume:
    """A :class:`Volume` as it is, or anything else as :func:`read` reads it.

    Raises:
        InputError: as :func:`read`.
        GeometryError: as :func:`read`.
        UsageError: nothing that stands for an image, or an array without its spacing.
    """
    return read(anything, modality=modality, orientation=orientation)


def read_labels(
    source: Any,
    *,
    like: Volume | None = None,
    orientation: str | None = None,
    name: str | None = None,
) -> Volume:
    """Read a label map, also DICOM SEG or RTSTRUCT, as the smallest unsigned integer type that holds it.

    Args:
        source: the path of a file or folder, or an image in memory as in :func:`read`; an array is taken to
            be on the grid of ``like``.
        like: an image the labels must lie on; its orientation is taken over. Labels on a flipped, permuted or
            cropped copy of its grid are brought to it exactly, with 0 outside of what is stored.
        orientation: axis codes that overrule a wrong affine, where there is no ``like``.
        name: of the one structure to read from DICOM or from Slicer's `.seg.nrrd`, as label 1; other formats
            hold no names.

    Raises:
        UsageError: several structures that overlap or of DICOM, and none of that name.
        InputError: as :func:`read`, and for values that are not whole numbers from 0 to 65535.
        GeometryError: voxels that do not lie on those of ``like``, naming both grids.
    """
    orientation = like.orientation if like else orientation
    path: Path | None
    if isinstance(source, str | Path):
        file = files.header_file(Path(source))
        path, loaded = file, _load_masks(file, like, name) or _load(file, labels=True)
    elif isinstance(source, Volume):
        path, loaded = source.source, files.Loaded(source.array, source.affine_ras_mm, source.header)
    else:
        path, loaded = objects.source_of(source), _labels_in_memory(source, like)
    labels = Volume(
        array=as_labels(loaded.array, where=str(path or "the mask")),
        affine_ras_mm=loaded.affine_ras_mm,
        source=path,
        header=loaded.header,
        orientation=orientation,
    )
    return labels if like is None else onto_grid(labels, like)


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


def structure_names(path: Path) -> list[str]:
    """What a mask itself calls the structures it holds; empty for formats that have no names.

    Raises:
        InputError: a damaged file.
    """
    if not files.is_seg_nrrd(path) or kind_of(path) != "NRRD":
        return []
    from latentseg.imaging.seg_nrrd import segments_of

    return list(segments_of(path))


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
        what = f"label values must lie in 0..65535, but {low if low < 0 else high:.6g} was found"
        raise InputError(what, where=where, fix="Give the label map, not the image")
    return array.astype(np.uint8) if high <= 255 else array.astype(np.uint16)


def _loaded(
    source: Any, frame: objects.Frame, dicom: DicomOptions | None
) -> tuple[files.Loaded, Path | None]:
    """A scan from a path or from memory, and its path where it has one.

    Raises:
        UsageError: a spacing or an affine for a file.
    """
    if not isinstance(source, str | Path):
        return objects.load_object(source, frame), objects.source_of(source)
    if frame.spacing_mm is not None or frame.affine_ras_mm is not None:
        what = "a spacing or an affine was given for a file, which has its own"
        raise UsageError(what, where=str(source), fix="give them for arrays only")
    path = files.header_file(Path(source))
    return _load(path, labels=False, dicom=dicom), path


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


def _labels_in_memory(source: Any, like: Volume | None) -> files.Loaded:
    """The labels of an image in memory; those of an array are on the grid of ``like``."""
    array = objects.grid_array(source)
    if array is None:
        return objects.load_object(source, objects.Frame())
    if like is None:
        raise UsageError("nothing says where the array of labels lies", fix="give its scan with like=")
    return files.Loaded(like.with_array(array).array, like.affine_ras_mm)


def _load_masks(path: Path, like: Volume | None, name: str | None) -> files.Loaded | None:
    """DICOM contours or segments, or the segments of Slicer; ``None`` for everything else."""
    kind = kind_of(path)
    if kind == "NRRD" and files.is_seg_nrrd(path):
        from latentseg.imaging.seg_nrrd import read_seg_nrrd

        return read_seg_nrrd(path, name)
    if kind != "DICOM":
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
