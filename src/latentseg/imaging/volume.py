"""The class :class:`Volume`: an array of voxels with its position in the patient."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError
from latentseg.imaging import affine, files, intensity
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU, Modality, is_windowed

PREVIEW = 240
"""Pixels of the longer side of a slice in a notebook."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid.

    Attributes:
        array: `(I, J, K)` as stored in the file, any real data type.
        affine_ras_mm: `(4, 4)` float64, voxel index to RAS world millimeters; read-only.
        modality: what the values mean.
        source: the file or folder it came from.
        header: the source's own geometry record, kept so that results reproduce it bit for bit.
        orientation: the axis codes the voxels really have, for a file whose affine is known to be wrong. It
            decides the canonical order of slices; results still carry the file's own affine.
    """

    array: NDArray[Any]
    affine_ras_mm: NDArray[np.float64]
    modality: Modality = "unknown"
    source: Path | None = None
    header: Any = field(default=None, repr=False)
    orientation: str | None = None

    def __post_init__(self) -> None:
        """Freeze a float64 copy of the affine and refuse what is no grid."""
        where = str(self.source or "")
        if self.array.ndim != 3:
            what = f"the image has {self.array.ndim} axes {self.array.shape}, expected 3"
            raise InputError(what, where=where, fix="Give one volume (I, J, K)")
        own = np.array(self.affine_ras_mm, np.float64)
        affine.check_affine(own, where=where)
        if self.orientation:
            affine.orientation_from(self.orientation)
        own.flags.writeable = False
        object.__setattr__(self, "affine_ras_mm", own)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along I, J, K."""
        i, j, k = self.array.shape
        return i, j, k

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel spacing along I, J, K."""
        return affine.spacing_of(self.affine_ras_mm)

    @property
    def axis_codes(self) -> str:
        """Where I, J, K point to, for example ``"LPS"``."""
        return affine.axis_codes_of(self.affine_ras_mm)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in milliliters."""
        return abs(float(np.linalg.det(self.affine_ras_mm[:3, :3]))) / 1000.0

    @property
    def name(self) -> str:
        """Case id: the source's name without its suffix, ``"volume"`` where there is no source."""
        case = getattr(self.header, "case", "")
        return case or (files.case_name(self.source) if self.source else "volume")

    @cached_property
    def padding(self) -> NDArray[np.bool_] | None:
        """`(I, J, K)` where a scan holds padding instead of the patient; None where it holds none."""
        declared: NDArray[np.bool_] | None = getattr(self.header, "padding", None)
        found = intensity.padding_of(self.array, modality=self.modality)
        return declared if found is None else found if declared is None else declared | found

    def __repr__(self) -> str:
        """One line: name, grid, type and modality."""
        shape = "x".join(map(str, self.shape))
        spacing = "x".join(f"{mm:.4g}" for mm in self.spacing_mm)
        grid = f"{shape} {self.orientation or self.axis_codes}, {spacing} mm"
        return f"Volume({self.name}: {grid}, {self.array.dtype}, {self.modality})"

    def _repr_html_(self) -> str:
        """Axial slices from the middles of three equal parts, for notebooks."""
        from latentseg.imaging.previews import Canvas, figure, fitted_height, key_slices, montage, overlay

        axes, flips = affine.slice_axes(self.affine_ras_mm, self.orientation)
        slices = np.flip(self.array.transpose(axes), tuple(axis for axis, flip in enumerate(flips) if flip))
        pixel_mm = self.spacing_mm[axes[1]], self.spacing_mm[axes[2]]
        height = fitted_height(slices.shape[1:], pixel_mm, longest=PREVIEW)
        window = SOFT_TISSUE_WINDOW_HU if self.modality == "CT" and not is_windowed(self.array) else None
        canvas = Canvas(height=height, spacing_mm=pixel_mm, window=window)
        shown = [overlay(slices[k], canvas=canvas) for k in key_slices(np.zeros(slices.shape, bool))]
        return figure(montage(shown, columns=len(shown)), caption=repr(self))

    def with_array(self, array: NDArray[Any]) -> Volume:
        """Another array on the same grid.

        Raises:
            GeometryError: ``array`` does not have this volume's shape.
        """
        if array.shape != self.shape:
            what = f"an array of shape {array.shape} does not fit the grid {self.shape}"
            raise GeometryError(
                what, where=str(self.source or ""), fix="Bring it back to the input's grid first"
            )
        return replace(self, array=array)
