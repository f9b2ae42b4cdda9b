"""The losses of the few-shot training against their definitions."""

from __future__ import annotations

import torch
from torch import Tensor

from latentseg.training.fewshot.losses import entropy, matching, soft_dice


def square(side: int, top: int, left: int, size: int) -> Tensor:
    mask = torch.zeros(1, side, side)
    mask[:, top : top + size, left : left + size] = 1
    return mask


def test_dice_of_equal_disjoint_and_empty_maps() -> None:
    a, b = square(16, 0, 0, 4), square(16, 8, 8, 4)
    assert torch.allclose(soft_dice(a, a), torch.ones(1))
    assert float(soft_dice(a, b)) < 0.04
    assert float(soft_dice(torch.zeros_like(a), torch.zeros_like(a))) == 1


def test_a_missed_pixel_of_the_target_weighs_more_than_a_false_one() -> None:
    truth = square(8, 0, 0, 2)
    missed = torch.full_like(truth, -4.0)
    assert float(entropy(missed, truth, foreground=6)) > float(entropy(missed, truth, foreground=1))
    assert torch.allclose(entropy(-missed, 1 - truth * 0, foreground=1), torch.tensor([0.0181]), atol=1e-3)


def keys_by_position(side: int, *, sharp: float) -> Tensor:
    """One head whose key at each position is a unit vector of its own, ``(1, 1, L, L)``."""
    return torch.eye(side * side)[None, None] * sharp


def test_matching_is_low_when_every_token_finds_its_own_place() -> None:
    mask = square(32, 8, 8, 8)
    keys = keys_by_position(8, sharp=20.0)
    same = matching([(keys, keys)], mask, mask, foreground=6)
    shifted = matching([(keys, keys.roll(20, 2))], mask, mask, foreground=6)
    assert float(same) < 0.01
    assert float(shifted) > 1


def test_matching_is_the_mean_over_layers_and_reaches_queries_and_keys() -> None:
    mask = square(32, 8, 8, 8)
    q, k = (torch.randn(1, 2, 64, 8, requires_grad=True) for _ in range(2))
    once = matching([(q, k)], mask, mask, foreground=6)
    assert torch.allclose(matching([(q, k), (q, k)], mask, mask, foreground=6), once)
    once.backward()
    assert q.grad is not None
    assert k.grad is not None
    assert float(q.grad.abs().sum()) > 0
    assert float(k.grad.abs().sum()) > 0
