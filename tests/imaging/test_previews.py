"""Pictures: size, place and color of what is drawn."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from latentseg.errors import GeometryError
from latentseg.imaging.previews import PREDICTION, TRUTH, Canvas, Layer, heatmap, key_slices, montage, overlay

PLAIN = Canvas(height=128, side_marks=False)
BLACK = np.full((32, 32), -1.0, np.float32)


def pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def colored(picture: np.ndarray) -> np.ndarray:
    """Where the picture is not grey."""
    return np.ptp(picture, axis=-1) > 30


@pytest.mark.parametrize("style", ["contour", "fill", "both"])
def test_a_mask_in_a_corner_appears_in_that_corner(style: str) -> None:
    mask = np.zeros((32, 32), bool)
    mask[2:10, 20:30] = True  # anterior, on the patient's left: upper right of the picture
    drawn = colored(pixels(overlay(BLACK, layers=[Layer(mask, TRUTH, style)], canvas=PLAIN)))  # type: ignore[arg-type]
    rows, columns = np.nonzero(drawn)
    assert rows.min() == pytest.approx(2 * 4, abs=2)
    assert rows.max() == pytest.approx(10 * 4, abs=2)
    assert columns.min() == pytest.approx(20 * 4, abs=2)
    assert columns.max() == pytest.approx(30 * 4, abs=2)


def test_a_contour_leaves_the_inside_free_and_a_fill_does_not() -> None:
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    contour = pixels(overlay(BLACK, layers=[Layer(mask, TRUTH, "contour")], canvas=PLAIN))
    fill = pixels(overlay(BLACK, layers=[Layer(mask, TRUTH, "fill")], canvas=PLAIN))
    assert contour[64, 64].tolist() == [0, 0, 0]
    assert fill[64, 64, 2] > fill[64, 64, 0] + 40
    on_the_line = contour[31:34, 64].max(axis=0)
    assert on_the_line == pytest.approx(TRUTH, abs=40)


def test_a_mask_at_the_frame_is_closed() -> None:
    drawn = colored(pixels(overlay(BLACK, layers=[Layer(np.ones((32, 32)), PREDICTION)], canvas=PLAIN)))
    assert drawn[0].any()
    assert drawn[-1].any()
    assert drawn[:, 0].any()
    assert drawn[:, -1].any()


def test_an_empty_mask_draws_nothing() -> None:
    assert not colored(pixels(overlay(BLACK, layers=[Layer(np.zeros((32, 32)))], canvas=PLAIN))).any()


def test_the_image_keeps_its_place_and_brightness() -> None:
    image = BLACK.copy()
    image[0:16, 0:16] = 1
    picture = pixels(overlay(image, canvas=PLAIN))
    assert picture[20, 20].tolist() == [255, 255, 255]
    assert picture[20, 100].tolist() == picture[100, 20].tolist() == [0, 0, 0]


def test_aspect_ratio_follows_the_spacing() -> None:
    picture = pixels(overlay(np.zeros((40, 20)), canvas=Canvas(height=100, spacing_mm=(1.0, 3.0))))
    assert picture.shape == (100, 150, 3)


def test_automatic_window_of_raw_values() -> None:
    ramp = np.linspace(-900, 1200, 32 * 32).reshape(32, 32)
    picture = pixels(overlay(ramp, canvas=Canvas(height=64, window=None, side_marks=False)))
    assert picture[0, 0].max() < 15
    assert picture[-1, -1].min() > 240


def test_caption_and_side_mark_are_drawn() -> None:
    picture = pixels(overlay(BLACK, canvas=Canvas(height=160, caption="slice 3")))
    assert picture[130:, :80].max() > 180
    assert picture[60:100, :20].max() > 150
    assert picture[:50].max() == 0


def test_heatmap_is_hot_where_the_probability_is_high() -> None:
    chance = np.zeros((32, 32))
    chance[20:30, 2:12] = 1
    picture = pixels(heatmap(BLACK, probability=chance, canvas=PLAIN))
    assert picture[100, 28].min() > 80
    assert picture[20, 100].max() == 0


def test_montage_has_a_cell_for_each_picture() -> None:
    one = overlay(BLACK, canvas=Canvas(height=50))
    assert pixels(montage([one] * 5, columns=3, gap=10)).shape == (110, 170, 3)
    with pytest.raises(GeometryError, match="no picture"):
        montage([], columns=2)


def test_key_slices() -> None:
    mask = np.zeros((20, 4, 4), bool)
    mask[6:12] = True
    assert key_slices(mask) == [7, 9, 11]
    assert key_slices(mask, count=1) == [9]
    assert key_slices(np.zeros((4, 2, 2)), count=1) == [2]
    mask[:] = False
    mask[5] = True
    assert key_slices(mask) == [5]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match=r"expected a slice"):
        overlay(np.zeros((3, 4, 5)))
    with pytest.raises(GeometryError, match=r"\(4, 4\).*\(32, 32\)"):
        overlay(BLACK, layers=[Layer(np.zeros((4, 4)))])
    with pytest.raises(GeometryError, match=r"\(4, 4\)"):
        heatmap(BLACK, probability=np.zeros((4, 4)))
