"""Presence scores, and the area under their curve, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.metrics.presence import auroc, presence_scores


def test_auroc_by_hand() -> None:
    assert auroc([0.9, 0.4], [0.1, 0.5]) == 0.75
    assert auroc([0.5], [0.5, 0.5]) == 0.5
    assert auroc([1, 2], [0]) == 1.0
    assert auroc([0], [1, 2, 3]) == 0.0
    assert auroc([], [1]) is None
    assert auroc([1], []) is None


def test_a_slice_is_as_present_as_its_forty_best_pixels() -> None:
    chance = np.zeros((2, 16, 16), np.float32)
    chance[1, :2, :10] = 1.0  # 20 pixels
    assert presence_scores(chance).tolist() == [0.0, 0.5]
    assert presence_scores(np.full((1, 3, 3), 0.25, np.float32)).tolist() == [0.25]


def test_presence_looks_at_the_most_probable_pixels() -> None:
    chance = np.zeros((5, 256, 256), np.float32)
    assert presence_scores(chance).max() == 0
    chance[3, 20:24, 50:60] = 0.9  # forty pixels on one slice
    assert presence_scores(chance).max() == pytest.approx(0.9)
    chance[:] = 0
    chance[3, 20, 50] = 1  # a single pixel is noise
    assert presence_scores(chance).max() == pytest.approx(1 / 40)
