"""MAISI's autoencoder on whole volumes, slab by slab, exactly.

Sliding windows, the usual way to fit a volume into memory, change the result: group normalization sees
another window each time, and seams must be blended. Here every layer runs over slabs of rows with a halo of
one row, and normalization uses the statistics of the whole volume, gathered slab by slab. The result is that
of the whole volume up to rounding, no convolution is computed twice, and besides one slab only the input and
the output of a convolution are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latentseg.backbones.maisi.library import (
    MaisiConvolution,
    MaisiDownsample,
    MaisiGroupNorm3D,
    MaisiResBlock,
    MaisiUpsample,
)

Affine = tuple[Tensor, Tensor]
Rows = Callable[[int, int], Tensor]


def run_blocks(
    blocks: nn.ModuleList, x: Tensor, *, rows: int, keep: Sequence[int] = ()
) -> tuple[Tensor, list[Tensor]]:
    """Run the encoder or the decoder of an `AutoencoderKlMaisi` without attention.

    Args:
        blocks: ``autoencoder.encoder.blocks`` or ``autoencoder.decoder.blocks``.
        x: One item, ``(1, C, X, Y, Z)``.
        rows: Rows along X that go through a layer at a time.
        keep: Indices of blocks whose outputs are wanted.

    Returns:
        The output, and the outputs that are wanted in the order of the blocks.
    """
    kept, norm = [], None
    x = x.contiguous(memory_format=torch.channels_last_3d)
    for index, block in enumerate(blocks):
        if isinstance(block, MaisiGroupNorm3D):
            norm = group_affine(block, x, rows)  # applied by the convolution that follows
        else:
            x = _run_block(block, x, rows, norm)
        if index in keep:
            kept.append(x)
    return x, kept


def group_affine(norm: nn.GroupNorm, x: Tensor, rows: int) -> Affine:
    """Scale and shift, each ``(1, C, 1, 1, 1)``, that normalize ``(1, C, X, Y, Z)`` as a whole.

    Mean and variance of each slab come from PyTorch's kernel and are pooled (Chan et al. 1983).
    """
    slabs = [_statistics(norm, slab) for slab in x.split(rows, 2)]
    counts, means, variances = (torch.stack(part) for part in zip(*slabs, strict=True))
    share = (counts / counts.sum())[:, None]
    mean = (share * means).sum(0)
    variance = (share * (variances + (means - mean).square())).sum(0)
    wide = x.shape[1] // norm.num_groups
    scale = (variance + norm.eps).rsqrt().repeat_interleave(wide) * norm.weight.double()
    shift = norm.bias.double() - mean.repeat_interleave(wide) * scale
    return _as_affine(scale, x), _as_affine(shift, x)


def _statistics(norm: nn.GroupNorm, slab: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels ``()``, means ``(G,)`` and variances ``(G,)`` of a slab's groups, in float64."""
    values = slab if slab.device.type == "cpu" else slab.float()  # CUDA's kernel mixes no precisions
    channels, voxels = slab.shape[1], slab[0, 0].numel()
    one, zero = (make(channels, device=slab.device) for make in (torch.ones, torch.zeros))
    _, mean, inverse = torch.native_group_norm(
        values, one, zero, 1, channels, voxels, norm.num_groups, norm.eps
    )
    count = torch.tensor(float(voxels), dtype=torch.float64, device=slab.device)
    return count, mean[0].double(), inverse[0].double().pow(-2) - norm.eps


def _as_affine(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(1, -1, 1, 1, 1)


def _run_block(block: nn.Module, x: Tensor, rows: int, norm: Affine | None) -> Tensor:
    if isinstance(block, MaisiResBlock):
        return _residual(block, x, rows)
    if isinstance(block, MaisiDownsample):
        return _downsample(conv_of(block.conv), x, rows)
    if isinstance(block, MaisiUpsample) and not block.use_convtranspose:
        return _upsample(conv_of(block.conv), x, rows)
    if isinstance(block, MaisiConvolution):
        return _convolve(conv_of(block), lambda a, b: _normalized(x[:, :, a:b], norm), x, rows)
    raise TypeError(f"no slabs for {type(block).__name__}")


def _residual(block: MaisiResBlock, x: Tensor, rows: int) -> Tensor:
    """``x + conv2(silu(norm2(conv1(silu(norm1(x))))))``; the second half overwrites the first."""
    norm = group_affine(block.norm1, x, rows)
    hidden = _convolve(conv_of(block.conv1), lambda a, b: _activated(x[:, :, a:b], norm), x, rows)
    norm = group_affine(block.norm2, hidden, rows)
    conv, above = conv_of(block.conv2), None
    for start, stop in _slabs(x.shape[2], rows):
        slab = _activated(hidden[:, :, start : min(stop + 1, x.shape[2])], norm)
        last = slab[:, :, stop - start - 1 : stop - start].clone()
        out = _conv_rows(
            conv, slab if above is None else torch.cat([above, slab], 2), start, stop, x.shape[2]
        )
        straight = x[:, :, start:stop]
        if not isinstance(block.nin_shortcut, nn.Identity):
            straight = convolved(straight, conv_of(block.nin_shortcut))
        hidden[:, :, start:stop] = out.add_(straight)
        above = last
    return hidden


def _downsample(conv: nn.Conv3d, x: Tensor, rows: int) -> Tensor:
    """Stride 2 after one row of zeros at the end of each axis."""
    half = x.shape[2] // 2
    out = _empty(x, conv.out_channels, [n // 2 for n in x.shape[2:]])
    for start, stop in _slabs(half, max(rows // 2, 1)):
        slab = x[:, :, 2 * start : 2 * stop + 1]
        missing = 2 * (stop - start) + 1 - slab.shape[2]
        out[:, :, start:stop] = convolved(F.pad(slab, (0, 1, 0, 1, 0, missing)), conv)
    return out


def _upsample(conv: nn.Conv3d, x: Tensor, rows: int) -> Tensor:
    """Trilinear to twice the size, then a convolution."""

    def doubled(a: int, b: int) -> Tensor:
        low, high = max((a - 1) // 2, 0), min(b // 2 + 1, x.shape[2])
        whole = F.interpolate(x[:, :, low:high], scale_factor=2.0, mode="trilinear")
        return whole[:, :, a - 2 * low : b - 2 * low]

    return _convolve(conv, doubled, x, rows, scale=2)


def _convolve(conv: nn.Conv3d, source: Rows, x: Tensor, rows: int, scale: int = 1) -> Tensor:
    """A 3x3x3 convolution of what ``source(a, b)`` makes of ``x``, rows ``a`` to ``b`` of its output grid."""
    shape = [scale * n for n in x.shape[2:]]
    out = _empty(x, conv.out_channels, shape)
    for start, stop in _slabs(shape[0], rows):
        slab = source(max(start - 1, 0), min(stop + 1, shape[0]))
        out[:, :, start:stop] = _conv_rows(conv, slab, start, stop, shape[0])
    return out


def _conv_rows(conv: nn.Conv3d, slab: Tensor, start: int, stop: int, size: int) -> Tensor:
    """Rows ``start`` to ``stop`` of a convolution, from these rows and the neighbors that there are."""
    if start == 0 or stop == size:
        slab = F.pad(slab, (0, 0, 0, 0, int(start == 0), int(stop == size)))
    return convolved(slab, conv, padding=(0, 1, 1))


def _activated(slab: Tensor, norm: Affine) -> Tensor:
    return F.silu(_normalized(slab, norm), inplace=True)


def _normalized(slab: Tensor, norm: Affine | None) -> Tensor:
    return slab if norm is None else torch.addcmul(norm[1], slab, norm[0])


def convolved(x: Tensor, conv: nn.Conv3d, *, padding: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """A convolution ``(B, C, X, Y, Z)`` with a padding of its own.

    What a CPU convolves in float32 goes to oneDNN directly: PyTorch would unfold the input to 27 times its
    size.
    """
    inside = convolution_dtype(x.dtype)
    if x.device.type == "cpu" and inside == torch.float32 and torch.backends.mkldnn.is_available():
        bias = None if conv.bias is None else conv.bias.to(inside)
        given, weight = x.to(inside), conv.weight.to(inside)
        found = torch.mkldnn_convolution(
            given, weight, bias, padding, conv.stride, conv.dilation, conv.groups
        )
        return found.to(x.dtype)
    return F.conv3d(x, conv.weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


def convolution_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a CPU convolves numbers of a type in: bfloat16 itself only where oneDNN can."""
    native = dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype if native else torch.float32


def conv_of(module: nn.Module) -> nn.Conv3d:
    """The convolution inside monai's wrappers."""
    return cast("nn.Conv3d", module.get_submodule("conv.conv"))


def _empty(like: Tensor, channels: int, shape: Sequence[int]) -> Tensor:
    layout = torch.channels_last_3d  # a slab of rows is one piece of memory
    return torch.empty(1, channels, *shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _slabs(size: int, rows: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + rows, size)) for start in range(0, size, rows))
