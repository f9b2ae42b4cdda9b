"""Refinement by the scan's own intensities, on scenes whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.methods.appearance import (
    AppearanceOptions,
    around,
    guided,
    log_histogram,
    refine,
    with_appearance,
    without_small_parts,
)

Slices = NDArray[np.float32]


def scene() -> tuple[Slices, NDArray[np.bool_], Slices]:
    """Bright squares in a dark body, the truth of one, and a proposal that is two pixels off and coarse."""
    rng = np.random.default_rng(0)
    images = rng.normal(-0.5, 0.05, (3, 64, 64)).astype(np.float32)
    truth = np.zeros(images.shape, bool)
    truth[:, 20:36, 20:36] = True
    images[truth] += 0.8
    chance = np.full(images.shape, 0.05, np.float32)
    chance[:, 16:40, 18:34] = 0.7
    return images, truth, chance


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_coarse_proposal_becomes_the_bright_square() -> None:
    images, truth, chance = scene()
    before, after = dice(chance >= 0.5, truth), dice(refine(images, chance) >= 0.5, truth)
    assert before < 0.8
    assert after > 0.97


def test_the_same_for_any_contrast() -> None:
    images, truth, chance = scene()
    assert dice(refine(-images, chance) >= 0.5, truth) > 0.97


def test_what_is_far_away_stays_as_it_is() -> None:
    images, _, chance = scene()
    images[:, 50:60, 50:60] = 0.3  # as bright as the target
    assert np.array_equal(refine(images, chance)[:, 55:, 55:], chance[:, 55:, 55:])


def test_nothing_proposed_is_nothing_changed() -> None:
    images, _, _ = scene()
    nothing = np.full(images.shape, 0.02, np.float32)
    assert refine(images, nothing) is nothing
    few = nothing.copy()
    few[0, 5:8, 5:8] = 0.9
    options = AppearanceOptions(radius=0)
    np.testing.assert_allclose(
        refine(images, few, options=options), few, atol=1e-6
    )  # too few for a histogram


def test_the_guided_filter_keeps_constants_and_follows_edges() -> None:
    images, truth, _ = scene()
    flat = np.full(images.shape, 0.4, np.float32)
    np.testing.assert_allclose(guided(images, flat, radius=3, edges=0.01), flat, atol=1e-4)
    shifted = np.roll(truth, 1, axis=2).astype(np.float32)
    assert dice(guided(images, shifted, radius=4, edges=0.01) >= 0.5, truth) > dice(shifted >= 0.5, truth)


def test_weight_zero_leaves_the_appearance_out() -> None:
    images, _, chance = scene()
    assert with_appearance(images, chance, AppearanceOptions(weight=0)) is chance


def test_small_parts_fall_below_the_threshold() -> None:
    chance = np.zeros((1, 20, 20), np.float32)
    chance[0, :10, :10], chance[0, 15:18, 15:18] = 0.9, 0.8
    out = without_small_parts(chance, keep=0.3)
    assert (out >= 0.5).sum() == 100
    assert out[0, 16, 16] == pytest.approx(0.49)
    assert without_small_parts(chance, keep=0.05) is not None
    assert (without_small_parts(chance, keep=0.05) >= 0.5).sum() == 109


def test_histograms_and_boxes_by_hand() -> None:
    log = log_histogram(np.array([3] * 100), 8)
    assert log.argmax() == 3
    assert np.isfinite(log).all()
    mask = np.zeros((4, 10, 10), bool)
    assert around(mask, 2) is None
    mask[1, 3, 8] = True
    assert around(mask, 2) == (slice(1, 2), slice(1, 6), slice(6, 11))
