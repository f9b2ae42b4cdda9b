"""Query enhancement against the rule written out pixel by pixel."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from latentseg.methods.sdfsmis.compat import Compat
from latentseg.methods.sdfsmis.query_enhancement import (
    enhance,
    foreground_probability,
    gate,
    mask_on_grid,
    prototypes,
    soft_weight,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def square_masks(count: int, *, size: int = 64, low: int = 16, high: int = 48) -> torch.Tensor:
    masks = torch.zeros(count, size, size)
    masks[:, low:high, low:high] = 1
    return masks


def official_by_hand(z: torch.Tensor, fg: torch.Tensor, bg: torch.Tensor) -> torch.Tensor:
    """One query ``(C, h, w)``, as the release loops over it."""
    s_f = functional.cosine_similarity(z, fg[:, None, None], dim=0)
    s_b = functional.cosine_similarity(z, bg[:, None, None], dim=0)
    p = torch.stack([s_b, s_f]).softmax(0)[1].flatten()
    pixels = z.flatten(1)
    chosen = pixels[:, p > 0.7] if (p > 0.7).any() else pixels[:, p.topk(int(z.shape[-1] * 0.1875)).indices]
    return chosen.mean(1)


@pytest.mark.parametrize("compat", ["official", "fixed"])
def test_the_rule_of_the_paper_by_hand(compat: Compat) -> None:
    z, bg = draw(2, 4, 32, 32), draw(2, 4, seed=2)
    fg = torch.stack([z[0, :, 3, 4], torch.full((4,), 1e3)])
    similar = functional.cosine_similarity(z, fg[:, :, None, None], dim=1).flatten(1)
    chosen = [similar[0] > 0.7, similar[1] > 0.7]
    assert 1 < int(chosen[0].sum()) < 1024
    expected = torch.stack([z[i].flatten(1)[:, chosen[i]].mean(1) for i in (0, 1)])
    found = enhance(z, fg, bg, compat=compat, rule="cosine")
    torch.testing.assert_close(found[:, 4:, 0, 0], expected)
    torch.testing.assert_close(enhance(z, fg, -bg, compat=compat, rule="cosine"), found)  # no background


def test_official_prototypes_by_hand() -> None:
    z, masks = draw(2, 4, 32, 32), square_masks(2)
    m = functional.interpolate(masks[:, None], (32, 32), mode="bilinear", align_corners=True)
    fg, bg = prototypes(z, masks, compat="official")
    torch.testing.assert_close(fg, (z * m).sum((2, 3)) / (m.sum((2, 3)) + 1e-6))
    torch.testing.assert_close(bg, (z * (1 - m)).sum((2, 3)) / ((1 - m).sum((2, 3)) + 1e-6))


def test_official_enhancement_by_hand_takes_both_branches_in_one_batch() -> None:
    fg, bg = draw(1, 4, seed=5), -draw(1, 4, seed=5)
    hit = draw(1, 4, 32, 32, seed=1)
    miss = bg[..., None, None] + 0.2 * draw(2, 4, 32, 32, seed=2)
    z = torch.cat([hit, miss])
    above = (foreground_probability(z, fg, bg) > 0.7).flatten(1).any(1)
    assert above.tolist() == [True, False, False]
    out = enhance(z, fg, bg, compat="official")
    assert out.shape == (3, 8, 32, 32)
    torch.testing.assert_close(out[:, :4], z)
    for i in range(3):
        expected = official_by_hand(z[i], fg[0], bg[0])[:, None, None].expand(4, 32, 32)
        torch.testing.assert_close(out[i, 4:], expected)


@pytest.mark.parametrize("compat", ["official", "fixed"])
def test_groups_equal_one_at_a_time(compat: Compat) -> None:
    z, fg, bg = draw(5, 4, 32, 32), draw(2, 4, seed=1), draw(2, 4, seed=2)
    group = torch.tensor([1, 0, 0, 1, 1])
    out = enhance(z, fg, bg, compat=compat, group=group)
    for i, g in enumerate(group.tolist()):
        torch.testing.assert_close(
            out[i : i + 1], enhance(z[i : i + 1], fg[g : g + 1], bg[g : g + 1], compat=compat)
        )


def test_mean_over_shots_is_taken_per_group() -> None:
    pooled = prototypes(draw(6, 4, 8, 8), square_masks(6)).over_shots(3)
    single = prototypes(draw(6, 4, 8, 8), square_masks(6))
    torch.testing.assert_close(pooled.fg[1], single.fg[3:].mean(0))
    assert pooled.bg.shape == (2, 4)


def test_small_masks_are_lost_by_sampling_and_kept_by_area() -> None:
    masks = torch.zeros(1, 256, 256)
    masks[:, 101:104, 101:104] = 1
    assert mask_on_grid(masks, (32, 32), compat="official").sum() == 0
    assert mask_on_grid(masks, (32, 32), compat="fixed").sum() > 0


def test_probability_is_bounded_and_the_gate_is_a_mask() -> None:
    p = foreground_probability(draw(2, 4, 32, 32), draw(1, 4, seed=3), -draw(1, 4, seed=3))
    assert p.max() <= 0.881
    assert set(gate(p).unique().tolist()) <= {0.0, 1.0}
    assert gate(torch.full((1, 1, 32, 32), 0.5)).sum() == 6


def test_soft_weight_prefers_the_foreground_and_passes_gradients() -> None:
    z = draw(1, 4, 8, 8).requires_grad_()
    fg, bg = draw(1, 4, seed=3), draw(1, 4, seed=4)
    p = foreground_probability(z, fg, bg)
    weight = soft_weight(p)
    torch.testing.assert_close(weight.sum(), torch.tensor(1.0))
    assert weight.flatten().argmax() == p.flatten().argmax()
    enhance(z, fg, bg, compat="fixed")[:, 4:].sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()
