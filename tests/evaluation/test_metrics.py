"""Metrics against numbers counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from latentseg.errors import GeometryError, InputError
from latentseg.evaluation.metrics import (
    Overlap,
    bootstrap_mean,
    dice,
    overlap,
    pooled_dice,
    relative_volume_error,
    volume_error_ml,
)

TRUTH = np.array([[1, 1, 1], [1, 0, 0]])
PREDICTION = np.array([[0, 0, 1], [1, 1, 0]])
EMPTY = np.zeros((2, 3))


def test_dice_counted_by_hand() -> None:
    assert overlap(PREDICTION, TRUTH) == Overlap(both=2, only_prediction=1, only_truth=2)
    assert dice(PREDICTION, TRUTH) == pytest.approx(4 / 7)
    assert dice(TRUTH, TRUTH) == 1.0


def test_rule_for_empty_masks() -> None:
    assert dice(EMPTY, EMPTY) == 1.0
    assert dice(EMPTY, TRUTH) == 0.0
    assert dice(TRUTH, EMPTY) == 0.0
    assert relative_volume_error(EMPTY, EMPTY) == 0.0
    assert math.isinf(relative_volume_error(TRUTH, EMPTY))
    assert pooled_dice([]) == 1.0


def test_pooled_dice_weighs_voxels_and_not_cases() -> None:
    large, small = Overlap(90, 10, 10), Overlap(0, 0, 10)
    assert pooled_dice([large, small]) == pytest.approx(180 / 210)
    assert (large.dice + small.dice) / 2 == pytest.approx(0.45)


def test_volume_errors_are_signed() -> None:
    assert volume_error_ml(PREDICTION, TRUTH, voxel_volume_ml=0.5) == pytest.approx(-0.5)
    assert relative_volume_error(PREDICTION, TRUTH) == pytest.approx(-0.25)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"\(2, 3\).*\(3, 3\)"):
        dice(TRUTH, np.zeros((3, 3)))


def test_bootstrap_is_by_patient_and_repeatable() -> None:
    values = {"a": [0.5, 0.7], "b": [0.8], "c": [0.9, 0.9, 0.9]}
    interval = bootstrap_mean(values)
    assert interval.mean == pytest.approx((0.6 + 0.8 + 0.9) / 3)
    assert interval.patients == 3
    assert 0.6 <= interval.low < interval.mean < interval.high <= 0.9
    assert bootstrap_mean(values) == interval


def test_bootstrap_of_one_patient_has_no_width() -> None:
    interval = bootstrap_mean({"a": [0.4, 0.6]})
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_bootstrap_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="no value"):
        bootstrap_mean({})
