"""The frame in which viewers draw: the voxels of the scan in RAS order, only permuted and flipped.

A volume in the view frame is ``(X, Y, Z)``: x grows to the patient's right, y to the front, z to the head.
Whatever the file's own order is, a drawing made there comes back to the scan's grid bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import Canonical, Volume, to_canonical

INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, eq=False)
class View:
    """How a scan is shown.

    Attributes:
        canonical: Its axial slices and the way back.
        affine_ras_mm: ``(4, 4)``, from voxels of the view to RAS millimeters.
    """

    canonical: Canonical
    affine_ras_mm: NDArray[np.float64]

    @classmethod
    def of(cls, scan: Volume) -> View:
        """The view of a scan."""
        canonical = to_canonical(scan)
        return cls(canonical, view_affine(scan, canonical))

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(X, Y, Z)``."""
        s, h, w = self.canonical.slices.shape
        return w, h, s

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Of the voxels along X, Y, Z."""
        s, h, w = self.canonical.spacing_mm
        return w, h, s

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array ``(I, J, K)`` on the scan's grid as ``(X, Y, Z)``; a view of the same memory."""
        return self.canonical.apply(array).transpose(2, 1, 0)[::-1, ::-1]

    def restore(self, array: NDArray[Any]) -> NDArray[Any]:
        """The reverse of :meth:`apply`, contiguous."""
        return self.canonical.restore(array[::-1, ::-1].transpose(2, 1, 0))


def view_affine(scan: Volume, canonical: Canonical) -> NDArray[np.float64]:
    """The affine of the view; of a scan whose own is known to be wrong, one with its spacing alone."""
    s, h, w = canonical.slices.shape
    if scan.orientation:
        ds, dh, dw = canonical.spacing_mm
        return np.diag([dw, dh, ds, 1.0])
    to_array = np.zeros((4, 4))
    to_array[3, 3] = 1
    axes, flips = canonical.axes[::-1], canonical.flips[::-1]
    for column, (axis, flip, count) in enumerate(zip(axes, flips, (w, h, s), strict=True)):
        forward = flip != (column == 2)  # x and y run against the canonical columns and rows
        to_array[axis, column] = 1 if forward else -1
        to_array[axis, 3] = 0 if forward else count - 1
    return np.asarray(scan.affine_ras_mm @ to_array, np.float64)


def nifti_bytes(array: NDArray[Any], affine_ras_mm: NDArray[np.float64]) -> bytes:
    """A NIfTI file in memory, not compressed: the way from here to the page is short."""
    import nibabel as nib

    image: Any = nib.Nifti1Image(array, affine_ras_mm)
    image.header.set_xyzt_units("mm")
    return bytes(image.to_bytes())


def shown_values(array: NDArray[Any]) -> NDArray[Any]:
    """Voxels in a type that every viewer reads: int16 where they fit exactly, else float32."""
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype in (np.uint8, np.int16):
        return array
    if array.dtype.kind in "ui" and array.size and array.min() >= INT16.min and array.max() <= INT16.max:
        return array.astype(np.int16)
    return array.astype(np.float32)
