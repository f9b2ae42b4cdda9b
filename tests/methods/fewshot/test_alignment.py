"""Scans laid on each other: scales, shifts and wrong pairs that are known."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from latentseg.methods.fewshot.alignment import Alignment, align, mutual_pairs, weighted_fit


def body(count: int = 400, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Cells that all look different, in a box of 300 x 200 x 300 mm."""
    random = torch.Generator().manual_seed(seed)
    features = torch.nn.functional.normalize(torch.randn(count, 16, generator=random), dim=1)
    return features, torch.rand(count, 3, generator=random) * torch.tensor([300.0, 200.0, 300.0])


def seen_in(example: tuple[Tensor, Tensor], scale: Tensor, shift_mm: Tensor) -> tuple[Tensor, Tensor]:
    """The same body in a scan that lies on the example by this scale and shift."""
    return example[0], (example[1] - shift_mm) / scale


@hypothesis.given(
    st.tuples(*[st.floats(0.85, 1.2)] * 3), st.tuples(st.floats(-150, 150), *[st.floats(-40, 40)] * 2)
)
def test_scale_and_shift_are_found(
    scale: tuple[float, float, float], shift_mm: tuple[float, float, float]
) -> None:
    example = body()
    found = align(seen_in(example, torch.tensor(scale), torch.tensor(shift_mm)), example)
    error_mm = found(seen_in(example, torch.tensor(scale), torch.tensor(shift_mm))[1]) - example[1]
    assert float(error_mm.abs().mean()) < 12  # scales are drawn to 1
    assert found.fit > 0.5
    assert found.pairs == 400
    assert found.alike == pytest.approx(1)


def test_half_of_the_pairs_may_be_wrong() -> None:
    example = body()
    scale, shift_mm = torch.tensor([1.1, 1.0, 0.95]), torch.tensor([80.0, 10.0, -5.0])
    features, places_mm = seen_in(example, scale, shift_mm)
    mixed = places_mm.clone()
    mixed[::2] = places_mm[::2][torch.randperm(200, generator=torch.Generator().manual_seed(1))]
    found = align((features, mixed), example)
    assert float((found(places_mm[1::2]) - example[1][1::2]).norm(dim=1).mean()) < 15
    assert 0.2 < found.fit < 0.6  # the share that agrees


def test_scans_of_different_bodies_do_not_fit() -> None:
    assert align(body(seed=1), body(seed=2)).fit < 0.06
    nothing = torch.zeros(0, 16), torch.zeros(0, 3)
    few = align(tuple(t[:4] for t in body()), body())  # type: ignore[arg-type]  # two of two
    assert (few.fit, few.pairs) == (0.0, 4)
    assert align(nothing, body()).fit == 0.0
    assert torch.isfinite(few(torch.zeros(1, 3))).all()


def test_only_mutual_neighbors_are_pairs() -> None:
    alike = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0]])
    here, there = mutual_pairs(alike, torch.arange(9.0).view(3, 3), torch.arange(6.0).view(2, 3))
    assert here.tolist() == [[0.0, 1.0, 2.0], [6.0, 7.0, 8.0]]
    assert there.tolist() == [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]


def test_weights_decide_and_scales_have_bounds() -> None:
    here = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) * 1000
    there = here * 3 + 7
    scale, _ = weighted_fit(here, there, torch.ones(50))
    assert scale.tolist() == pytest.approx([1.45] * 3)
    wrong = there.clone()
    wrong[25:] = -500
    weights = torch.cat([torch.ones(25), torch.zeros(25)])
    scale, shift_mm = weighted_fit(here, here + 20, weights)
    assert Alignment(scale, shift_mm, 1.0, 50, 1.0)(here).allclose(here + 20, atol=0.1)
