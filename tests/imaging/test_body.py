"""Where in the body: the line through the readings, parts by name, and damaged weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.bodies import random_network
from latentseg.errors import InputError, ModelError
from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.body import PARTS, BodyPosition, fit_line, locate, part_at
from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import CELL_MM, PICTURE, BodyNetwork, load_network


def position(low: float, high: float, count: int = 20) -> BodyPosition:
    height = np.linspace(low, high, count, dtype=np.float32)
    return BodyPosition(height, height, np.full(count, 10, np.float32), 10.0)


def test_parts_are_named_from_below() -> None:
    assert [part_at(height) for height in (-900, -200, 0, 150, 250, 360, 500)] == [name for name, _ in PARTS]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(-300, 150, "pelvis to lower chest"), (-80, 60, "abdomen"), (-600, -400, "legs"), (450, 600, "head")],
)
def test_what_a_scan_shows_in_words(low: float, high: float, words: str) -> None:
    assert position(low, high).describe() == words


def test_a_scan_unlike_all_that_was_learned_is_not_clear() -> None:
    height = np.zeros(9, np.float32)
    unclear = BodyPosition(height, height, np.full(9, 120, np.float32), 60.0)
    assert not unclear.is_clear
    assert unclear.describe() == "not clear"


def test_slices_between_two_heights_may_be_none() -> None:
    shown = position(-100, 100, 21)
    assert shown.slices_between(-35, 35).sum() == 7
    assert not shown.slices_between(200, 300).any()


@given(st.floats(0.85, 1.2), st.floats(-400, 400), st.integers(0, 5))
def test_a_line_survives_slices_that_read_nonsense(slope: float, offset: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    along = np.arange(0, 400, 5, dtype=np.float32)
    read = (slope * along + offset + rng.normal(0, 8, len(along))).astype(np.float32)
    read[rng.choice(len(along), 12, replace=False)] += 300
    line, error = fit_line(along, read, np.full(len(along), 10, np.float32))
    assert np.abs(line - slope * along - offset).max() < 25
    assert error > 20


def test_a_short_scan_is_taken_for_an_average_adult() -> None:
    along = np.arange(0, 20, 5, dtype=np.float32)
    line, _ = fit_line(along, np.array([40, 10, 60, 30], np.float32), np.full(4, 10, np.float32))
    assert 0.8 <= (line[-1] - line[0]) / 15 <= 1.25


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SPL"])
def test_heights_belong_to_the_canonical_slices(codes: str) -> None:
    array = np.random.default_rng(0).integers(0, 900, (30, 24, 12)).astype(np.int16)
    volume = Volume(array, np.diag([4.0, 4.0, 9.0, 1.0]), modality="MR", orientation=codes)
    found = locate(volume, network=random_network(1))
    slices = len(to_canonical(volume).slices)
    assert found.height_mm.shape == found.read_mm.shape == found.spread_mm.shape == (slices,)
    assert (np.diff(found.height_mm) > 0).all()
    assert np.isfinite(found.error_mm)


def test_a_constant_image_says_nothing_and_values_that_are_no_numbers_are_refused() -> None:
    array = np.zeros((8, 8, 8), np.float32)
    assert np.ptp(locate(Volume(array, np.eye(4)), network=random_network(0)).read_mm) == 0
    array[1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        locate(Volume(array, np.eye(4)), network=random_network(0))


@given(st.tuples(*[st.integers(1, 40)] * 3), st.tuples(*[st.floats(0.4, 12)] * 3))
def test_cells_cover_a_scan_from_edge_to_edge(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.int16)
    array.flat[0] = -7
    cells = Cells.of(np.concatenate([array, array + 1]), spacing, modality="MR")
    size = (2 * shape[0], *shape[1:])
    assert cells.values.shape == tuple(
        max(1, round(n * mm / CELL_MM)) for n, mm in zip(size, spacing, strict=True)
    )
    assert [round(float(mass.sum()), 3) for mass in cells.mass] == [1, 1, 1]
    assert cells.pictures(0, [0]).shape == (1, PICTURE, PICTURE)


def test_a_body_larger_than_a_picture_is_cut_around_its_middle() -> None:
    values = np.full((3, 100, 20), -1, np.float32)
    values[:, 70:80] = 1
    picture = Cells.from_values(values).pictures(0, [1])[0]
    rows = np.nonzero((picture > 0).any(1))[0]
    assert (rows[0] + rows[-1]) / 2 == pytest.approx(PICTURE / 2, abs=4)


def test_weights_without_a_tensor_are_refused() -> None:
    with pytest.raises(ModelError, match="no tensor 'conv0"):
        BodyNetwork({})


def test_damaged_weights_name_the_file(tmp_path: Path) -> None:
    damaged = tmp_path / "body.safetensors"
    damaged.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"cannot be read .*body\.safetensors"):
        load_network(damaged)
    with pytest.raises(ModelError, match="cannot be read"):
        load_network(tmp_path / "missing.safetensors")
