"""The field of view is the body: found by hand-made slices, and undone exactly."""

from __future__ import annotations

import numpy as np

from latentseg.imaging.intensity import scan_noise
from latentseg.methods.tumor.body_crop import QUIET, body_box, body_field, denoised


def scan(shape: tuple[int, int] = (120, 100)) -> np.ndarray:
    """An ellipse at 0 in air, with a black lung in it, and a thin table below."""
    rows, columns = np.indices(shape)
    body = ((rows - 50) / 30) ** 2 + ((columns - 40) / 25) ** 2 < 1
    lung = ((rows - 50) / 12) ** 2 + ((columns - 40) / 8) ** 2 < 1
    image = np.where(body & ~lung, 0.0, -1.0)
    image[100:102] = 0.5
    return np.repeat(image[None].astype(np.float32), 2, 0)


def test_the_box_holds_the_body_and_not_the_table() -> None:
    rows, columns = body_box(scan())
    assert 10 <= rows.start <= 20
    assert 80 <= rows.stop <= 86
    assert 8 <= columns.start <= 15
    assert 65 <= columns.stop <= 70


def test_all_large_pieces_belong_to_it() -> None:
    two = np.full((1, 100, 100), -1, np.float32)
    two[0, 10:40, 10:40] = two[0, 10:40, 70:90] = 0.2
    _, columns = body_box(two)
    assert columns.start <= 10
    assert columns.stop >= 90


def test_without_a_body_all_is_seen() -> None:
    for empty in (np.full((2, 50, 60), -1, np.float32), np.zeros((2, 50, 60), np.float32)):
        assert body_box(empty) == (slice(0, 50), slice(0, 60))
    speck = np.full((1, 100, 100), -1, np.float32)
    speck[0, 40:50, 40:50] = 0
    assert body_box(speck) == (slice(0, 100), slice(0, 100))


def test_undo_puts_masks_back_where_they_were() -> None:
    slices = scan()
    fitted, undo, _ = body_field(slices, 128, pixel_mm=(1.0, 1.0))
    assert fitted.shape == (2, 128, 128)
    back = undo((fitted > -0.5).astype(np.float32)) > 0.5
    assert back.shape == slices.shape
    rows, columns = body_box(slices)
    assert (back[:, rows, columns] == (slices > -0.5)[:, rows, columns]).mean() > 0.95
    assert not back[:, 90:].any()


def test_a_body_in_pieces_is_one() -> None:
    chest = np.full((1, 128, 128), -1, np.float32)
    chest[0, 50:80, 50:80] = 0  # heart
    for row, column in ((25, 15), (40, 8), (55, 6), (70, 8), (85, 15)):
        chest[0, row : row + 11, column : column + 10] = 1  # ribs; fat and lungs are black
        chest[0, row : row + 11, 118 - column : 128 - column] = 1
    _, columns = body_box(chest)
    assert columns.start <= 6
    assert columns.stop >= 122


def test_noise_is_brought_down_and_quiet_scans_are_as_they_were() -> None:
    rows, columns = np.indices((128, 128))
    body = np.where(np.hypot(rows - 64, columns - 64) < 50, 0.0, -1.0)[None].repeat(3, 0).astype(np.float32)
    rng = np.random.default_rng(0)
    loud = (body + rng.normal(0, 0.2, body.shape)).astype(np.float32)
    calm = denoised(loud)
    assert scan_noise(loud[1]) > 0.15
    assert all(scan_noise(one) <= QUIET for one in calm)
    assert np.abs(calm - body)[:, 40:88, 40:88].mean() < 0.06
    quiet = (body + rng.normal(0, 0.02, body.shape)).astype(np.float32)
    assert np.array_equal(denoised(quiet), quiet)
