"""Radiomic features of a mask by pyradiomics, an optional extra."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.imaging import Volume

INSTALL = "run `pip install 'latentseg[radiomics]'`, or leave radiomics out of what is saved"


def radiomics_module() -> Any:
    """The module ``radiomics.featureextractor``.

    Raises:
        UsageError: pyradiomics is not installed, or does not work here.
    """
    try:
        from radiomics import featureextractor
    except Exception as error:  # builds for another numpy raise what they like
        what = f"radiomics needs pyradiomics ({type(error).__name__}: {error})"
        raise UsageError(what, fix=INSTALL) from error
    logging.getLogger("radiomics").setLevel(logging.ERROR)
    return featureextractor


def radiomic_features(scan: Volume, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Features of the voxels in a mask, with the settings that are pyradiomics' own defaults.

    Args:
        scan: The scan.
        mask: ``(I, J, K)`` on its grid.

    Returns:
        Features by their names in pyradiomics, such as ``original_shape_Sphericity``, and its versions and
        settings as ``diagnostics_...``; nothing where the mask is empty.

    Raises:
        UsageError: pyradiomics is not installed, or refuses the mask.
    """
    extractor = radiomics_module().RadiomicsFeatureExtractor()
    if not mask.any():
        return {}
    try:
        found = extractor.execute(_image(scan.array, scan), _image(mask.astype(np.uint8), scan))
    except (ValueError, RuntimeError) as error:  # a mask of one voxel or one dimension, a sheared grid
        what = f"pyradiomics refuses the mask ({error})"
        raise UsageError(what, where=str(scan.source or "the scan"), fix=INSTALL) from error
    return {name: _plain(value) for name, value in found.items()}


def _image(array: NDArray[Any], scan: Volume) -> Any:
    """An array ``(I, J, K)`` as an image of SimpleITK; LPS millimeters."""
    import SimpleITK

    to_lps = np.diag([-1.0, -1.0, 1.0]) @ scan.affine_ras_mm[:3]
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing(scan.spacing_mm)
    image.SetOrigin(to_lps[:, 3].tolist())
    image.SetDirection((to_lps[:, :3] / np.asarray(scan.spacing_mm)).ravel().tolist())
    return image


def _plain(value: Any) -> Any:
    """A value as JSON knows it."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return value if isinstance(value, bool | int | float | str | list | dict) else str(value)
