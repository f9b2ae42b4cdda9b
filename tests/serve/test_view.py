"""The frame that viewers draw in."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from latentseg.imaging import Volume
from latentseg.serve.view import View, nifti_bytes, shown_values

ORIENTATIONS = list(product(permutations(range(3)), product((1, -1), repeat=3)))


@given(st.sampled_from(ORIENTATIONS), st.integers(0, 2**16))
def test_every_orientation_becomes_ras_and_comes_back(orientation, seed) -> None:
    axes, signs = orientation
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    spacing = rng.uniform(0.5, 5, 3)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * spacing[column]
    affine[:3, 3] = rng.uniform(-100, 100, 3)
    volume = Volume(rng.integers(0, 9, (3, 4, 5)).astype(np.int16), affine)
    view = View.of(volume)
    shown = view.apply(volume.array)
    assert shown.shape == view.shape
    assert np.array_equal(view.restore(shown), volume.array)
    assert np.allclose(np.diag(view.affine_ras_mm[:3, :3]), view.spacing_mm)
    for index in ((0, 0, 0), tuple(n - 1 for n in view.shape), (1, 0, 1)):
        place = view.affine_ras_mm @ [*index, 1]
        stored = np.rint(np.linalg.inv(affine) @ place)[:3].astype(int)
        assert shown[index] == volume.array[tuple(stored)]


def test_a_viewer_reads_the_file() -> None:
    import nibabel as nib

    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    affine = np.diag([1.5, 2, 3, 1])
    image = nib.Nifti1Image.from_bytes(nifti_bytes(array, affine))
    assert np.array_equal(np.asanyarray(image.dataobj), array)
    assert np.allclose(image.affine, affine)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (bool, np.uint8),
        (np.uint8, np.uint8),
        (np.int16, np.int16),
        (np.uint16, np.int16),
        (np.float64, np.float32),
    ],
)
def test_types_that_viewers_read(dtype, expected) -> None:
    assert shown_values(np.ones((2, 2, 2), dtype)).dtype == expected


def test_large_numbers_stay() -> None:
    values = shown_values(np.full((1, 1, 1), 60_000, np.uint16))
    assert values.dtype == np.float32
    assert values[0, 0, 0] == 60_000
