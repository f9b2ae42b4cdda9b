"""PNG, TIFF and JPEG: single slices, multi-page TIFF, and folders of slices as one stack.

Pictures carry no position in the patient. They are taken in radiological view: columns run to the patient's
left, rows to the back, pages and file order to the head, 1 mm apart each way. A resolution in dots per inch
is ignored: it speaks of printing, and would differ between an image and its mask.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError
from latentseg.imaging import files

RADIOLOGICAL_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
JPEG_GREY_TOLERANCE = 3
GREY_FIX = "Export it in greyscale"


def read_raster(path: Path, kind: str, *, labels: bool = False) -> files.Loaded:
    """Read one picture, or a multi-page TIFF as a stack.

    Args:
        path: the file.
        kind: ``"PNG"``, ``"TIFF"`` or ``"JPEG"``.
        labels: read palette indices as labels, and refuse JPEG, which changes values.

    Raises:
        InputError: damaged file, color, varying transparency, or animation.
    """
    if labels and kind == "JPEG":
        what = "a JPEG cannot hold labels, because its compression changes values"
        raise InputError(what, where=str(path), fix="Save the mask as PNG, TIFF or NIfTI")
    pages = _tiff_pages(path) if kind == "TIFF" else _pillow_pages(path, kind, labels)
    return files.Loaded(np.ascontiguousarray(pages.transpose(2, 1, 0)), RADIOLOGICAL_AFFINE.copy())


def read_stack(folder: Path, *, labels: bool = False) -> files.Loaded:
    """Read a folder of equally large pictures as one stack, in natural order of their names.

    Raises:
        InputError: no pictures, other images among them, or pictures of different sizes.
    """
    members = sorted((p for p in folder.iterdir() if p.is_file() and p.name[0] != "."), key=files.natural_key)
    pictures = [p for p in members if files.SUFFIXES.get(files.suffix_of(p)) in files.RASTER_FORMATS]
    volumes = [p for p in members if files.suffix_of(p) and p not in pictures]
    if volumes or not pictures:
        seen = (
            f"it holds {len(volumes)} volumes such as {volumes[0].name}" if volumes else "it holds no slices"
        )
        fix = "Give one image file, or a folder of PNG, TIFF or JPEG slices"
        raise InputError(f"this is a folder and {seen}", where=str(folder), fix=fix)
    slices = [read_raster(p, files.format_of(p), labels=labels).array for p in pictures]
    odd = next((n for n, s in enumerate(slices) if s.shape != (*slices[0].shape[:2], 1)), None)
    if odd is not None:
        sizes = f"{pictures[0].name} is {slices[0].shape}, {pictures[odd].name} is {slices[odd].shape}"
        fix = "Keep one series of single slices of one size in the folder"
        raise InputError(
            f"the slices do not form a stack: {sizes} (columns, rows, pages)", where=str(folder), fix=fix
        )
    return files.Loaded(np.concatenate(slices, axis=2), RADIOLOGICAL_AFFINE.copy())


def write_raster(array: NDArray[Any], kind: str, path: Path) -> None:
    """Write `(I, J, K)` as TIFF (any depth), or one slice of uint8 or uint16 as PNG.

    Raises:
        InputError: what the format cannot hold.
    """
    if kind == "JPEG":
        raise InputError(
            "a result cannot be a JPEG, which changes values", fix="Write .png, .tif or .nii.gz instead"
        )
    pages = np.ascontiguousarray(array.transpose(2, 1, 0))
    if kind == "TIFF":
        import tifffile

        tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"})
        return
    if pages.shape[0] != 1 or pages.dtype not in (np.uint8, np.uint16):
        what = f"a PNG holds one slice of 8 or 16 bit, not {pages.shape[0]} of {pages.dtype}"
        raise InputError(what, fix="Write .tif or .nii.gz instead")
    from PIL import Image

    Image.fromarray(pages[0]).save(path, format="PNG")


def _pillow_pages(path: Path, kind: str, labels: bool) -> NDArray[Any]:
    """One picture as `(1, H, W)`."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large pictures are read
    try:
        with Image.open(path) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise InputError("the picture is animated", where=str(path), fix="Save its frames as slices")
            mode = picture.mode
            if mode in ("P", "PA") and not labels:
                pixels = np.asarray(picture.convert("RGBA"))
            else:
                pixels = np.asarray(picture)
    except Image.DecompressionBombError as error:
        what = f"the picture has more than {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} million pixels"
        raise InputError(what, where=str(path), fix="Save it as TIFF, or in a lower resolution") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise files.broken(path, kind, error) from error
    if mode == "CMYK":
        raise InputError("the picture is in color (CMYK)", where=str(path), fix=GREY_FIX)
    if pixels.ndim == 3:
        pixels = _grey(pixels, path, JPEG_GREY_TOLERANCE if kind == "JPEG" else 0)
    return np.asarray(pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels)[None]


def _tiff_pages(path: Path) -> NDArray[Any]:
    """All pages of the first series as `(Z, H, W)`."""
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # damage is reported as an error
    try:
        with tifffile.TiffFile(path) as tiff:
            len(tiff.pages)  # notices pages that follow each other in a ring, which never ends below
            series = tiff.series[0]
            axes, pixels = series.axes, series.asarray()
            if not pixels.size:
                raise ValueError("no pixels")
    except Exception as error:  # tifffile, zlib and struct each have their own for a damaged file
        raise files.broken(path, "TIFF", error) from error
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if axes.endswith("S"):
        pixels, axes = _grey(pixels, path, 0), axes[:-1]
    keep = [axis for axis, count in enumerate(pixels.shape) if count > 1 or axis >= pixels.ndim - 2]
    pixels = pixels.reshape([pixels.shape[axis] for axis in keep])
    if not axes.endswith("YX") or pixels.ndim > 3:
        what = f"the TIFF has axes {axes} of shape {tuple(series.shape)}, expected a stack of grey pages"
        raise InputError(what, where=str(path), fix="Save one channel and one time point of it")
    return np.asarray(pixels.reshape(-1, *pixels.shape[-2:]))


def _grey(pixels: NDArray[Any], path: Path, tolerance: int) -> NDArray[Any]:
    """The one channel of a picture stored with several equal ones; opaque alpha is dropped."""
    channels = pixels.shape[-1]
    if channels in (2, 4):
        alpha, pixels = pixels[..., -1], pixels[..., :-1]
        opaque = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1
        if alpha.min() != opaque:
            raise InputError("the picture is partly transparent", where=str(path), fix="Flatten it first")
    low, high = pixels.min(axis=-1), pixels.max(axis=-1)
    apart = int((high.astype(np.int64) - low).max()) if high.dtype.kind in "ui" else float((high - low).max())
    if apart > tolerance:
        what = f"the picture is in color (red, green and blue differ by up to {apart})"
        raise InputError(what, where=str(path), fix=GREY_FIX)
    return np.asarray(pixels[..., min(1, pixels.shape[-1] - 1)])
