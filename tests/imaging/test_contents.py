"""Scans that are hardly what they are taken for: masks, and sizes that no body has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from latentseg.errors import LatentsegWarning, noted
from latentseg.imaging import Volume, read
from latentseg.imaging.contents import label_count
from latentseg.phantom import abdomen

RNG = np.random.default_rng(0)


def blocks(count: int) -> Any:
    """A label map of that many labels and background."""
    labels = np.zeros((40, 30, 12), np.int16)
    for number in range(count):
        i, j = divmod(number, 6)
        labels[2 + 6 * i : 7 + 6 * i, 5 * j : 5 * j + 4] = number + 1
    return labels


@pytest.mark.parametrize("count", [1, 5, 30])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_label_maps_are_noticed(count: int, dtype: Any) -> None:
    with pytest.warns(LatentsegWarning, match=rf"holds {count + 1} different values: is it a mask"):
        read(blocks(count).astype(dtype), spacing_mm=(2, 2, 5), orientation="LPS")


@pytest.mark.parametrize(
    "array",
    [
        RNG.integers(0, 255, (30, 30, 8), np.uint8),
        RNG.integers(0, 16, (30, 30, 8), np.uint8),  # few grey levels, and no two neighbors alike
        RNG.normal(100, 20, (30, 30, 8)).clip(0).astype(np.uint16) * (blocks(1)[:30, :30, :8] > 0),
        abdomen(seed=0, shape=(64, 64, 8)).image.array,
        ((abdomen(seed=0, shape=(64, 64, 8)).image.array.clip(-125, 275) + 125) * 0.63).astype(np.uint8),
        blocks(5).astype(np.float32),
        blocks(5) - 1,
    ],
)
def test_scans_are_no_label_maps(array: Any) -> None:
    assert label_count(Volume(array=array, affine_ras_mm=np.diag([2.0, 2, 5, 1]))) == 0


@pytest.mark.parametrize(("spacing_mm", "odd"), [(2.0, False), (0.02, True), (500.0, True), (1.0, False)])
def test_sizes(spacing_mm: float, odd: bool) -> None:
    scan = abdomen(seed=0, shape=(64, 64, 8)).image.array
    with noted([]) as notes:
        read(scan, spacing_mm=[spacing_mm] * 3, orientation="LPS")
        read(RNG.integers(0, 255, (3, 3), np.uint8))  # a picture has no size
    assert bool(notes) == odd
    assert all("no body's size" in note for note in notes)
