"""How often each data set is drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.training.shares import slice_chances


def test_slice_chances() -> None:
    sources = np.array(["a"] * 4 + ["b"] * 16 + ["c"] * 5)
    usable = np.ones(25, bool)
    usable[[0, 24]] = False
    chance = slice_chances(sources, usable, {"a": 0.5})
    assert chance.sum() == pytest.approx(1)
    assert (chance[~usable] == 0).all()
    assert chance[1:4] == pytest.approx([0.5 / 3] * 3)
    of_b, of_c = chance[4:20].sum(), chance[20:].sum()
    assert of_b / of_c == pytest.approx(np.sqrt(16 / 4))  # the root of the numbers of usable slices
    assert slice_chances(sources, usable & (sources == "b"), {"a": 0.5})[4:20] == pytest.approx([1 / 16] * 16)
    assert not slice_chances(sources, np.zeros(25, bool), {}).any()
