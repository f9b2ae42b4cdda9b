"""Where in the body a scan and the target of an example lie, so that "out of view" does not hang on a fit.

Two scans of one region fit each other less where their contrasts differ; a height in the body
(:mod:`latentseg.imaging.body`) is read from either alone, and is the same for the same anatomy.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from latentseg.imaging import Volume
from latentseg.imaging.body import locate


def heights_mm(images: Tensor, *, along_mm: Tensor, side_mm: float) -> Tensor:
    """Height ``(S,)`` in the body of slices ``(S, 1, H, W)`` in [-1, 1]; NaN where it is not clear.

    Args:
        images: Square axial slices, inferior to superior.
        along_mm: ``(S,)``, where they lie along the body.
        side_mm: Edge of a slice.
    """
    step_mm = float(along_mm.diff().median()) if len(along_mm) > 1 else 1.0
    pixel_mm = side_mm / images.shape[-1]
    affine = np.diag([-pixel_mm, -pixel_mm, max(step_mm, 1e-3), 1.0])
    voxels = np.ascontiguousarray(images[:, 0].float().cpu().numpy().transpose(2, 1, 0))
    position = locate(Volume(voxels, affine))
    height_mm = torch.from_numpy(position.height_mm.astype(np.float32))
    return height_mm if position.is_clear else torch.full_like(height_mm, torch.nan)


def gap_mm(scan_mm: Tensor, *targets_mm: Tensor) -> float:
    """How far the heights of a scan ``(S,)`` are from those of the nearest of some targets.

    Negative where they overlap, NaN where nothing is clear.
    """
    gaps = [
        float(torch.maximum(target.min() - scan_mm.max(), scan_mm.min() - target.max()))
        for target in targets_mm
    ]
    return min((gap for gap in gaps if not math.isnan(gap)), default=math.nan)
