"""Supervoxels against the same rules written out in plain Python."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from helpers import packs
from latentseg.errors import UsageError
from latentseg.training.fewshot import supervoxels as module
from latentseg.training.fewshot.supervoxels import (
    OFFSETS,
    add_supervoxels,
    body_mask,
    edge_weights,
    supervoxels,
)
from latentseg.training.pack import Pack


@pytest.fixture
def _numba() -> None:
    pytest.importorskip("numba", reason="needs the extra `train`")


def reference(volume: NDArray[np.float32], s: float, *, min_size: int, k: float) -> list[set[int]]:
    """Felzenszwalb and Huttenlocher on a 26-neighbor graph, one set of voxels per component."""
    grey = 255 * (volume - volume.min()) / (volume.max() - volume.min())
    number = np.arange(grey.size).reshape(grey.shape)
    edges = []
    for rank, (z, y, x) in enumerate(o for o in product((-1, 0, 1), repeat=3) if o > (0, 0, 0)):
        cost = {1: s * s if z else 1.0, 2: (s * s + 1) / 2 if z else 1.0, 3: (s * s + 2) / 3}
        factor = cost[abs(z) + abs(y) + abs(x)]
        for here in np.ndindex(grey.shape):
            there = (here[0] + z, here[1] + y, here[2] + x)
            if all(0 <= i < n for i, n in zip(there, grey.shape, strict=True)):
                weight = abs(float(grey[there]) - float(grey[here])) * factor**0.5
                edges.append((np.float32(weight), rank, int(number[here]), int(number[there])))
    edges.sort()
    component = {i: {i} for i in range(grey.size)}
    inner = dict.fromkeys(range(grey.size), 0.0)
    home = list(range(grey.size))

    def join(a: int, b: int, weight: float) -> None:
        for voxel in component[b]:
            home[voxel] = a
        component[a] |= component.pop(b)
        inner[a] = weight

    for weight, _, i, j in edges:
        a, b = home[i], home[j]
        if a != b and weight <= min(inner[c] + k / len(component[c]) for c in (a, b)):
            join(a, b, float(weight))
    for weight, _, i, j in edges:
        a, b = home[i], home[j]
        if a != b and min(len(component[a]), len(component[b])) < min_size:
            join(a, b, float(weight))
    return list(component.values())


def random_volume(seed: int, shape: tuple[int, int, int], *, smooth: float) -> NDArray[np.float32]:
    """Whole grey values that use 0 and 255, so that stretching them changes none."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), smooth)
    noise = (noise - noise.min()) / np.ptp(noise)
    return np.round(255 * noise).astype(np.float32)


def partition(ids: NDArray[np.int32]) -> set[frozenset[int]]:
    flat = ids.ravel()
    return {frozenset(np.flatnonzero(flat == i).tolist()) for i in np.unique(flat)}


CASES = [
    (0, (4, 7, 6), 0.0, 1.0, 8, 1.0),
    (1, (3, 8, 8), 1.0, 5.0, 20, 1.0),
    (2, (5, 6, 7), 1.5, 2.3, 1, 255 * 31.7),
    (3, (1, 12, 11), 1.0, 3.0, 9, 255 * 8.3),
    (4, (6, 5, 5), 0.7, 0.5, 15, 255 * 100.1),
    (5, (4, 4, 4), 1.0, 1.7, 1000, 1.0),
]


@pytest.mark.usefixtures("_numba")
@pytest.mark.parametrize(("seed", "shape", "smooth", "s", "min_size", "scale"), CASES)
def test_same_partition_as_the_reference(
    seed: int, shape: tuple[int, int, int], smooth: float, s: float, min_size: int, scale: float
) -> None:
    volume = random_volume(seed, shape, smooth=smooth)
    ids = supervoxels(volume, spacing_mm=(s * 1.3, 1.1, 1.3), min_size=min_size, scale=scale)
    expected = reference(volume, s, min_size=min_size, k=scale / 255)
    assert ids.dtype == np.int32
    assert set(np.unique(ids)) == set(range(len(expected)))
    assert partition(ids) == {frozenset(voxels) for voxels in expected}


@pytest.mark.usefixtures("_numba")
def test_no_component_is_smaller_than_asked_for() -> None:
    volume = random_volume(7, (6, 20, 20), smooth=1.0)
    for min_size in (5, 50, 400):
        ids = supervoxels(volume, spacing_mm=(3, 1, 1), min_size=min_size)
        assert np.bincount(ids.ravel()).min() >= min_size
        regions = [ndimage.label(ids == i, np.ones((3, 3, 3)))[1] for i in range(ids.max() + 1)]
        assert regions == [1] * len(regions)


@pytest.mark.usefixtures("_numba")
def test_thick_slices_keep_regions_within_a_slice() -> None:
    volume = random_volume(8, (6, 16, 16), smooth=1.0)
    spans = []
    for thickness in (1.0, 20.0):
        ids = supervoxels(volume, spacing_mm=(thickness, 1, 1), min_size=1, scale=255 * 60.0)
        boxes = ndimage.find_objects(ids + 1)
        sizes = np.bincount(ids.ravel())
        spans.append(np.average([box[0].stop - box[0].start for box in boxes], weights=sizes))
    assert spans[1] < spans[0]


@pytest.mark.usefixtures("_numba")
def test_a_constant_volume_is_one_region_and_scaling_changes_nothing() -> None:
    assert not supervoxels(np.full((2, 5, 5), 7), spacing_mm=(1, 1, 1), min_size=3).any()
    volume = random_volume(9, (3, 9, 9), smooth=1.0)
    ids = supervoxels(volume, spacing_mm=(2, 1, 1), min_size=10)
    again = supervoxels((volume * 16 - 1024).astype(np.int16), spacing_mm=(2, 1, 1), min_size=10)
    assert np.array_equal(ids, again)


def test_edge_weights_by_hand() -> None:
    grey = np.array([[[0, 3], [8, 0]], [[1, 0], [0, 0]]], np.float32)
    weights = edge_weights(grey, anisotropy=3.0).reshape(13, 2, 2, 2)
    of = {tuple(offset): row for offset, row in zip(OFFSETS.tolist(), weights, strict=True)}
    assert of[0, 0, 1][0, 0, 0] == 3
    assert of[0, 1, 0][0, 0, 0] == 8
    assert of[0, 1, -1][0, 0, 1] == 5
    assert of[1, 0, 0][0, 0, 0] == 3  # 1 * s
    assert of[1, 1, 0][0, 0, 0] == 0
    assert of[1, 0, -1][0, 0, 1] == pytest.approx(2 * np.sqrt(5))  # (1 + s^2) / 2
    assert of[1, -1, 1][0, 1, 0] == pytest.approx(8 * np.sqrt(11 / 3))  # (2 + s^2) / 3
    assert np.isinf(weights).sum() == 13 * 8 - 28  # 12 + 12 + 4 edges of a cube


def test_body_mask_is_the_largest_region_without_holes() -> None:
    image = np.zeros((3, 12, 12), np.uint8)
    image[0, 2:9, 2:9] = 100
    image[0, 4:6, 4:6] = 0  # a hole
    image[0, 11, 11] = 100  # the table
    image[1] = 10
    body = body_mask(image, above=10)
    expected = np.zeros((12, 12), bool)
    expected[2:9, 2:9] = True
    assert np.array_equal(body[0], expected)
    assert not body[1:].any()


@pytest.mark.usefixtures("_numba")
def test_a_pack_gets_its_supervoxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_SIZE", 40)
    packed = packs.small_pack(tmp_path, supervoxels=False)
    assert packed.supervoxels is None
    add_supervoxels(packed)
    ids = Pack(packed.folder).supervoxels
    assert ids is not None
    assert ids.dtype == np.uint16
    assert ids.shape == packed.images.shape
    for scan in packed.scans:
        at = slice(scan.first, scan.first + scan.count)
        assert np.array_equal(ids[at] > 0, body_mask(packed.images[at], above=10))
        assert len(np.unique(ids[at])) > 3


def test_a_missing_compiler_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(UsageError, match=r"numba.*pip install 'latentseg\[train\]'") as caught:
        supervoxels(np.zeros((1, 4, 4)), spacing_mm=(1, 1, 1), min_size=1)
    assert "\n" not in str(caught.value)
