"""Canonical slices and back, squares and back, and grids compared."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import grids
from latentseg.errors import GeometryError
from latentseg.imaging import Volume, check_same_grid, fit_square, same_grid, to_canonical
from latentseg.imaging.affine import axis_codes_of, orientation_of


@given(grids.affines(), grids.SHAPES, st.sampled_from([np.uint8, np.int16, np.float32, bool]))
def test_canonical_and_back_is_exact(affine: Any, shape: tuple[int, int, int], dtype: Any) -> None:
    volume = Volume(array=grids.voxels(shape, dtype), affine_ras_mm=affine)
    canonical = to_canonical(volume)
    restored = canonical.restore(canonical.slices)
    assert restored.dtype == volume.array.dtype
    assert restored.flags.c_contiguous
    np.testing.assert_array_equal(restored, volume.array)
    np.testing.assert_array_equal(canonical.apply(volume.array), canonical.slices)


@given(grids.affines(tilt=0.3), grids.SHAPES)
def test_canonical_axes_run_up_back_and_left(affine: Any, shape: tuple[int, int, int]) -> None:
    """Follow the world position of the first and the last voxel along each canonical axis."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), np.ones(1), indexing="ij"), -1)[:, :, :, 0]
    world = index @ affine.T
    volume = Volume(array=np.zeros(shape), affine_ras_mm=affine)
    canonical = to_canonical(volume)
    r, a, s = (canonical.apply(world[..., axis]) for axis in range(3))
    for axis, (values, sign) in enumerate([(s, 1), (a, -1), (r, -1)]):
        steps = np.diff(values, axis=axis) * sign
        assert (steps > 0).all()
    assert sorted(canonical.spacing_mm) == pytest.approx(sorted(volume.spacing_mm))


@pytest.mark.parametrize("codes", ["".join(c) for p in permutations(["LR", "PA", "IS"]) for c in product(*p)])
def test_axis_codes_and_the_overruling_orientation_agree(codes: str) -> None:
    volume = Volume(array=grids.voxels((2, 3, 4)), affine_ras_mm=np.eye(4), orientation=codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for axis, letter in enumerate(codes):
        world = next(w for w, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        affine[world, axis] = 1.0 if letter in "RAS" else -1.0
    assert axis_codes_of(affine) == codes
    true = Volume(array=volume.array, affine_ras_mm=affine)
    np.testing.assert_array_equal(to_canonical(volume).slices, to_canonical(true).slices)


@pytest.mark.parametrize("codes", ["LA", "LLS", "XYZ", "LASR"])
def test_orientation_must_be_axis_codes(codes: str) -> None:
    with pytest.raises(GeometryError, match="is no orientation"):
        Volume(array=np.zeros((2, 2, 2)), affine_ras_mm=np.eye(4), orientation=codes)


def test_forty_five_degrees_still_gives_a_permutation() -> None:
    affine = np.eye(4)
    affine[:3, :3] = grids.rotation((np.pi / 4, np.pi / 4, np.pi / 4))
    axes, _ = orientation_of(affine)
    assert sorted(axes) == [0, 1, 2]


def test_restore_refuses_another_shape() -> None:
    canonical = to_canonical(Volume(array=np.zeros((4, 5, 6)), affine_ras_mm=np.eye(4)))
    with pytest.raises(GeometryError, match="cannot return"):
        canonical.restore(np.zeros((6, 5, 5)))


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 48),
    st.floats(0.3, 3.0),
)
def test_fit_square_shapes_types_and_range(shape: tuple[int, int, int], size: int, ratio: float) -> None:
    labels = grids.voxels(shape, np.uint8) % 3
    for kind, dtype in (("image", np.float32), ("soft", np.float32), ("mask", np.uint8)):
        fitted, undo = fit_square(labels, size, kind=kind, pixel_mm=(1.0, ratio), pad_value=0)
        assert fitted.shape == (shape[0], size, size)
        assert fitted.dtype == dtype
        assert undo(fitted).shape == shape
        assert undo(fitted[:1]).shape == (1, *shape[1:])
        assert fitted.min() >= -1e-4
        assert fitted.max() <= labels.max() + 1e-4
    assert undo(fitted > 0).dtype == bool


def test_fit_square_of_the_right_size_changes_nothing() -> None:
    image = grids.voxels((3, 16, 16), np.float32)
    fitted, undo = fit_square(image, 16)
    np.testing.assert_array_equal(fitted, image)
    np.testing.assert_array_equal(undo(fitted), image)


@pytest.mark.parametrize("shape", [(1, 30, 20), (1, 21, 30), (1, 17, 17)])
@pytest.mark.parametrize("size", [30, 60, 90])
def test_labels_survive_growing_and_shrinking_back(shape: tuple[int, int, int], size: int) -> None:
    labels = grids.voxels(shape, np.uint8) % 5
    fitted, undo = fit_square(labels, size, kind="mask")
    np.testing.assert_array_equal(undo(fitted), labels)


def test_nothing_shifts() -> None:
    """The center of mass of a disc stays where it was, to a hundredth of a pixel."""
    y, x = np.mgrid[:41, :64]
    disc = (np.hypot(y - 22, x - 37) < 9).astype(np.float32)[None]
    for size in (32, 64, 100, 256):
        fitted, undo = fit_square(disc, size, pad_value=0)
        scale = 64 / size
        middle = (fitted[0] * np.mgrid[:size, :size]).sum((1, 2)) / fitted.sum()
        np.testing.assert_allclose((middle + 0.5) * scale - 0.5, [22 + 11, 37], atol=0.01)
        back = undo(fitted)[0]
        np.testing.assert_allclose((back * [y, x]).sum((1, 2)) / back.sum(), [22, 37], atol=0.01)
        assert ((back > 0.5) != (disc[0] > 0.5)).mean() < 0.02


def test_the_square_is_square_in_millimeters() -> None:
    fitted, _ = fit_square(np.ones((1, 10, 40), np.float32), 40, pixel_mm=(4.0, 1.0), pad_value=0)
    assert fitted.min() == pytest.approx(1.0)
    fitted, _ = fit_square(np.ones((1, 10, 40), np.float32), 40)
    assert (fitted[0] > 0).sum() == pytest.approx(10 * 40)
    assert fitted.min() == -1


def _volume(shape: tuple[int, int, int] = (4, 5, 6), move: float = 0.0) -> Volume:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[0, 3] = move
    return Volume(array=np.zeros(shape), affine_ras_mm=affine)


def test_grids_are_compared_in_millimeters() -> None:
    assert same_grid(_volume(), _volume(move=0.01))
    assert not same_grid(_volume(), _volume(move=0.5))
    assert same_grid(_volume(), _volume(move=0.5), tol=1.0)
    assert not same_grid(_volume(), _volume((4, 5, 7)))


def test_different_grids_are_both_named() -> None:
    with pytest.raises(GeometryError) as caught:
        check_same_grid(_volume(), _volume((4, 5, 7)))
    assert "4x5x6 RAS, 2x2x3 mm" in str(caught.value)
    assert "4x5x7 RAS, 2x2x3 mm" in str(caught.value)
    with pytest.raises(GeometryError, match=r"up to 0\.5 mm apart"):
        check_same_grid(_volume(), _volume(move=0.5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({(0, 1): 0.3}, r"sheared by 16\.7 degrees"),
        ({(0, 0): 0.0}, "cannot be inverted"),
        ({(0, 0): 0.0, (1, 0): 1.0}, "parallel"),
        ({(0, 0): np.nan}, "not a finite 4x4"),
        ({(3, 0): 1.0}, "cannot be inverted"),
    ],
)
def test_affines_that_are_no_grid(change: dict[tuple[int, int], float], message: str) -> None:
    affine = np.eye(4)
    for at, value in change.items():
        affine[at] = value
    with pytest.raises(GeometryError, match=message):
        Volume(array=np.zeros((2, 2, 2)), affine_ras_mm=affine)


def test_shear_of_rounding_is_accepted() -> None:
    affine = np.eye(4)
    affine[0, 1] = 0.005
    assert Volume(array=np.zeros((2, 2, 2)), affine_ras_mm=affine).axis_codes == "RAS"


def test_volume_properties() -> None:
    volume = Volume(
        array=np.zeros((2, 3, 4)), affine_ras_mm=np.diag([-1, -2, 5, 1.0]), source=Path("a/x_0000.nii.gz")
    )
    assert (volume.shape, volume.spacing_mm, volume.axis_codes) == ((2, 3, 4), (1, 2, 5), "LPS")
    assert volume.voxel_volume_ml == pytest.approx(0.01)
    assert volume.name == "x"
    assert volume.with_array(np.ones((2, 3, 4))).source == volume.source
    with pytest.raises(GeometryError, match="does not fit the grid"):
        volume.with_array(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="read-only"):
        volume.affine_ras_mm[0, 0] = 3
