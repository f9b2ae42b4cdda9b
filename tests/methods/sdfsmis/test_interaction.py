"""The attention processors against attention written out."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention

from latentseg.methods.sdfsmis.cache import SupportCache, pick_group
from latentseg.methods.sdfsmis.interaction import (
    FoldedCondition,
    Interaction,
    SupportQueryInteraction,
    SupportWritten,
    fold_shots,
)

HEADS, CHANNELS, TOKENS = 2, 8, 5


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def attention(cross_dim: int | None = None) -> Attention:
    torch.manual_seed(0)
    return Attention(CHANNELS, cross_attention_dim=cross_dim, heads=HEADS, dim_head=CHANNELS // HEADS).eval()


def written_out(attn: Attention, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """Attention of every token of ``x (L, C)`` to ``context (M, C)``, head by head."""
    q, k, v = attn.to_q(x), attn.to_k(context), attn.to_v(context)
    heads = []
    for h in range(HEADS):
        part = slice(h * CHANNELS // HEADS, (h + 1) * CHANNELS // HEADS)
        weight = (q[:, part] @ k[:, part].T / (CHANNELS // HEADS) ** 0.5).softmax(1)
        heads.append(weight @ v[:, part])
    return attn.to_out[0](torch.cat(heads, 1))


@torch.no_grad()
def test_queries_attend_jointly_to_themselves_and_all_shots_of_their_group() -> None:
    attn, processor, cache = attention(), SupportQueryInteraction("layer"), SupportCache()
    support, query = draw(4, TOKENS, CHANNELS), draw(3, TOKENS, CHANNELS, seed=1)
    alone = processor(attn, support, interaction=Interaction(cache, "write", shots=2))
    for i in range(4):
        torch.testing.assert_close(alone[i], written_out(attn, support[i], support[i]))
    group = torch.tensor([1, 0, 1])
    out = processor(attn, query, interaction=Interaction(cache, "read", group=group))
    for i, g in enumerate(group.tolist()):
        context = torch.cat([query[i], support[2 * g], support[2 * g + 1]])
        torch.testing.assert_close(out[i], written_out(attn, query[i], context))


@torch.no_grad()
def test_without_an_interaction_it_is_plain_self_attention() -> None:
    attn, x = attention(), draw(1, TOKENS, CHANNELS)
    torch.testing.assert_close(SupportQueryInteraction("layer")(attn, x)[0], written_out(attn, x[0], x[0]))


def test_the_last_layer_ends_the_pass_after_writing() -> None:
    cache = SupportCache()
    processor = SupportQueryInteraction("layer", last=True)
    with pytest.raises(SupportWritten):
        processor(attention(), draw(1, TOKENS, CHANNELS), interaction=Interaction(cache, "write"))
    assert cache.keys["layer"].shape == (1, HEADS, TOKENS, CHANNELS // HEADS)


@pytest.mark.parametrize("tokens", [1, 3])
@pytest.mark.parametrize("mode", ["read", "write"])
@torch.no_grad()
def test_condition_equals_ordinary_cross_attention(tokens: int, mode: str) -> None:
    attn, processor, cache = attention(cross_dim=6), FoldedCondition("layer"), SupportCache()
    condition, x = draw(2, tokens, 6), draw(4, TOKENS, CHANNELS, seed=1)
    processor.write(attn, cache, condition)
    group = torch.tensor([0, 0, 1, 1])
    interaction = (
        Interaction(cache, "write", shots=2) if mode == "write" else Interaction(cache, "read", group=group)
    )
    out = processor(attn, x, interaction=interaction)
    for i, g in enumerate(group.tolist()):
        expected = written_out(attn, x[i], condition[g])
        torch.testing.assert_close(out[i].expand(TOKENS, -1), expected, rtol=1e-4, atol=1e-6)
    assert bool(cache.condition_bias) == (tokens == 1)
    torch.testing.assert_close(processor(attn, x[:2], condition), processor(attn, x[:2], condition))


@torch.no_grad()
def test_condition_outside_of_the_passes_is_the_usual_argument() -> None:
    attn, condition, x = attention(cross_dim=6), draw(1, 2, 6), draw(2, TOKENS, CHANNELS)
    out = FoldedCondition("layer")(attn, x, condition)
    torch.testing.assert_close(out[1], written_out(attn, x[1], condition[0]), rtol=1e-4, atol=1e-6)


def test_fold_shots_puts_shots_one_after_the_other() -> None:
    x = torch.arange(2 * 3 * 4).view(6, 1, 4, 1)
    assert fold_shots(x, 3).flatten(1).tolist() == [list(range(12)), list(range(12, 24))]


def test_cache_survives_a_flat_table_and_joins() -> None:
    cache = SupportCache(
        keys={"a.b": draw(1, 2)}, values={"a.b": draw(1, 2, seed=1)}, condition_bias={"c": draw(1, 3)}
    )
    again = SupportCache.from_tensors(cache.tensors())
    assert cache.tensors().keys() == again.tensors().keys() == {"keys/a.b", "values/a.b", "condition_bias/c"}
    both = SupportCache.cat([cache, again.to(torch.float64)])
    assert both.groups == 2
    assert cache.to(torch.bfloat16).keys["a.b"].dtype == torch.bfloat16
    assert SupportCache().groups == 0


def test_pick_group_broadcasts_one_and_refuses_to_guess() -> None:
    table = draw(2, 3)
    assert torch.equal(pick_group(table, batch=3, group=torch.tensor([1, 1, 0])), table[[1, 1, 0]])
    assert torch.equal(pick_group(table, batch=2), table)
    assert pick_group(table[:1], batch=7).shape == (7, 3)
    with pytest.raises(ValueError, match="need a group index"):
        pick_group(table, batch=3)
