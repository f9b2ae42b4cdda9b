"""Slices as squares of a network's size, and back: one pixel-center mapping in both directions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

SliceKind = Literal["image", "mask", "soft"]


def fit_square(
    slices: NDArray[Any],
    size: int,
    *,
    kind: SliceKind = "image",
    pixel_mm: tuple[float, float] = (1.0, 1.0),
    pad_value: float = -1.0,
) -> tuple[NDArray[Any], Callable[[NDArray[Any]], NDArray[Any]]]:
    """Pad slices to a centered square and resize them to `size` pixels.

    Args:
        slices: `(S, H, W)`.
        size: side of the result in pixels.
        kind: ``"image"`` resizes linearly (antialiased when shrinking) to float32; ``"mask"`` takes the
            nearest label and keeps the data type; ``"soft"`` turns a binary mask into coverage fractions
            in [0, 1].
        pixel_mm: height and width of a pixel; the square is square in millimeters.
        pad_value: value outside an image; the default is air after ``normalize``. Masks are padded with 0.

    Returns:
        `(S, size, size)` and ``undo``, which takes probabilities (resized linearly) or integer and bool
        labels (nearest) of shape `(S', size, size)` back to `(S', H, W)`. Both directions share one
        pixel-center mapping, so nothing shifts.
    """
    rows, columns = _square_axes(slices.shape[1:], size, pixel_mm)
    if kind == "mask":
        fitted = _nearest(slices, rows, columns)
    else:
        values = slices.astype(np.float32) if kind == "image" else (slices > 0).astype(np.float32)
        fitted = _linear(values, rows, columns, pad_value if kind == "image" else 0.0)

    def undo(array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype.kind in "bui":
            return _nearest(array, rows.inverse(), columns.inverse())
        return _linear(array.astype(np.float32), rows.inverse(), columns.inverse(), 0.0)

    return fitted, undo


def resampled(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """A volume on a grid of another shape over the same field, with the pixel-center mapping of slices.

    Args:
        array: ``(S, H, W)``. Numbers are resized linearly (antialiased when shrinking) to float32, integer
            and bool labels by the nearest voxel.
        shape: ``(S', H', W')``.

    Returns:
        ``(S', H', W')``.
    """
    labels = array.dtype.kind in "bui"
    out = array if labels else array.astype(np.float32)
    for axis, (target, source) in enumerate(zip(shape, array.shape, strict=True)):
        if target == source:
            continue
        if labels:
            out = out.take(_centers(target, source), axis)
        else:
            out = np.moveaxis(np.tensordot(_triangle(source, target), out, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(out)


@dataclass(frozen=True)
class _Axis:
    """Resizing one axis: `source` pixels, padded at both ends to `padded`, become `target` pixels."""

    source: int
    before: int
    padded: int
    target: int
    inverted: bool = False

    def inverse(self) -> _Axis:
        return _Axis(self.source, self.before, self.padded, self.target, not self.inverted)

    def nearest(self) -> NDArray[np.intp]:
        """Source index of every output pixel; -1 where it falls on padding."""
        if self.inverted:
            return _centers(self.padded, self.target)[self.before : self.before + self.source]
        index = _centers(self.target, self.padded) - self.before
        return np.where((index >= 0) & (index < self.source), index, -1)

    def weights(self) -> NDArray[np.float32]:
        """Linear weights `(output, input)`; a row's missing sum belongs to the padding."""
        if self.inverted:
            return _triangle(self.target, self.padded)[self.before : self.before + self.source]
        return _triangle(self.padded, self.target)[:, self.before : self.before + self.source]


def _square_axes(shape: tuple[int, ...], size: int, pixel_mm: tuple[float, float]) -> tuple[_Axis, _Axis]:
    side_mm = max(count * mm for count, mm in zip(shape, pixel_mm, strict=True))
    axes = []
    for count, mm in zip(shape, pixel_mm, strict=True):
        padded = max(count, round(side_mm / mm))
        axes.append(_Axis(count, (padded - count) // 2, padded, size))
    return axes[0], axes[1]


def _centers(outputs: int, inputs: int) -> NDArray[np.intp]:
    return np.minimum((np.arange(outputs) + 0.5) * inputs / outputs, inputs - 1).astype(np.intp)


def _triangle(inputs: int, outputs: int) -> NDArray[np.float32]:
    """Rows of triangle-filter weights: linear interpolation, widened to antialias when shrinking."""
    scale = inputs / outputs
    positions = (np.arange(outputs) + 0.5) * scale - 0.5
    distance = np.abs(positions[:, None] - np.arange(inputs)[None]) / max(scale, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights, np.float32)


def _linear(values: NDArray[np.float32], rows: _Axis, columns: _Axis, pad: float) -> NDArray[np.float32]:
    left, right = rows.weights(), columns.weights().T
    out = np.empty((values.shape[0], left.shape[0], right.shape[1]), np.float32)
    for index, image in enumerate(values):
        out[index] = left @ (image - np.float32(pad)) @ right
    out += np.float32(pad)
    return out


def _nearest(labels: NDArray[Any], rows: _Axis, columns: _Axis) -> NDArray[Any]:
    i, j = rows.nearest(), columns.nearest()
    out = labels[:, i[:, None], j[None, :]]
    out[:, (i[:, None] < 0) | (j[None, :] < 0)] = 0
    return out
