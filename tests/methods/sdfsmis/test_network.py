"""The few-shot network: cache, batches, groups, gradients."""

from __future__ import annotations

import pytest
import torch

from helpers.sd_folders import tiny_unet
from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.methods.sdfsmis.interaction import FoldedCondition, SupportQueryInteraction
from latentseg.methods.sdfsmis.network import FewShotUNet


@pytest.fixture
def net() -> FewShotUNet:
    return FewShotUNet.from_denoiser(tiny_unet()).eval()


def draw(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_surgery_averages_the_two_halves_and_leaves_the_denoiser_alone() -> None:
    unet = tiny_unet()
    net = FewShotUNet.from_denoiser(unet)
    z, p = draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=2)
    for entrance in (net.conv_in, net.conv_in_ref):
        torch.testing.assert_close(entrance(torch.cat([z, p], 1)), unet.conv_in((z + p) / 2))
    assert unet.conv_in.in_channels == 4
    assert "conv_in.weight" in unet.state_dict()
    assert net.conv_in.weight.data_ptr() != net.conv_in_ref.weight.data_ptr()


def test_every_attention_keeps_its_processor(net: FewShotUNet) -> None:
    with torch.no_grad():
        net.segment(draw(1, 8, 8, 8), net.encode_support(draw(1, 8, 8, 8), draw(1, 1, 12)))
    for name, processor in net.unet.attn_processors.items():
        kind = SupportQueryInteraction if ".attn1." in name else FoldedCondition
        assert isinstance(processor, kind)
        assert not any(isinstance(v, torch.Tensor) for v in vars(processor).values())


def test_cache_has_every_layer_with_shots_on_the_token_axis(net: FewShotUNet) -> None:
    cache = net.encode_support(draw(6, 8, 8, 8), draw(2, 1, 12), shots=3)
    layers = {n.removesuffix(".processor") for n in net.unet.attn_processors if ".attn1." in n}
    assert set(cache.keys) == layers
    assert cache.groups == 2
    assert cache.keys["down_blocks.0.attentions.0.transformer_blocks.0.attn1"].shape == (2, 2, 3 * 64, 4)


@pytest.mark.parametrize("tokens", [1, 3])
@torch.no_grad()
def test_batched_groups_equal_one_at_a_time(net: FewShotUNet, tokens: int) -> None:
    support, condition, query = draw(4, 8, 8, 8), draw(2, tokens, 12), draw(5, 8, 8, 8, seed=3)
    group = torch.tensor([0, 1, 1, 0, 1])
    together = net.segment(query, net.encode_support(support, condition, shots=2), group=group)
    for i, g in enumerate(group.tolist()):
        alone = net.encode_support(support[2 * g : 2 * g + 2], condition[g : g + 1], shots=2)
        torch.testing.assert_close(
            together[i : i + 1], net.segment(query[i : i + 1], alone), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_given_condition_equals_cached_condition_and_is_not_written_back(net: FewShotUNet) -> None:
    support, condition, query = draw(1, 8, 8, 8), draw(1, 1, 12), draw(2, 8, 8, 8, seed=3)
    cache = net.encode_support(support, condition)
    before = {k: v.clone() for k, v in cache.tensors().items()}
    torch.testing.assert_close(net.segment(query, cache, condition), net.segment(query, cache))
    other = net.segment(query, cache, condition + 5)
    assert (other - net.segment(query, cache)).abs().max() > 1e-6
    assert all(torch.equal(before[k], v) for k, v in cache.tensors().items())


@torch.no_grad()
def test_supports_are_alive_side_by_side(net: FewShotUNet) -> None:
    query = draw(1, 8, 8, 8, seed=3)
    first = net.encode_support(draw(1, 8, 8, 8), draw(1, 1, 12))
    expected = net.segment(query, first)
    second = net.encode_support(draw(1, 8, 8, 8, seed=9), draw(1, 1, 12, seed=9))
    assert not torch.allclose(net.segment(query, second), expected)
    assert torch.equal(net.segment(query, first), expected)
    both = net.segment(query.expand(2, -1, -1, -1), SupportCache.cat([first, second]))
    torch.testing.assert_close(both[:1], expected, rtol=1e-4, atol=1e-5)


def test_gradients_reach_both_passes(net: FewShotUNet) -> None:
    condition = draw(2, 1, 12).requires_grad_()
    cache = net.encode_support(draw(4, 8, 8, 8), condition, shots=2)
    net.segment(draw(2, 8, 8, 8, seed=3), cache).square().mean().backward()
    assert condition.grad is not None
    assert condition.grad.abs().sum() > 0
    for conv in (net.conv_in, net.conv_in_ref):
        assert conv.weight.grad is not None
        assert conv.weight.grad.abs().sum() > 0


def test_bf16_autocast_stays_close_and_returns_float(net: FewShotUNet) -> None:
    support, condition, query = draw(2, 8, 8, 8), draw(1, 2, 12), draw(3, 8, 8, 8, seed=3)
    with torch.no_grad():
        expected = net.segment(query, net.encode_support(support, condition, shots=2))
        with torch.autocast("cpu", torch.bfloat16):
            got = net.segment(query, net.encode_support(support, condition, shots=2))
        half = net.to(torch.bfloat16)
        weights = half.segment(query, half.encode_support(support, condition, shots=2))
    for out in (got, weights):
        assert out.dtype == torch.float32
        assert (out - expected).abs().max() < 0.1 * expected.abs().max()


def test_wrong_counts_are_refused(net: FewShotUNet) -> None:
    with pytest.raises(ValueError, match="groups of 2 shots"):
        net.encode_support(draw(3, 8, 8, 8), draw(1, 1, 12), shots=2)
    cache = net.encode_support(draw(2, 8, 8, 8), draw(2, 1, 12))
    with pytest.raises(ValueError, match="group index"):
        net.segment(draw(3, 8, 8, 8), cache)
