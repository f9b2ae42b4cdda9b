"""Where maps are cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import latentseg as ls
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.slice_attention import Attention
from latentseg.phantom.bodies import Phantom

SOFT = (0.5, -0.5)
ALL = np.array([0, 1])


def bumps(seed: int) -> torch.Tensor:
    """Two slices of log-odds with a smooth bump each, and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:24, :24]
    far = [np.hypot(rows - y, columns - x) / width for y, x, width in rng.uniform(5, 18, (2, 3))]
    return torch.tensor(np.stack(far)[:, None] * -8 + 4 + rng.normal(0, 0.4, (2, 1, 24, 24))).float()


@pytest.mark.parametrize("seed", range(4))
def test_a_softened_map_is_cut_where_its_expected_dice_is_highest(seed: int) -> None:
    log_odds = bumps(seed)
    chance = 1 / (1 + np.exp(-(SOFT[0] * log_odds.numpy().astype(float) + SOFT[1])))
    chance[chance < 0.03] = 0
    marked = leveled(log_odds, ALL, level=0.5, soft=SOFT).numpy() >= 0

    def expected(mask: np.ndarray) -> float:
        return float(2 * chance[mask].sum() / (mask.sum() + chance.sum()))

    others = [expected(chance >= cut) for cut in np.linspace(0.03, chance.max(), 300)]
    assert expected(marked) >= max(others) - 1e-9
    assert 10 < marked.sum() < marked.size / 2


def test_slices_that_are_not_suspicious_do_not_move_the_cut() -> None:
    log_odds = bumps(7)
    first = leveled(log_odds, np.array([0]), level=0.5, soft=SOFT)[0]
    alone = leveled(log_odds[:1], np.array([0]), level=0.5, soft=SOFT)[0]
    torch.testing.assert_close(first, alone)


def test_a_faint_map_marks_nothing() -> None:
    faint = bumps(1) - 9
    assert float(leveled(faint, ALL, level=0.5, soft=SOFT).max()) < 0
    assert float(leveled(faint, ALL, level=0.5).max()) < 0


def test_without_a_level_or_a_suspicion_maps_stay() -> None:
    log_odds = bumps(2)
    torch.testing.assert_close(leveled(log_odds, ALL, level=None, soft=SOFT), log_odds)
    torch.testing.assert_close(leveled(log_odds, ALL[:0], level=0.5, soft=SOFT), log_odds)


def test_weights_may_have_a_share_of_their_own(tiny_tumor_model: Path, searched: Phantom) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    assert isinstance(segmenter, TumorSegmenter)
    options = replace(segmenter.options, min_presence=0.0, organs=False, appearance=None, closer=None)
    segmenter = TumorSegmenter(segmenter.networks, options=options)
    prepared, trained = segmenter.prepare(searched.image), segmenter.networks.network
    half = segmenter.predict(prepared, "liver tumor").probability
    trained.config = trained.config.model_copy(update={"level": 0.25})
    quarter = segmenter.predict(prepared, "liver tumor").probability
    assert (quarter >= half - 1e-6).all()
    assert quarter.max() > half.max()
    always = TumorSegmenter(segmenter.networks, options=replace(options, level=None))
    assert Attention(always.networks, always.options).level is None
