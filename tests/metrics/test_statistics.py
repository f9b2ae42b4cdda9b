"""The bootstrap over patients."""

from __future__ import annotations

import pytest

from latentseg.errors import InputError
from latentseg.metrics.statistics import bootstrap_mean, spread


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


def test_spread_by_hand() -> None:
    assert spread([1.0, 3.0]) == pytest.approx(2**0.5)
    assert spread([1.0]) is None
