"""Orientation from the picture: turns, the same answer for all 48 ways to store a scan, and words."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers.bodies import random_network, stored_as
from latentseg.errors import LatentsegWarning
from latentseg.imaging import Volume, read, to_canonical, write_like
from latentseg.imaging import orientation as orientation_module
from latentseg.imaging.affine import axis_codes_of
from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import PICTURE, BodyNetwork, Reading
from latentseg.imaging.orientation import (
    BODY_MM,
    CODES,
    TURNS,
    OrientationCheck,
    check_orientation,
    evidence_of,
    opposite,
    spacing_of_slice,
    turn_after,
    warn_of_orientation,
    what_is_wrong,
    with_found_orientation,
)


def test_there_are_48_codes_and_24_turns() -> None:
    assert len(set(CODES)) == 48
    assert len(set(TURNS)) == 24
    assert [opposite(code) for code in "LRPAIS"] == list("RLAPSI")


@given(st.sampled_from(TURNS), *[st.booleans()] * 3)
def test_a_turn_is_what_the_pixels_do(turn: str, transpose: bool, rows: bool, columns: bool) -> None:
    """A picture of ramps along its own directions says after turning where these run."""
    directions = dict.fromkeys("LRPAIS", 0.0)
    ramp = np.zeros((3, 3))
    for axis, code in enumerate(turn):
        step = np.arange(3) * (1.0 if axis == 0 else 10.0)
        ramp += step[:, None] if axis == 0 else step[None]
        directions[code], directions[opposite(code)] = (1.0, -1.0) if axis == 0 else (10.0, -10.0)
    seen = ramp.T if transpose else ramp
    seen = seen[::-1] if rows else seen
    seen = seen[:, ::-1] if columns else seen
    after = turn_after(turn, transpose, rows, columns)
    assert seen[1, 0] - seen[0, 0] == directions[after[0]]
    assert seen[0, 1] - seen[0, 0] == directions[after[1]]


@given(st.sampled_from(CODES), st.integers(0, 3))
def test_the_answer_does_not_depend_on_how_a_scan_is_stored(codes: str, seed: int) -> None:
    network = random_network(seed)
    canonical = np.random.default_rng(seed).uniform(-1, 1, (20, 24, 22)).astype(np.float32)
    plain = dict(zip(CODES, evidence_of(Cells.from_values(canonical), network), strict=True))
    stored = stored_as(canonical, codes)
    there = dict(zip(CODES, evidence_of(Cells.from_values(stored), network), strict=True))
    assert there[codes] == pytest.approx(plain["SPL"], abs=2e-3)


def test_a_scan_too_small_for_any_picture_keeps_its_header() -> None:
    volume = Volume(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    check = check_orientation(volume, network=random_network(0))
    assert check.found == check.stated == "RAS"
    assert check.warning() is None


def certain(stated: str, found: str, confidence: float = 0.998) -> OrientationCheck:
    rest = (1 - confidence) / 47
    return OrientationCheck(stated, {codes: confidence if codes == found else rest for codes in CODES})


def test_a_right_header_is_not_spoken_of() -> None:
    check = certain("LPS", "LPS")
    assert not check.is_wrong
    assert check.mended is None
    assert check.warning() is None


def test_the_warning_says_what_is_wrong_and_how_sure_it_is() -> None:
    check = certain("LPS", "LAS")
    assert check.mended == "LAS"
    assert check.warning() == (
        "the header says that the axes run LPS, the picture says LAS (99.8 % sure): "
        "front and back are swapped"
    )


def test_where_several_are_likely_none_is_chosen() -> None:
    shares = dict.fromkeys(CODES, 0.0) | {"LAS": 0.5, "RAS": 0.48, "LPS": 0.02}
    check = OrientationCheck("LPS", shares)
    assert check.is_wrong
    assert check.mended is None
    assert str(check.warning()).endswith("(98 % sure); it may be LAS or RAS")


def test_a_sure_picture_is_never_surer_than_it_can_be() -> None:
    assert "(99.9 % sure)" in str(certain("LPS", "LAS", 1.0).warning())


@pytest.mark.parametrize(
    ("stated", "found", "words"),
    [
        ("LPS", "RPS", "left and right are swapped"),
        ("LPS", "RAS", "left and right and front and back are swapped"),
        ("LPS", "LPI", "head and feet are swapped"),
        ("LPS", "SPL", "its axes are in another order"),
    ],
)
def test_what_is_wrong_in_words(stated: str, found: str, words: str) -> None:
    assert what_is_wrong(stated, found) == words


def test_a_mended_scan_keeps_its_grid_and_its_file_geometry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orientation_module, "check_orientation", lambda _: certain("RAS", "RPI"))
    array = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    source = write_like(array, like=Volume(array, affine), path=tmp_path / "a.nii.gz", kind="image")
    with pytest.warns(LatentsegWarning, match=r"a\.nii\.gz: the header says .* RAS, the picture says RPI"):
        mended = read(source, orientation="auto")
    assert mended.orientation == "RPI"
    assert axis_codes_of(mended.affine_ras_mm) == "RAS"
    plain = to_canonical(read(source))
    slices = to_canonical(mended)
    assert np.array_equal(slices.slices, plain.slices[::-1, ::-1])
    mask = slices.restore(slices.slices > 100)
    assert np.array_equal(mask, array > 100)
    written = read(write_like(mask, like=mended, path=tmp_path / "mask.nii.gz"))
    assert np.array_equal(written.affine_ras_mm, affine)
    assert np.array_equal(written.array > 0, array > 100)


def test_auto_follows_the_header_where_the_picture_is_not_clear(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = dict.fromkeys(CODES, 0.0) | {"LAS": 0.5, "RPS": 0.5}
    monkeypatch.setattr(orientation_module, "check_orientation", lambda _: OrientationCheck("RAS", shares))
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    with pytest.warns(LatentsegWarning, match="The header is followed"):
        assert with_found_orientation(volume) is volume


def test_the_warning_names_the_option_that_mends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orientation_module, "check_orientation", lambda _: certain("RAS", "RPS"))
    volume = Volume(np.zeros((2, 2, 2), np.int16), np.eye(4))
    with pytest.warns(LatentsegWarning, match=r"Give --orientation auto, or RPS$"):
        warn_of_orientation(volume)


def test_a_constant_image_is_left_to_who_works_on_it(recwarn: pytest.WarningsRecorder) -> None:
    warn_of_orientation(Volume(np.zeros((9, 9, 9), np.int16), np.eye(4)))
    assert not recwarn.list


class SpineBelow:
    """Takes a picture for axial, and for the more upright the lower its brightest cell lies."""

    def __call__(self, pictures: np.ndarray) -> Reading:
        lowest = pictures.reshape(len(pictures), -1).argmax(1) // PICTURE
        planes = np.full((len(pictures), 3), -9999.0)
        planes[:, 0] = 10.0 * lowest
        none = np.zeros(len(pictures), np.float32)
        return Reading(planes.astype(np.float32), none, none + 100)


def picture(folder: Path, pixels: np.ndarray) -> Volume:
    path = folder / "slice.png"
    Image.fromarray(pixels).save(path)
    return read(path)


def a_slice() -> np.ndarray:
    """A body of 120 x 160 pixels with a spine at its lower border, rows running to the back."""
    pixels = np.random.default_rng(0).normal(10, 3, (200, 240))
    pixels[40:160, 40:200] += 90
    pixels[130:155, 110:130] += 120
    return pixels.clip(0, 255).astype(np.uint8)


def test_a_slice_on_its_head_is_noticed_though_nobody_says_how_it_runs(tmp_path: Path) -> None:
    network = cast("BodyNetwork", SpineBelow())
    assert check_orientation(picture(tmp_path, a_slice()), network=network).warning() is None
    check = check_orientation(picture(tmp_path, a_slice()[::-1].copy()), network=network)
    assert check.mended in {"LAS", "RAS"}
    assert "pictures carry no orientation and are taken to run LPS, but" in str(check.warning())
    assert str(check.warning()).endswith(f"most likely {check.mended}")


@pytest.mark.parametrize("times", [1, 3])
def test_the_body_of_a_slice_has_the_size_of_a_body(tmp_path: Path, times: int) -> None:
    pixels = a_slice().repeat(times, 0).repeat(times, 1)
    spacing_mm = spacing_of_slice(picture(tmp_path, pixels))
    assert spacing_mm[0] * 160 * times == pytest.approx(BODY_MM, rel=0.06)


def test_every_way_to_store_a_scan_is_covered() -> None:
    canonical = np.arange(24).reshape(2, 3, 4)
    stored = {stored_as(canonical, codes).tobytes() for codes in CODES}
    assert len(stored) == 48
    assert len(list(product(permutations(range(3)), product((0, 1), repeat=3)))) == 48


def test_weights_ship_with_the_package() -> None:
    from latentseg.imaging.body_network import embedded_network

    assert isinstance(embedded_network(), BodyNetwork)
