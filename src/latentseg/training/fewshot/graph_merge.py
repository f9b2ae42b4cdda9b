"""The inner loop of the graph segmentation, compiled by numba (extra ``train``); see :mod:`.supervoxels`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numpy.typing import NDArray

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called, once per machine; its type stays."""
    return cast("Function", numba.njit(cache=True)(function))


@compiled
def find(parent: NDArray[np.int32], i: int) -> int:
    """Root of a voxel, halving the path on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@compiled
def merge(
    weights: NDArray[np.float32],
    order: NDArray[np.int64],
    steps: NDArray[np.int64],
    voxels: int,
    scale: float,
    min_size: int,
) -> NDArray[np.int32]:
    """Root of every voxel, ``(voxels,)``.

    Args:
        weights: Of the edges, direction-major: edge ``d * voxels + i`` leads from voxel ``i`` to
            ``i + steps[d]``.
        order: Edges to visit, lightest first.
        steps: Distance in memory that each direction covers.
        voxels: Number of voxels.
        scale: Of the tolerance ``scale / size`` of a component.
        min_size: Fewest voxels of a component; enforced by a second visit to all edges.
    """
    parent = np.arange(voxels, dtype=np.int32)
    size = np.ones(voxels, dtype=np.int32)
    threshold = np.full(voxels, scale, dtype=np.float32)
    for enforce in (False, True):
        for edge in order:
            a = find(parent, edge % voxels)
            b = find(parent, edge % voxels + steps[edge // voxels])
            if a == b:
                continue
            weight = weights[edge]
            joined = (
                min(size[a], size[b]) < min_size if enforce else weight <= min(threshold[a], threshold[b])
            )
            if joined:
                if size[a] < size[b]:
                    a, b = b, a
                parent[b] = a
                size[a] += size[b]
                threshold[a] = weight + scale / size[a]
    for i in range(voxels):
        parent[i] = find(parent, i)
    return parent
