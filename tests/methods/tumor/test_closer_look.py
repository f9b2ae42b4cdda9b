"""The closer look of the attention maps: squares cover the organ, and the first look keeps its share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentseg.methods.tumor.closer_look import CloserOptions, look_closer, squares_over
from latentseg.methods.tumor.told import Beside

OPTIONS = CloserOptions(edge=0.5, margin=0.02, weight=0.5)


@settings(max_examples=50, deadline=None)
@given(top=st.integers(0, 50), left=st.integers(0, 50), height=st.integers(3, 60), width=st.integers(3, 60))
def test_squares_cover_an_organ(top: int, left: int, height: int, width: int) -> None:
    organ = np.zeros((64, 64), bool)
    organ[top : top + height, left : left + width] = True
    squares = squares_over(organ, OPTIONS)
    assert len(squares) <= 9
    points = (np.argwhere(organ) + 0.5) / 64
    apart = np.abs(points[:, None] - np.array(squares)[None]).max(2).min(1)
    assert apart.max() <= OPTIONS.edge / 2 + 1e-9


def test_two_pieces_have_a_square_each() -> None:
    organ = np.zeros((64, 64), bool)
    organ[20:30, 8:18] = organ[22:30, 44:52] = True
    assert squares_over(organ, OPTIONS) == [pytest.approx((25 / 64, 13 / 64)), pytest.approx((26 / 64, 0.75))]
    assert squares_over(np.zeros((64, 64), bool), OPTIONS) == []


def test_both_looks_are_mixed_where_squares_lie() -> None:
    organ = np.zeros((2, 64, 64), bool)
    organ[1, 20:30, 20:30] = True
    images, margins = torch.rand(2, 1, 128, 128), torch.full((2, 1, 128, 128), -1.0)
    seen: list[Beside] = []

    def compare(cut: Tensor, beside: Beside) -> Tensor:
        seen.append(beside)
        return torch.full_like(cut, 3.0)

    known = Beside(torch.zeros(2, 1, 128, 128), torch.arange(2.0)[:, None, None, None].expand(2, 1, 128, 128))
    found = look_closer(images, margins, organ, beside=known, compare=compare, options=OPTIONS)
    assert found[0].equal(margins[0])
    assert found[1, 0, 50, 50] == 1.0
    assert found[1, 0, 120, 120] == -1.0
    away, lesions = seen[0]
    assert away is not None
    assert away.equal(torch.zeros(1, 1, 128, 128))
    assert lesions is not None
    torch.testing.assert_close(
        lesions[:, :, 32:96, 32:96], torch.ones(1, 1, 64, 64)
    )  # of the slice it is cut from


def test_looks_are_mixed_without_seams() -> None:
    organ = np.zeros((1, 64, 64), bool)
    organ[0, 20:30, 4:60] = True  # two squares wide
    images, margins = torch.rand(1, 1, 128, 128), torch.zeros(1, 1, 128, 128)

    def compare(cut: Tensor, beside: Beside) -> Tensor:
        number = torch.arange(len(cut), dtype=torch.float32)
        return (10 + number)[:, None, None, None].expand_as(cut)

    known = Beside(torch.zeros_like(margins))
    found = look_closer(images, margins, organ, beside=known, compare=compare, options=OPTIONS)[0, 0]
    steps = torch.maximum(found.diff(dim=0).abs().max(), found.diff(dim=1).abs().max())
    assert float(steps) < 1
    assert float(found[50].max()) == pytest.approx(5.5, abs=0.1)
    assert float(found[50, 64]) > 4.9, "where squares meet within the organ, the closer look keeps its share"


def test_without_an_organ_the_first_look_stands() -> None:
    def compare(cut: Tensor, beside: Beside) -> Tensor:
        raise AssertionError("nothing to look at")

    margins, nothing = torch.rand(1, 1, 64, 64), np.zeros((1, 64, 64), bool)
    found = look_closer(margins, margins, nothing, beside=Beside(margins), compare=compare, options=OPTIONS)
    assert found is margins
