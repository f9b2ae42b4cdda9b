"""What MAISI needs on a volume, said before the start: weights, and the largest moment of each step.

The autoencoder's needs follow from its blocks (:mod:`latentseg.backbones.maisi.tiling`): besides one slab,
the input and the output of a convolution. The denoiser's are proportional to the latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from latentseg.backbones.maisi.library import MaisiConvolution, MaisiDownsample, MaisiResBlock, MaisiUpsample
from latentseg.backbones.maisi.tiling import conv_of
from latentseg.errors import MemoryLimitError

GIB = 2**30
SLAB_COPIES = 4  # of a slab: normalized, joined to the row above it, padded, convolved
UNET_CELLS = 18  # tensors of the first level's width that live at the denoiser's largest moment


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the largest moment of each step on one volume, weights included.

    Attributes:
        shape: ``(D, H, W)``.
        encode: Of :meth:`MaisiBackbone.encode`.
        features: Of :meth:`MaisiBackbone.features`, whose results are as large as the work.
        denoise: Of one step of the denoiser, without guidance.
        decode: Of :meth:`MaisiBackbone.decode`.
    """

    shape: tuple[int, int, int]
    encode: int
    features: int
    denoise: int
    decode: int

    @property
    def inpainting(self) -> int:
        """Encode, denoise and decode, one after the other."""
        return max(self.encode, self.denoise, self.decode)


@dataclass(frozen=True)
class Sizes:
    """What an estimate depends on besides the volume.

    Attributes:
        item: Bytes of a number.
        rows: Rows of a slab.
        weights: Bytes of all weights.
        largest_weight: Bytes of the largest, which some kernels reorder.
        width: Channels of the denoiser's first level.
        feature_downscale: See :class:`~latentseg.backbones.maisi.model.MaisiOptions`.
    """

    item: int
    rows: int
    weights: int
    largest_weight: int
    width: int
    feature_downscale: int = 1


def estimate(
    shape: tuple[int, int, int], encoder: nn.ModuleList, decoder: nn.ModuleList, *, sizes: Sizes
) -> MemoryEstimate:
    """Estimate the needs of a volume ``(D, H, W)`` on the blocks of an autoencoder."""
    inside = tuple(reversed(shape))  # slabs are cut along W, MAISI's first axis
    latent = [n // 4 for n in inside]
    image = 3 * 4 * math.prod(shape)  # as given, as it enters, as it leaves
    base = sizes.weights + image
    encode, stages = _walk(encoder, 1, inside, sizes)
    decode, _ = _walk(decoder, 4, latent, sizes)
    kept = [stages[i] for i in (2, 5, 8)]
    given = [n // max(sizes.feature_downscale // 2**i, 1) ** 3 for i, n in enumerate(kept)]
    leaving = given[0] * (4 + sizes.item) if given[0] == kept[0] else kept[0]  # the finest, turned or pooled
    features = sizes.item * sum(kept) + max(encode, 4 * sum(given) + leaving)
    denoise = UNET_CELLS * sizes.width * math.prod(latent) * sizes.item + 2 * sizes.largest_weight
    return MemoryEstimate(shape, base + encode, base + features, sizes.weights + denoise, base + decode)


def _walk(blocks: nn.ModuleList, channels: int, shape: Sequence[int], sizes: Sizes) -> tuple[int, list[int]]:
    """Bytes at the largest moment of a chain of blocks, and the numbers in the output of each."""
    peak, numbers = 0, []
    grid = list(shape)
    for block in blocks:
        before, widest = channels * math.prod(grid), channels
        if isinstance(block, MaisiDownsample):
            grid = [n // 2 for n in grid]
        elif isinstance(block, MaisiUpsample):
            grid = [2 * n for n in grid]
        elif isinstance(block, MaisiResBlock | MaisiConvolution):
            conv = block.conv2 if isinstance(block, MaisiResBlock) else block
            channels = conv_of(conv).out_channels
        after = channels * math.prod(grid)
        slab = max(widest, channels) * (sizes.rows + 2) * math.prod(grid[1:]) * SLAB_COPIES * sizes.item
        peak = max(peak, (before + after) * sizes.item + slab)
        numbers.append(after)
    return peak, numbers


def require(
    needed: int, free: int, *, shape: tuple[int, int, int], what: str, also: Sequence[str] = ()
) -> None:
    """Refuse work that would not fit.

    Args:
        needed: Bytes, see :class:`MemoryEstimate`.
        free: Bytes.
        shape: ``(D, H, W)`` of the volume.
        what: Name of the work, such as "encoding".
        also: What else would help.

    Raises:
        MemoryLimitError: With what would fit.
    """
    if needed <= free:
        return
    slices = int(shape[0] * free / needed) // 32 * 32
    ways = [f"crop to {slices} slices"] if slices else []
    if free > 0:
        ways.append(f"resample to {math.ceil(10 * (needed / free) ** (1 / 3)) / 10:.1f} times the voxel size")
    else:
        ways.append("end other programs")
    size = "x".join(map(str, shape))
    seen = f"{what} {size} voxels takes about {needed / GIB:.1f} GiB and {free / GIB:.1f} GiB are free"
    raise MemoryLimitError(seen, fix=", or ".join([*ways, *also]))
