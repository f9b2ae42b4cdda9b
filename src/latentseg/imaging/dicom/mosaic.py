"""Siemens mosaics: the slices of a volume stored as tiles of one picture, unpacked from what the header says.

The number of tiles stands in the private element (0019,100A) or in the CSA header. The stored position is
that of a picture as large as the mosaic about the center of the first slice, so that the first pixel of the
first slice lies further in, by half of what the mosaic is larger.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError
from latentseg.imaging import files

FIX = "Convert it to NIfTI, for example with dcm2niix"
MR_HEADER = "SIEMENS MR HEADER"
MOST_TILES = 4096


@dataclass(frozen=True, eq=False)
class Mosaic:
    """How the slices of a volume lie in a picture.

    Attributes:
        count: slices, in rows of tiles from the upper left.
        side: tiles along each edge of the picture.
        normal_lps: unit vector from slice to slice; None where the header does not say.
    """

    count: int
    side: int
    normal_lps: NDArray[np.float64] | None = None

    def tile(self, size: tuple[int, int]) -> tuple[int, int]:
        """Columns and rows of one slice, of the size of the picture."""
        return size[0] // self.side, size[1] // self.side

    def slices(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Unpack a picture `(1, rows, columns)` into slices `(count, rows, columns)`."""
        rows, columns = (edge // self.side for edge in pixels.shape[1:])
        tiles = pixels.reshape(self.side, rows, self.side, columns).swapaxes(1, 2)
        return tiles.reshape(-1, rows, columns)[: self.count]

    def positions_lps_mm(
        self,
        corner_lps_mm: NDArray[np.float64],
        directions: NDArray[np.float64],
        *,
        size: tuple[int, int],
        spacing_mm: NDArray[np.float64],
        step_mm: float,
    ) -> NDArray[np.float64]:
        """`(count, 3)` centers of the first pixels.

        Args:
            corner_lps_mm: the position that the header gives.
            directions: `(2, 3)` unit vectors along rows and columns.
            size: columns and rows of the picture.
            spacing_mm: along them.
            step_mm: between slices.
        """
        inward = (np.array(size) - self.tile(size)) / 2 * spacing_mm
        normal = np.cross(*directions) if self.normal_lps is None else self.normal_lps
        steps = np.arange(self.count)[:, None] * step_mm * normal
        return np.asarray(corner_lps_mm + inward @ directions + steps)


def mosaic_of(dataset: Any, where: str) -> Mosaic | None:
    """How a picture is to be unpacked; None for one that is no mosaic.

    Raises:
        InputError: a mosaic whose header does not say of how many slices, or says what cannot be.
    """
    named = "MOSAIC" in str(dataset.get("ImageType") or "").upper()
    count, normal = _private_count(dataset, named=named), None
    csa = _csa(dataset, where, named=named)
    if csa:
        count = count or int(_reader().get_n_mosaic(csa) or 0)
        normal = _reader().get_slice_normal(csa)
    if count < 1 + (not named):
        if not named:
            return None
        what = "it is a Siemens mosaic (ImageType MOSAIC), and its header does not say of how many slices"
        raise InputError(what, where=where, fix=FIX)
    side = math.ceil(math.sqrt(count))
    size = int(dataset.get("Columns") or 0), int(dataset.get("Rows") or 0)
    if count > MOST_TILES or any(edge % side for edge in size):
        what = f"it is a Siemens mosaic of {count} slices, which {size[0]} x {size[1]} pixels do not hold"
        raise InputError(what, where=where, fix=FIX)
    return Mosaic(count, side, _along(normal, dataset))


def _along(normal: Any, dataset: Any) -> NDArray[np.float64] | None:
    """The normal of rows and columns, in the sense that the CSA header gives."""
    if normal is None:
        return None
    rows_and_columns = np.asarray(dataset.ImageOrientationPatient, np.float64).reshape(2, 3)
    own = np.cross(*rows_and_columns)
    return np.asarray(own if own @ np.asarray(normal, np.float64) >= 0 else -own)


def _private_count(dataset: Any, *, named: bool) -> int:
    """The number of slices in Siemens' private group 0019, from one of two elements, or 0."""
    try:
        block = dataset.private_block(0x0019, MR_HEADER)
    except KeyError:  # the name of the block was taken away
        return _whole(dataset[0x0019, 0x100A].value) if named and (0x0019, 0x100A) in dataset else 0
    if 0x0A in block:
        return _whole(block[0x0A].value)
    if 0x29 not in block:
        return 0
    times = block[0x29]  # when each slice was taken
    return 0 if times.VR == "UN" else int(times.VM)


def _whole(value: Any) -> int:
    if isinstance(value, bytes):
        text = value.strip(b" \0")
        return int(text) if text.isdigit() else int.from_bytes(value, "little")
    return int(value or 0)


def _csa(dataset: Any, where: str, *, named: bool) -> Any:
    """The CSA header, where there is one; a damaged one matters only where the picture is a mosaic."""
    if (0x0029, 0x0010) not in dataset:
        return None
    try:
        return _reader().get_csa_header(dataset, "image")
    except Exception as error:  # a header that is cut gives any of numpy's and struct's
        if named:
            raise files.broken(Path(where), "DICOM", error) from error
        return None


def _reader() -> Any:
    """Nibabel's reader of CSA headers, without what it says when it is loaded."""
    warnings.filterwarnings("ignore", message="The DICOM readers are highly experimental")
    from nibabel.nicom import csareader

    return csareader
