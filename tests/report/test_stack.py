"""Slices to be scrolled: how many, which ones, and that they can be taken apart again."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentseg.report.stack import (
    COLUMNS,
    CT_LEVELS,
    FEWEST,
    GREY_BYTES,
    RESULT_BYTES,
    TILE,
    Room,
    chosen_slices,
    grey_sheet,
    heat_sheet,
    mask_sheet,
    tile_size,
)


@given(
    results=st.lists(st.integers(0, 400), max_size=900),
    most=st.integers(0, 60),
    page_bytes=st.integers(0, 60_000_000),
)
def test_a_page_has_a_size(results: list[int], most: int, page_bytes: int) -> None:
    shares = Room(most, page_bytes).shares(f"case {number}" for number in results)
    costs = {f"case {n}": GREY_BYTES + RESULT_BYTES * results.count(n) for n in dict.fromkeys(results)}
    assert sum(share * costs[scan] for scan, share in shares.items()) <= page_bytes
    assert all(min(FEWEST, most) <= share <= most for share in shares.values())
    assert list(shares) == list(costs)[: len(shares)]
    if most and most * sum(costs.values()) <= page_bytes:
        assert shares == dict.fromkeys(costs, most)


@given(st.data())
def test_which_slices(data: st.DataObject) -> None:
    held = np.array(data.draw(st.lists(st.booleans(), min_size=1, max_size=200)))
    must = set(data.draw(st.lists(st.integers(0, len(held) - 1), max_size=4)))
    most = data.draw(st.integers(len(must) + 1, 60))
    chosen = chosen_slices(held, must, most=most)
    assert chosen == sorted(set(chosen))
    assert must <= set(chosen)
    assert 0 < len(chosen) <= most
    assert 0 <= chosen[0] <= chosen[-1] < len(held)


def test_slices_beyond_what_was_found() -> None:
    held = np.zeros(300, bool)
    held[100:200] = True
    chosen = chosen_slices(held, {7}, most=30)
    assert chosen[0] == 7
    assert (chosen[1], chosen[-1]) == (85, 214)
    assert max(np.diff(chosen[1:])) <= 5
    assert chosen_slices(np.zeros(5, bool), set(), most=40) == [0, 1, 2, 3, 4]


def test_true_proportions() -> None:
    assert tile_size((100, 50), (1.0, 1.0)) == (TILE // 2, TILE)
    assert tile_size((10, 100), (5.0, 1.0)) == (TILE, TILE // 2)
    assert tile_size((1, 500), (1.0, 1.0)) == (TILE, 4)


def tiles_of(sheet: bytes, size: tuple[int, int], count: int) -> np.ndarray:
    picture = np.asarray(Image.open(io.BytesIO(sheet)).convert("L"), float)
    places = [divmod(number, COLUMNS) for number in range(count)]
    return np.stack(
        [picture[r * size[1] : (r + 1) * size[1], c * size[0] : (c + 1) * size[0]] for r, c in places]
    )


def test_intensities_come_back() -> None:
    """As the script of the page brings greys back to HU."""
    values = np.linspace(-1000, 1000, 11)
    slices = np.broadcast_to(values[:, None, None], (11, 20, 30))
    tiles = tiles_of(grey_sheet(slices, CT_LEVELS, (60, 40)), (60, 40), 11)
    hu, greys = zip(*CT_LEVELS, strict=True)
    found = np.interp(tiles[:, 10:30, 10:50].mean((1, 2)), greys, hu)
    soft = (values >= -200) & (values <= 300)
    assert found[soft] == pytest.approx(values[soft], abs=4)
    assert found == pytest.approx(values, abs=40)


def test_masks_and_probabilities_come_back() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((9, 20, 30)) > 0.5
    assert (tiles_of(mask_sheet(masks, (30, 20)), (30, 20), 9) > 127).tolist() == masks.tolist()
    chances = rng.random((9, 20, 30)).astype(np.float32)
    chances[0, 0, 0] = np.nan
    tiles = tiles_of(heat_sheet(chances, (30, 20)), (30, 20), 9)
    assert tiles / 255 == pytest.approx(np.nan_to_num(chances), abs=0.51 / 15)
    picture = Image.open(io.BytesIO(mask_sheet(masks, (30, 20))))
    assert picture.mode == "1"
