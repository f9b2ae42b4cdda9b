"""A scan is drawn in the window that shows what was looked for."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.imaging import Volume
from latentseg.imaging.windows import BONE, LUNG, SOFT_TISSUE, display_windows, in_hounsfield


@pytest.fixture
def chest() -> Volume:
    """Soft tissue in air, with a lung that holds a nodule."""
    array = np.full((64, 64, 4), -1000, np.int16)
    array[8:56, 8:56] = 40
    array[16:48, 16:48] = -850
    array[30:34, 30:34, 2] = 30
    return Volume(array, np.eye(4), "CT")


def box(volume: Volume, *place: slice) -> np.ndarray:
    mask = np.zeros(volume.shape, bool)
    mask[place] = True
    return mask


def test_lungs_are_shown_in_the_lung_window(chest: Volume) -> None:
    assert display_windows(chest)[0] is SOFT_TISSUE
    for name in ("lung tumor", "left_lung", "Lungs", "pulmonary nodule", "NSCLC"):
        assert display_windows(chest, target=name)[0] is LUNG
    for name in ("liver", "lunge", "plunging ranula"):
        assert display_windows(chest, target=name)[0] is SOFT_TISSUE
    windows = display_windows(chest, target="lung")
    assert len(set(windows)) == len(windows) == 4
    assert BONE in windows


def test_what_lies_in_a_lung_is_shown_so_too(chest: Volume) -> None:
    lung = box(chest, slice(16, 48), slice(16, 48))
    nodule = box(chest, slice(30, 34), slice(30, 34), slice(2, 3))
    for mask in (lung, nodule):
        assert display_windows(chest, target="x", mask=mask)[0] is LUNG
    body = box(chest, slice(0, 4), slice(20, 40))  # in the air around the body
    muscle = box(chest, slice(9, 12), slice(20, 40))
    for mask in (body, muscle, box(chest, slice(0, 0))):
        assert display_windows(chest, target="x", mask=mask)[0] is SOFT_TISSUE


def test_all_else_spans_its_own_range() -> None:
    array = np.arange(2000, dtype=np.float32).reshape(20, 20, 5)
    (window,) = display_windows(Volume(array, np.eye(4), "MR"), target="lung")
    assert (window.low, window.high) == pytest.approx((10.99, 1989.0), abs=0.1)
    array[0, 0, 0] = np.nan
    (again,) = display_windows(Volume(array, np.eye(4), "unknown"))
    assert again == window
    eight_bit = Volume(np.nan_to_num(array).clip(0, 255), np.eye(4), "CT")
    assert not in_hounsfield(eight_bit)
    assert display_windows(eight_bit, target="lung")[0].name == "whole range"
    (nothing,) = display_windows(Volume(np.zeros((4, 4, 1)), np.eye(4), "MR"))
    assert nothing.high > nothing.low


def test_padding_does_not_count() -> None:
    array = np.full((20, 20, 5), -2000, np.float32)
    array[4:-4, 4:-4] = np.linspace(100, 200, 12 * 12 * 5).reshape(12, 12, 5)
    (window,) = display_windows(Volume(array, np.eye(4), "MR"))
    assert (window.low, window.high) == pytest.approx((100.5, 199.5), abs=0.1)
