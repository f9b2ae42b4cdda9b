"""Windows for CT, percentiles for MR, and what is refused or warned about."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import guess_modality, normalize
from latentseg.imaging.intensity import TISSUE_FLOOR, TISSUE_LEVEL, brightened


def test_ct_window() -> None:
    hu = np.array([-1024, -125, 75, 275, 3000], np.int16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = normalize(hu, modality="CT")
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [-1, -1, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(normalize(hu, modality="CT", window=(-1024, 3000))[[0, 4]], [-1, 1], atol=1e-6)


def test_windowed_ct_gives_what_raw_ct_gives_with_a_warning() -> None:
    hu = np.linspace(-1000, 1000, 401)
    stored = np.clip((hu + 125) / 400 * 255, 0, 255)
    for scale, top in ((1.0, "255"), (1 / 255, "1")):
        with pytest.warns(LatentsegWarning, match=f"already windowed, 0 to {top}"):
            out = normalize(stored * scale, modality="CT")
        np.testing.assert_allclose(out, normalize(hu, modality="CT"), atol=1e-5)


def test_ct_without_air_warns() -> None:
    with pytest.warns(LatentsegWarning, match=r"\(a\.nii\) has no air \(minimum -100 HU\)"):
        normalize(np.array([-100, 50, 300]), modality="CT", where="a.nii")


def test_mr_percentiles_ignore_the_empty_background() -> None:
    values = np.concatenate([np.zeros(100000), np.linspace(100, 1100, 1001), [90000.0]])
    out = normalize(values, modality="MR")
    assert out[0] == -1
    assert out[-1] == 1
    middle = out[100000 + 500]
    assert abs(middle) < 0.02
    np.testing.assert_array_equal(out, normalize(values, modality="unknown"))


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 1000))
def test_mr_does_not_depend_on_the_scale(seed: int, scale: float) -> None:
    values = np.random.default_rng(seed).gamma(2, 100, (3, 8, 8))
    out = normalize(values, modality="MR")
    np.testing.assert_allclose(out, normalize(values * scale, modality="MR"), atol=1e-4)
    assert out.min() == -1
    assert out.max() == 1


def test_a_binary_picture_keeps_its_two_values() -> None:
    out = normalize(np.array([0, 0, 0, 7]), modality="unknown")
    np.testing.assert_array_equal(out, [-1, -1, -1, 1])


@pytest.mark.parametrize("modality", ["CT", "MR", "unknown"])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 2), 5), "constant .the single value 5"),
        (np.zeros((0, 3)), "no voxels"),
        (np.array([1, np.nan]), r"1 voxels are NaN or infinite, the first at index \(1,\)"),
        (np.array([np.inf, 2, np.nan]), "2 voxels"),
    ],
)
def test_what_has_no_contrast_is_refused(values: Any, message: str, modality: Any) -> None:
    with pytest.raises(InputError, match=message):
        normalize(values, modality=modality)


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(InputError, match="is empty"):
        normalize(np.array([-1000, 100]), modality="CT", window=(5, 5))


def test_the_input_is_not_changed() -> None:
    values = np.array([-1000, 0, 100], np.float32)
    before = values.copy()
    normalize(values, modality="CT")
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize(
    ("values", "modality"),
    [([-1000, 400], "CT"), ([0, 900], "MR"), ([0, 255], "unknown"), ([-50, 300], "unknown"), ([], "unknown")],
)
def test_guess(values: list[int], modality: str) -> None:
    assert guess_modality(np.array(values)) == modality


def test_dark_tissue_is_brought_to_where_that_of_the_usual_window_is() -> None:
    tissue = np.linspace(-0.65, -0.45, 101, dtype=np.float32)
    values = np.concatenate([np.full(50, -1, np.float32), tissue, np.ones(5, np.float32)])
    bright = brightened(values)
    assert np.median(bright[bright > TISSUE_FLOOR]) == pytest.approx(TISSUE_LEVEL, abs=0.03)
    assert (bright[:50] == -1).all()
    assert bright.max() == 1
    assert (np.diff(bright) >= 0).all()


@pytest.mark.parametrize("level", [-0.17, 0.4])
def test_tissue_that_is_bright_enough_stays(level: float) -> None:
    values = np.full(9, level, np.float32)
    np.testing.assert_allclose(brightened(values), values, atol=1e-6)


def test_an_image_without_tissue_stays() -> None:
    air = np.full(9, -0.9, np.float32)
    np.testing.assert_allclose(brightened(air), air, atol=1e-6)


@given(seed=st.integers(0, 99))
def test_brightness_is_stretched_within_bounds(seed: int) -> None:
    values = np.random.default_rng(seed).uniform(-1, 1, 64).astype(np.float32)
    bright = brightened(values)
    assert bright.min() >= -1
    assert bright.max() <= 1
    assert (bright >= values - 1e-6).all()
