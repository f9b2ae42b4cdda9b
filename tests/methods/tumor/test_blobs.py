"""What is wide enough for a ball is a candidate, at the wall of a lung as well, and a vessel is none."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.methods.tumor.blobs import blobs

STEP, ROW, COLUMN = 2.5, 1.0, 1.0
LEVELS, ROWS, COLUMNS = np.indices((16, 60, 90)) * np.array((STEP, ROW, COLUMN))[:, None, None, None]
BALL = np.sqrt((LEVELS - 20) ** 2 + (ROWS - 8) ** 2 + (COLUMNS - 30) ** 2) <= 9
VESSEL = np.hypot(ROWS - 30, COLUMNS - 60) <= 2
FIELD = ROWS >= 2


def found(grey: float) -> list[NDArray[np.bool_]]:
    images = np.where(BALL, grey, np.where(VESSEL | ~FIELD, 0.4, -0.8)).astype(np.float32)
    masks = []
    for box, mask in blobs(images, FIELD, (STEP, ROW, COLUMN)):
        masks.append(np.zeros(images.shape, bool))
        masks[-1][box] = mask
    return masks


@pytest.mark.parametrize(("grey", "count"), [(0.4, 4), (-0.4, 2)])
def test_a_ball_at_the_wall_is_found_solid_or_not_and_a_vessel_is_not(grey: float, count: int) -> None:
    masks = found(grey)
    assert len(masks) == count, "by the greys of tissue and of ground glass, with balls of two radii"
    truth = BALL & FIELD
    for mask in masks:
        assert 2 * (mask & truth).sum() > 0.85 * (mask.sum() + truth.sum())
        assert not (mask & (VESSEL | ~FIELD)).any()


def test_no_part_goes_on_along_a_vessel_that_a_tumor_touches() -> None:
    thick = np.hypot(ROWS - 20, LEVELS - 20) <= 5
    tumor = np.sqrt((LEVELS - 20) ** 2 + (ROWS - 20) ** 2 + (COLUMNS - 30) ** 2) <= 9
    images = np.where(tumor | thick, 0.0, -0.8).astype(np.float32)
    parts = list(blobs(images, FIELD, (STEP, ROW, COLUMN)))
    widths = [side.stop - side.start for side in (box[2] for box, _ in parts)]
    assert max(widths) <= 2 * (2 * 9 + 6) + 3, "twice the tumor's radius, and that of the ball, to both sides"
    shares = [(tumor[box] & mask).sum() / (tumor.sum() + (mask & ~tumor[box]).sum()) for box, mask in parts]
    assert max(shares) > 0.75, "IoU with the tumor alone"


def test_bone_and_vessels_with_contrast_medium_are_no_candidates() -> None:
    assert not found(0.8)


def test_neither_air_nor_what_is_larger_than_a_mass_is_a_candidate() -> None:
    assert not found(-0.8)
    everything = np.ones((16, 60, 90), bool)
    images = everything.astype(np.float32)
    assert not list(blobs(images, everything, (STEP, 2 * ROW, 2 * COLUMN)))
