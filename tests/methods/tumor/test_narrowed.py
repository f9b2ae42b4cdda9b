"""Pictures of a CT in which air is grey are brought to the window of soft tissue."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.methods.tumor.body_crop import narrowed


def in_window(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    return (2 * (hu - low) / (high - low) - 1).clip(-1, 1).astype(np.float32)


def test_a_window_for_lungs_becomes_that_of_soft_tissue() -> None:
    """A chest of lungs and air around it (-850 and -1000 HU), fat and muscle, as many of either."""
    hu = np.full((1, 40, 40), -1000.0)
    hu[0, 8:32, 4:36] = 40
    hu[0, 8:32, 4:8] = -100
    hu[0, 14:26, 12:28] = -850
    found = narrowed(in_window(hu, -1350, 150))
    expected = in_window(hu, -125, 275)
    assert np.abs(found - expected).max() < 0.2
    assert found[hu == -850].max() == -1
    assert found[hu == -100].mean() < found[hu == 40].mean() - 0.5


@pytest.mark.parametrize("fill", [-1.0, -0.5])
def test_pictures_in_which_air_is_black_stay_as_they_are(fill: float) -> None:
    picture = np.full((1, 16, 16), -1.0, np.float32)
    picture[0, 4:12, 4:12] = 0.1
    picture[0, 6:8, 6:8] = fill
    assert narrowed(picture) is picture


def test_a_fat_abdomen_stays_as_it_is() -> None:
    """Most of what is dark is fat and not air: 40 rows of air, 60 of fat (-100 HU), 40 of muscle."""
    hu = np.full((1, 140, 40), -1000.0)
    hu[0, 40:100], hu[0, 100:] = -100, 40
    picture = in_window(hu, -125, 275)
    assert np.median(picture[picture < 0]) > -0.9
    assert narrowed(picture) is picture
