"""Surface distances against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.errors import GeometryError
from latentseg.metrics.surface import surface, surface_distances


def line(*voxels: int) -> np.ndarray:
    """A 1 x 1 x 12 mask with single voxels set."""
    mask = np.zeros((1, 1, 12), bool)
    mask[0, 0, list(voxels)] = True
    return mask


def test_distances_of_single_voxels_by_hand() -> None:
    # Truth at 2 and 8, prediction at 3; voxels of 1.5 mm: 1.5 mm one way, 1.5 and 7.5 mm the other.
    found = surface_distances(line(3), line(2, 8), spacing_mm=(5.0, 5.0, 1.5))
    assert found.from_prediction.tolist() == [1.5]
    assert found.from_truth.tolist() == [1.5, 7.5]
    assert found.assd_mm == pytest.approx(10.5 / 3)
    assert found.hd95_mm == pytest.approx(1.5 + 0.95 * 6.0)
    assert found.nsd(2.0) == pytest.approx(2 / 3)
    assert found.nsd(1.0) == 0.0
    assert found.nsd(7.5) == 1.0


def test_a_shifted_box_by_hand() -> None:
    # Boxes of 2 x 2 x 2 are all surface; shifted by one voxel of 3 mm, one half is 0 and the other 3 mm away.
    truth = np.zeros((6, 6, 6), bool)
    truth[1:3, 1:3, 1:3] = True
    found = surface_distances(np.roll(truth, 1, axis=2), truth, spacing_mm=(1.0, 1.0, 3.0))
    assert sorted(found.from_truth.tolist()) == [0.0] * 4 + [3.0] * 4
    assert (found.assd_mm, found.hd95_mm, found.nsd()) == (1.5, 3.0, 0.5)


def test_the_surface_is_one_voxel_thick() -> None:
    cube = np.zeros((7, 7, 7), bool)
    cube[1:6, 1:6, 1:6] = True
    assert surface(cube).sum() == 5**3 - 3**3
    assert surface(cube[1:6, 1:6, 1:6]).sum() == 5**3 - 3**3  # the border of the grid is outside


def test_a_single_slice_has_an_inside() -> None:
    square = np.zeros((7, 7, 1), bool)
    square[1:6, 1:6] = True
    assert surface(square).sum() == 16
    assert surface(square[:, :, 0]).sum() == 16
    assert surface(np.ones((1, 1, 1), bool)).sum() == 1


def test_a_mask_in_one_slice_of_many_has_no_inside() -> None:
    plate = np.zeros((9, 9, 5), bool)
    plate[2:7, 2:7, 2] = True
    found = surface_distances(plate, plate, spacing_mm=(1.0, 1.0, 1.0))
    assert len(found.from_truth) == 25


def test_rule_for_empty_masks() -> None:
    empty = np.zeros((3, 4, 12), bool)
    full = ~empty
    diagonal = np.hypot(np.hypot(3, 4), 12)
    both = surface_distances(empty, empty, spacing_mm=(1, 1, 1))
    assert (both.nsd(), both.hd95_mm, both.assd_mm) == (1.0, 0.0, 0.0)
    for pair in ((empty, full), (full, empty)):
        one = surface_distances(*pair, spacing_mm=(1, 1, 1))
        assert one.nsd() == 0.0
        assert one.hd95_mm == one.assd_mm == pytest.approx(diagonal)


def test_far_from_the_origin_as_near_to_it() -> None:
    rng = np.random.default_rng(0)
    near, far = (np.zeros((2, 20, 20, 20), bool) for _ in range(2))
    near[:, :5, :5, :5] = rng.random((2, 5, 5, 5)) > 0.6
    far[:, 9:14, 9:14, 9:14] = near[:, :5, :5, :5]
    distances = [surface_distances(*pair, spacing_mm=(0.7, 0.8, 3.0)) for pair in (near, far)]
    assert distances[0].assd_mm == pytest.approx(distances[1].assd_mm)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match="shape"):
        surface_distances(line(1), np.zeros((1, 1, 3)), spacing_mm=(1, 1, 1))


@pytest.mark.filterwarnings("ignore:monai.metrics.utils:FutureWarning")  # the library warns about itself
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    from scipy.ndimage import gaussian_filter

    p, t = (gaussian_filter(rng.random((24, 22, 12)), 2.0) for _ in range(2))
    p, t = p > np.quantile(p, 0.8), t > np.quantile(t, 0.7)
    spacing = (0.8, 1.2, 3.0)
    ours = surface_distances(p, t, spacing_mm=spacing)
    a, b = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (p, t))
    theirs = metrics.compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
    assert ours.hd95_mm == pytest.approx(float(theirs), rel=1e-4)
    theirs = metrics.compute_surface_dice(a, b, [2.0], include_background=True, spacing=spacing)
    assert ours.nsd() == pytest.approx(float(theirs), abs=1e-4)
    theirs = metrics.compute_average_surface_distance(
        a, b, include_background=True, symmetric=True, spacing=spacing
    )
    assert ours.assd_mm == pytest.approx(float(theirs), rel=1e-4)
