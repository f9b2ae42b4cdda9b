"""Cut-outs of training samples: a part of the lesion, or of the body, enlarged with its mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from latentseg.training.tumor.samples import Sample, cut_out


def sample(*, row: int, column: int, ill: bool) -> Sample:
    image = np.full((64, 64), -1.0, np.float32)
    image[8:56, 8:56] = 0.0
    mask = np.zeros((64, 64), bool)
    if ill:
        mask[row : row + 6, column : column + 6] = True
        image[mask] = 1.0
    return Sample(image, mask, "tumor", "CT", "made")


@settings(max_examples=40, deadline=None)
@given(row=st.integers(14, 44), column=st.integers(14, 44), seed=st.integers(0, 1000))
def test_a_cut_out_holds_some_of_the_lesion(row: int, column: int, seed: int) -> None:
    whole = sample(row=row, column=column, ill=True)
    cut = cut_out(whole, np.random.default_rng(seed), share=(0.35, 0.7))
    assert cut.image.shape == cut.mask.shape == (64, 64)
    assert whole.whole
    assert not cut.whole
    assert cut.mask.any()
    assert cut.image[cut.mask].min() > 0.4  # half of the way from tissue to lesion: image and mask agree
    assert cut.image[~cut.mask].max() < 0.6
    assert (cut.finding, cut.modality, cut.source) == ("tumor", "CT", "made")


def test_some_cut_outs_lie_beside_the_lesion() -> None:
    """A small lesion in the corner of a large body: squares anywhere hold it far less often."""
    whole, rng = sample(row=8, column=8, ill=True), np.random.default_rng(3)
    held = {
        beside: np.mean([cut_out(whole, rng, share=(0.3, 0.3), beside=beside).mask.any() for _ in range(60)])
        for beside in (0.0, 0.5, 1.0)
    }
    assert held[0.0] == 1
    assert held[1.0] < 0.3 < held[0.5] < 1


def test_a_healthy_cut_out_shows_the_body() -> None:
    cut = cut_out(sample(row=0, column=0, ill=False), np.random.default_rng(1), share=(0.4, 0.4))
    assert not cut.mask.any()
    assert (cut.image > -0.5).any()
    empty = Sample(np.full((64, 64), -1.0, np.float32), np.zeros((64, 64), bool), "tumor", "CT", "made")
    assert not cut_out(empty, np.random.default_rng(1), share=(0.4, 0.4)).mask.any()
