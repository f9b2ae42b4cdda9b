"""A scan in the items of a backbone: slices of a 2-D one, a single block of a 3-D one.

Everything after it works on items ``(N, 1, H, W)`` or ``(1, 1, D, H, W)`` and does not know which they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import TakesVolumes
from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU
from latentseg.imaging.network_input import NetworkInput, resampled_shape, volume_block
from latentseg.methods.tumor.body_crop import body_slices
from latentseg.methods.tumor.finer_blocks import finer_mm, is_finer, largest_block
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.options import TumorOptions

FLOAT = 4  # bytes of a voxel of what is kept beside a block: the scan, and of the first look three maps


def seen_by(
    networks: TumorNetworks, scan: Volume, options: TumorOptions
) -> tuple[TumorNetworks, NetworkInput]:
    """A scan as the networks see it, and the networks for a scan of this size and spacing.

    Raises:
        InputError: A constant scan, or one with values that are no numbers.
        GeometryError: Axial slices too narrow to be segmented.
        MemoryLimitError: A block that would not fit.
    """
    backbone = networks.backbone
    if not isinstance(backbone, TakesVolumes):
        return networks, body_slices(scan, backbone.image_size)
    memory_of(networks, scan, options)
    seen = volume_block(
        scan, voxel_mm=options.voxel_mm, multiple=backbone.multiple, window_hu=backbone.window_hu
    )
    depth, height, width = seen.images.shape
    own = backbone.for_volume((depth, height, width), spacing_mm=seen.spacing_mm)
    return replace(networks, stages=replace(networks.stages, backbone=own)), seen


def memory_of(networks: TumorNetworks, scan: Volume, options: TumorOptions) -> str:
    """What a scan takes as a block, in one sentence, before anything is computed; of slices nothing.

    Raises:
        MemoryLimitError: It would not fit.
    """
    backbone = networks.backbone
    if not isinstance(backbone, TakesVolumes):
        return ""
    canonical = to_canonical(scan)
    shape = resampled_shape(canonical, voxel_mm=options.voxel_mm)
    depth, height, width = (n + -n % backbone.multiple for n in shape)
    said = backbone.require_memory((depth, height, width), inpainting=options.refinement is not None)
    if options.closer is None:
        return said
    field = [n * mm for n, mm in zip(canonical.slices.shape, canonical.spacing_mm, strict=True)]
    first = [side / n for side, n in zip(field, shape, strict=True)]
    steps = finer_mm(canonical.spacing_mm, first, options.closer.edge)
    if not is_finer(steps, first):
        return said
    block = largest_block(field, steps, backbone.multiple)
    kept = FLOAT * (canonical.slices.size + 3 * depth * height * width)
    kept = kept if networks.device.type == "cpu" else 0  # what a GPU need not hold
    closer = backbone.require_memory(block, inpainting=False, beside=kept)
    return f"{said}; for the closer look {closer}"


def items_of(seen: NetworkInput) -> Tensor:
    """The images as items: ``(S, 1, H, W)``, or one block ``(1, 1, D, H, W)``."""
    images = torch.from_numpy(seen.images)
    return images[None, None] if seen.block else images[:, None]


def stacked(maps: Tensor) -> NDArray[np.float32]:
    """Maps of items, ``(S, 1, H, W)`` or ``(1, 1, D, H, W)``, as the array ``(S, H, W)`` of a scan."""
    array: NDArray[np.float32] = maps.flatten(0, maps.ndim - 3).numpy()
    return array


def per_slice(values: NDArray[Any], chance: NDArray[np.float32], seen: NetworkInput) -> NDArray[Any]:
    """What is known of items, for the slices of the scan.

    A block has one score; a slice of it has the share of it that its highest probability is of the block's.

    Args:
        values: ``(S,)`` of slices, or ``(1,)`` of a block.
        chance: Abnormal probability ``(S, H, W)`` on the grid of the networks.
        seen: The scan as the networks see it.
    """
    if not seen.block:
        return values
    peaks = np.asarray(seen.undo(chance)).max((1, 2))
    share = peaks / max(float(peaks.max()), 1e-6)
    return np.asarray(values[0] * share, np.float32)


def in_tissue_window(seen: NetworkInput, window_hu: tuple[float, float] | None) -> NDArray[np.float32]:
    """The images with the contrast of soft tissue, in which borders are looked for.

    Args:
        seen: The scan as the networks see it.
        window_hu: Of the networks, where it is wider than that of soft tissue.
    """
    if window_hu is None or seen.scan.modality != "CT":
        return seen.images
    low, high = SOFT_TISSUE_WINDOW_HU
    hu = window_hu[0] + (seen.images + 1) * np.float32((window_hu[1] - window_hu[0]) / 2)
    return np.asarray((2 * (hu - low) / (high - low) - 1).clip(-1, 1), np.float32)
