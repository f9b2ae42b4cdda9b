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
from latentseg.imaging.intensity import TISSUE_FLOOR, TISSUE_LEVEL, brightened, is_windowed, padding_of


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


def scan_of(low: int, high: int) -> Any:
    """Values of a body with a dark background inside the field of view."""
    values = np.random.default_rng(0).gamma(1.2, (high - low) / 6, (40, 36, 8))
    return np.clip(values + low, low, high).round()


def corners(shape: tuple[int, ...] = (40, 36, 8)) -> Any:
    i, j, _ = np.indices(shape)
    return np.hypot(i - 19.5, j - 17.5) > 20


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        *((value, dtype) for value in (-1024, -2000, -32768) for dtype in (np.int16, np.float32)),
        *((value, dtype) for value in (65535,) for dtype in (np.uint16, np.float64)),
        (-3.4e38, np.float32),
        (32767, np.int16),
    ],
)
def test_a_constant_border_of_a_resampled_mr_is_no_picture(value: float, dtype: Any) -> None:
    outside, picture = corners(), scan_of(0, 1200)
    padded = np.where(outside, value, picture).astype(dtype)
    plain = np.where(outside, 0, picture).astype(np.float32)
    np.testing.assert_array_equal(padding_of(padded), outside)
    assert guess_modality(padded) == guess_modality(plain) == "MR"
    for modality in ("MR", "unknown"):
        out = normalize(padded, modality=modality)  # type: ignore[arg-type]
        np.testing.assert_array_equal(out, normalize(plain, modality="MR"))
        assert (out[outside] == -1).all()


@pytest.mark.parametrize("side", [0, 1, 2])
def test_a_border_on_one_side_is_found(side: int) -> None:
    picture = scan_of(0, 1200)
    outside = np.zeros(picture.shape, bool)
    np.moveaxis(outside, side, 0)[:2] = True
    for value in (-1024, 65535):
        np.testing.assert_array_equal(padding_of(np.where(outside, value, picture)), outside)


def test_the_largest_number_of_16_bits_is_padding_beside_bright_tissue() -> None:
    picture = scan_of(0, 60000)
    np.testing.assert_array_equal(padding_of(np.where(corners(), 65535, picture)), corners())


def test_what_interpolation_mixes_with_padding_is_padding() -> None:
    from scipy import ndimage

    outside, picture = corners(), scan_of(0, 1200)
    padded = np.where(outside, -1024.0, picture)
    edge = (
        ndimage.binary_dilation(outside, iterations=1)
        & ~outside
        & (np.random.default_rng(0).random(outside.shape) < 0.1)
    )
    padded[edge] = -400.5
    found = padding_of(padded)
    np.testing.assert_array_equal(found, outside | edge)
    assert guess_modality(padded) == "MR"


@pytest.mark.parametrize("value", [-1000, -1024, -2000, -3024])
def test_a_constant_border_of_a_ct_stays_air(value: int) -> None:
    rng = np.random.default_rng(0)
    body = rng.choice(
        [-900, -100, -80, 20, 60, 300, 900], (40, 36, 8), p=[0.1, 0.2, 0.1, 0.3, 0.2, 0.05, 0.05]
    )
    padded = np.where(corners(), value, body)
    assert guess_modality(padded) == "CT"
    np.testing.assert_array_equal(
        normalize(padded, modality="CT"), normalize(np.where(corners(), -1000, body), modality="CT")
    )


def test_a_brain_cut_out_of_a_ct_stays_a_ct() -> None:
    brain = np.random.default_rng(0).normal(35, 8, (40, 36, 8)).round()
    assert guess_modality(np.where(corners(), -1024, brain)) == "CT"


def test_padding_above_all_hounsfield_units_is_air() -> None:
    body = np.random.default_rng(0).integers(-1000, 1200, (40, 36, 8))
    out = normalize(np.where(corners(), 64511, body), modality="CT")
    assert (out[corners()] == -1).all()
    assert guess_modality(np.where(corners(), 64511, body)) == "CT"


def test_padding_does_not_hide_a_window() -> None:
    stored = np.random.default_rng(0).integers(0, 256, (40, 36, 8))
    assert is_windowed(np.where(corners(), -32768, stored))
    assert not is_windowed(stored - 1000)


@pytest.mark.parametrize(
    "make",
    [
        lambda picture: picture,  # a background of noise
        lambda picture: np.where(corners(), 0, picture),  # a background of 0
        lambda picture: np.where(corners(), picture.max(), picture),  # a white border
        lambda picture: (picture > 600).astype(float),  # two values
        lambda picture: np.where(picture > 1000, 3000, picture),  # bright, but not at the border
        lambda picture: picture - 600,  # both signs
        lambda picture: np.full_like(picture, -1024),
    ],
)
def test_pictures_without_padding(make: Any) -> None:
    assert padding_of(make(np.minimum(scan_of(0, 1200), 1100))) is None


def test_one_dark_voxel_is_no_padding() -> None:
    picture = scan_of(0, 1200)
    picture[0, 0, 0] = -1024
    assert padding_of(picture) is None


def test_a_mask_holds_no_voxel_of_a_border() -> None:
    from latentseg.imaging import Volume
    from latentseg.methods.results import Segmentation

    scan = Volume(np.where(corners(), -1024, scan_of(0, 1200)), np.eye(4), modality="MR")
    everywhere = np.ones(scan.shape, bool)
    found = Segmentation("liver", scan, everywhere, everywhere.astype(np.float32), 1.0)
    np.testing.assert_array_equal(found.mask, ~corners())


@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_the_whole_range_of_a_scan_whatever_its_modality(modality: Any) -> None:
    values = np.array([-200, -100, 0, 600], np.int16)
    found = normalize(values, modality=modality, whole_range=True)
    np.testing.assert_allclose(found, [-1, -0.75, -0.5, 1], atol=1e-6)
