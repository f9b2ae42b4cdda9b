"""CHAOS T2-SPIR abdominal MR of 20 healthy volunteers, preprocessed as in the few-shot literature.

Kavur et al., Medical Image Analysis 2021; CC BY-NC-SA 4.0: for evaluation only.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError
from latentseg.evaluation.datasets.base import ORGANS, Dataset, Original, Pair, field_folds
from latentseg.evaluation.datasets.originals import clip_top, fit_in_plane, reorient, resample_pair
from latentseg.imaging import Volume
from latentseg.imaging.affine import LPS_TO_RAS
from latentseg.imaging.files import broken, natural_key

_IDS = (1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39)

SPACING_MM = (1.25, 1.25, 7.7)
SIZE = (256, 256)
GREY_STEP = 63  # the PNG of a slice shows label n as the grey value 63 n
GREY_TOLERANCE = 16


def find_originals(folder: Path) -> list[Original]:
    """Cases of the CHAOS download (`<case>/T2SPIR/DICOM_anon/*.dcm`, `<case>/T2SPIR/Ground/*.png`)."""
    scans = [path for path in folder.rglob("T2SPIR") if (path / "Ground").is_dir()]
    return [
        Original(scan.parent.name, partial(_read, scan))
        for scan in sorted(scans, key=lambda path: natural_key(path.parent))
    ]


def _read(scan: Path) -> Pair:
    """Clip the top half percent, resample to 1.25 x 1.25 x 7.7 mm, crop or pad to 256 pixels; LAS."""
    image, labels = (reorient(volume, "LAS") for volume in read_slices(scan))
    image, labels = resample_pair(clip_top(image), labels, spacing_mm=SPACING_MM)
    return fit_in_plane(image, SIZE, value=float(image.array.min())), fit_in_plane(labels, SIZE, value=0)


def read_slices(scan: Path) -> Pair:
    """A series of DICOM slices with one PNG of grey labels each, on the grid of the DICOM headers.

    The slices of CHAOS do not share a series id; they are put in order by their positions. A PNG belongs to
    the slice of its name, or where names differ to the one at its place in the list.

    Raises:
        InputError: Unequal numbers of slices and PNGs, a slice that cannot be read, an unknown grey value.
        GeometryError: A PNG of another size than its slice.
    """
    dicoms = sorted((scan / "DICOM_anon").glob("*.dcm"), key=natural_key)
    pictures = sorted((scan / "Ground").glob("*.png"), key=natural_key)
    if not dicoms or len(dicoms) != len(pictures):
        what = f"{len(dicoms)} DICOM slices and {len(pictures)} PNG label maps"
        raise InputError(what, where=str(scan), fix="unpack the archive again; each slice has one PNG")
    by_name = {path.stem: path for path in pictures}
    if set(by_name) == {path.stem for path in dicoms}:
        pictures = [by_name[path.stem] for path in dicoms]
    slices = [_read_slice(path) for path in dicoms]
    normal = np.cross(slices[0][1][:3, 0], slices[0][1][:3, 1])
    order = np.argsort([affine[:3, 3] @ normal for _, affine in slices])
    affine = slices[order[0]][1].copy()
    if len(order) > 1:
        affine[:3, 2] = (slices[order[-1]][1] - affine)[:3, 3] / (len(order) - 1)
    array = np.stack([slices[n][0] for n in order], axis=2)
    labels = np.stack([_read_labels(pictures[n], shape=array.shape[:2]) for n in order], axis=2)
    return (
        Volume(array, affine, modality="MR", source=scan / "DICOM_anon"),
        Volume(labels, affine, source=scan / "Ground"),
    )


def _read_slice(path: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Pixels `(I, J)` of a DICOM slice and its affine (RAS, mm)."""
    import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise broken(path, "DICOM", RuntimeError(str(error).splitlines()[-1])) from error
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image)[0].T, LPS_TO_RAS @ lps


def _read_labels(path: Path, *, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Labels `(I, J)` of a PNG of grey values."""
    from PIL import Image

    with Image.open(path) as picture:
        grey = np.asarray(picture.convert("L"), int).T
    if grey.shape != shape:
        what = f"the PNG has {grey.shape} pixels and its DICOM slice {shape}"
        raise GeometryError(what, where=str(path), fix="unpack the archive again")
    labels = np.rint(grey / GREY_STEP).astype(np.uint8)
    off = np.abs(grey - GREY_STEP * labels.astype(int)) > GREY_TOLERANCE
    if off.any():
        fix = f"labels are {', '.join(str(GREY_STEP * n) for n in range(5))}, {GREY_TOLERANCE} more or less"
        raise InputError(f"unknown grey value {grey[off].flat[0]}", where=str(path), fix=fix)
    return labels


CHAOS = Dataset(
    name="CHAOS",
    folder="chaos_t2",
    modality="MR",
    ids=tuple(str(number) for number in _IDS),
    folds=field_folds(20),
    label_of={"liver": 1, "right_kidney": 2, "left_kidney": 3, "spleen": 4},
    organs=ORGANS,
    cross_folds=field_folds(20),
    find_originals=find_originals,
)
