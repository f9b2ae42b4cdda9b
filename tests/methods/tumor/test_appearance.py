"""Borders that follow the scan, and lesions that are too small to have any."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.methods.appearance import AppearanceOptions
from latentseg.methods.tumor.appearance import with_edges

OPTIONS = AppearanceOptions(keep=0.0)


@pytest.fixture
def images() -> np.ndarray:
    """A dark disk of radius 14 around (32, 32) in noise, on two slices."""
    rows, columns = np.indices((64, 64))
    disk = np.hypot(rows - 32, columns - 32) < 14
    noise = np.random.default_rng(0).normal(0, 0.03, (2, 64, 64))
    return (np.where(disk, -0.3, 0.2) + noise).astype(np.float32)


def test_the_border_moves_to_that_of_the_scan(images: np.ndarray) -> None:
    rows, columns = np.indices((64, 64))
    truth = np.hypot(rows - 32, columns - 32) < 14
    blurred = 1 / (1 + np.exp((np.hypot(rows - 34, columns - 31) - 11) / 2))
    chance = np.stack([blurred, blurred]).astype(np.float32)

    def dice(mask: np.ndarray) -> float:
        return float(2 * (mask & truth).sum() / (mask.sum() + 2 * truth.sum()))

    moved = with_edges(images, chance, options=OPTIONS)
    assert dice(moved >= 0.5) > dice(chance >= 0.5) + 0.1
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_a_speck_is_as_it_was(images: np.ndarray) -> None:
    chance = np.zeros_like(images)
    chance[1, 5, 60] = 0.8
    moved = with_edges(images, chance, options=OPTIONS)
    assert moved[1, 5, 60] == np.float32(0.8)
    assert (moved >= 0.5).sum() == 1


def test_nothing_stays_nothing(images: np.ndarray) -> None:
    chance = np.full_like(images, 0.02)
    assert np.array_equal(with_edges(images, chance, options=OPTIONS), chance)
