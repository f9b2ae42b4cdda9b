"""Where in the body a scan and the target of an example lie, so that "out of view" does not hang on a fit.

Two scans of one region fit each other less where their contrasts differ; a height in the body
(:mod:`latentseg.imaging.body`) is read from either alone, and is the same for the same anatomy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentseg.imaging import Volume
from latentseg.imaging.body import locate


def heights_mm(images: Tensor, *, along_mm: Tensor, side_mm: float) -> Tensor:
    """Height ``(S,)`` in the body of slices ``(S, 1, H, W)`` in [-1, 1].

    Args:
        images: Square axial slices, inferior to superior.
        along_mm: ``(S,)``, where they lie along the body.
        side_mm: Edge of a slice.
    """
    step_mm = float(along_mm.diff().median()) if len(along_mm) > 1 else 1.0
    pixel_mm = side_mm / images.shape[-1]
    affine = np.diag([-pixel_mm, -pixel_mm, max(step_mm, 1e-3), 1.0])
    voxels = np.ascontiguousarray(images[:, 0].float().cpu().numpy().transpose(2, 1, 0))
    return torch.from_numpy(locate(Volume(voxels, affine)).height_mm.astype(np.float32))


def gap_mm(scan_mm: Tensor, target_mm: Tensor) -> float:
    """How far the heights of a scan ``(S,)`` are from those of a target; negative where they overlap."""
    below, above = target_mm.min() - scan_mm.max(), scan_mm.min() - target_mm.max()
    return float(torch.maximum(below, above))
