"""Random right-angled voxel grids: axis orders, flips, oblique rotations, anisotropic spacing."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

SHAPES = st.tuples(*[st.integers(1, 7)] * 3)


def rotation(angles: tuple[float, float, float]) -> NDArray[np.float64]:
    """A rotation about x, then y, then z, in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [(1, 2), (0, 2), (0, 1)][axis]
        turn = np.eye(3)
        turn[[a, b], [a, b]] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


@st.composite
def affines(draw: Any, tilt: float = 0.7) -> NDArray[np.float64]:
    """Any right-angled voxel-to-RAS affine, rotated by up to `tilt` radians about each axis."""
    order = draw(st.sampled_from(list(permutations(range(3)))))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 9.0)] * 3))
    angles = draw(st.tuples(*[st.sampled_from([0.0]) | st.floats(-tilt, tilt)] * 3))
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) @ np.eye(3)[:, list(order)] * np.array(signs) * np.array(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    return affine


def voxels(shape: tuple[int, ...], dtype: Any = np.int16, seed: int = 0) -> NDArray[Any]:
    """Distinct-looking values of a data type."""
    return np.random.default_rng(seed).integers(0, 250, shape).astype(dtype)
