"""Metrics against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentseg.errors import GeometryError
from latentseg.metrics.overlap import Overlap, dice, overlap, pooled_dice

TRUTH = np.array([[1, 1, 1], [1, 0, 0]])
PREDICTION = np.array([[0, 0, 1], [1, 1, 0]])
EMPTY = np.zeros((2, 3))


def test_overlap_counted_by_hand() -> None:
    counts = overlap(PREDICTION, TRUTH)
    assert counts == Overlap(both=2, only_prediction=1, only_truth=2)
    assert dice(PREDICTION, TRUTH) == counts.dice == pytest.approx(4 / 7)
    assert counts.iou == pytest.approx(2 / 5)
    assert dice(TRUTH, TRUTH) == 1.0


def test_rule_for_empty_masks() -> None:
    for pair, expected in (((EMPTY, EMPTY), 1.0), ((EMPTY, TRUTH), 0.0), ((TRUTH, EMPTY), 0.0)):
        assert overlap(*pair).dice == overlap(*pair).iou == expected
    assert overlap(EMPTY, EMPTY).relative_volume_error == 0.0
    assert math.isinf(overlap(TRUTH, EMPTY).relative_volume_error)
    assert pooled_dice([]) == 1.0


def test_pooled_dice_weighs_voxels_and_not_cases() -> None:
    large, small = Overlap(90, 10, 10), Overlap(0, 0, 10)
    assert pooled_dice([large, small]) == pytest.approx(180 / 210)
    assert (large.dice + small.dice) / 2 == pytest.approx(0.45)


def test_volume_errors_are_signed() -> None:
    assert overlap(PREDICTION, TRUTH).relative_volume_error == pytest.approx(-0.25)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 3\).*\(3, 3\)"):
        dice(TRUTH, np.zeros((3, 3)))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_agrees_with_monai(share: float) -> None:
    metrics = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    p, t = np.random.default_rng(0).random((2, 9, 10, 11)) < share
    a, b = (torch.from_numpy(m.astype(np.float32))[None, None] for m in (p, t))
    counts = overlap(p, t)
    assert counts.dice == pytest.approx(float(metrics.compute_dice(a, b, include_background=True)), abs=1e-6)
    assert counts.iou == pytest.approx(float(metrics.compute_iou(a, b, include_background=True)), abs=1e-6)
