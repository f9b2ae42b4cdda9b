"""Ours beside a naive reference, wherever the tests run: the same numbers to the precision of the output.

The networks compute in float64 and answer in float32, hence a bound relative to the largest value.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import Dinov2Config, Dinov2Model

from latentseg.methods.sdfsmis.condition import ConditionTranslator, DinoFeatures, masked_features
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import enhance, prototypes

from .naive import NaiveNetwork, condition_token, dino_input, enhanced, mean_prototypes

BOUND = 2e-6  # of the largest value of what is compared
EDGE, QUERIES = 16, 4


def off(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    assert ours.shape == reference.shape
    return float((ours.detach() - reference.detach()).abs().max() / reference.detach().abs().max())


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(count: int, *, seed: int) -> Tensor:
    """Masks ``(count, 256, 256)``: disks of 30 to 60 pixels somewhere."""
    draw = torch.Generator().manual_seed(seed)
    at = torch.arange(256.0)
    y, x = (70 + 116 * torch.rand(count, 1, 1, generator=draw) for _ in range(2))
    radius = 30 + 30 * torch.rand(count, 1, 1, generator=draw)
    return ((at[:, None] - y) ** 2 + (at - x) ** 2 < radius**2).float()


@pytest.fixture(scope="module", params=[1, 3], ids=["1-shot", "3-shot"])
def shots(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def naive() -> NaiveNetwork:
    return NaiveNetwork.random(seed=0)


@pytest.fixture
def ours(naive: NaiveNetwork) -> FewShotUNet:
    unet, entrance = naive.parts()
    return FewShotUNet(unet, conv_in_ref=entrance)


def answers(naive: NaiveNetwork, shots: int, *, tokens: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Supports, token and queries, and what the naive network says of the queries."""
    supports, queries = noise(shots, 8, EDGE, EDGE, seed=1), noise(QUERIES, 8, EDGE, EDGE, seed=2)
    token = noise(1, tokens, naive.unet.config["cross_attention_dim"], seed=3)
    with torch.no_grad():
        naive.show(supports, token)
        return supports, token, queries, naive.ask(queries, token)


@pytest.mark.parametrize("batch", [1, QUERIES], ids=["one-by-one", "batch-of-4"])
@pytest.mark.parametrize("tokens", [1, 3])
def test_unet_output(naive: NaiveNetwork, ours: FewShotUNet, shots: int, batch: int, tokens: int) -> None:
    supports, token, queries, expected = answers(naive, shots, tokens=tokens)
    with torch.no_grad():
        cache = ours.encode_support(supports, token, shots=shots)
        found = torch.cat([-ours.segment(some, cache) for some in queries.split(batch)])
    assert off(found, expected) < BOUND


def test_the_supports_matter(naive: NaiveNetwork, ours: FewShotUNet, shots: int) -> None:
    """Lest the bound be met by networks that do not look at the support."""
    supports, token, queries, expected = answers(naive, shots)
    with torch.no_grad():
        cache = ours.encode_support(supports.flip(3), token, shots=shots)
    assert off(-ours.segment(queries, cache), expected) > 1000 * BOUND


def test_several_groups_in_one_batch(naive: NaiveNetwork, ours: FewShotUNet, shots: int) -> None:
    supports, token, queries = noise(2 * shots, 8, EDGE, EDGE, seed=4), noise(2, 1, 12, seed=5), None
    queries, group, expected = noise(QUERIES, 8, EDGE, EDGE, seed=6), torch.tensor([1, 0, 0, 1]), []
    with torch.no_grad():
        for query, number in zip(queries, group.tolist(), strict=True):
            own = supports[number * shots : (number + 1) * shots]
            naive.show(own, token[number : number + 1])
            expected.append(naive.ask(query[None], token[number : number + 1]))
        found = -ours.segment(queries, ours.encode_support(supports, token, shots=shots), group=group)
    assert off(found, torch.cat(expected)) < BOUND


def test_attention_of_another_layout(shots: int) -> None:
    """Attention on every grid, and one number of heads for all."""
    config = {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3,
        "up_block_types": ["CrossAttnUpBlock2D"] * 3,
        "attention_head_dim": 2,
        "layers_per_block": 2,
    }
    naive = NaiveNetwork.random(seed=7, **config)
    unet, entrance = naive.parts()
    network = FewShotUNet(unet, conv_in_ref=entrance)
    supports, token, queries, expected = answers(naive, shots)
    with torch.no_grad():
        found = -network.segment(queries, network.encode_support(supports, token, shots=shots))
    assert off(found, expected) < BOUND


def test_prototypes_and_query_input(shots: int) -> None:
    masks, queries = blobs(shots, seed=9), noise(3, 4, 32, 32, seed=10)
    target = torch.tensor([2.0, -1.0, 1.0, -2.0])[:, None, None] * masks[:, None, ::8, ::8]
    latents = noise(shots, 4, 32, 32, seed=8) + target
    expected_fg, expected_bg = mean_prototypes(latents, masks)
    fg, bg = prototypes(latents, masks, compat="official").over_shots(shots)
    assert off(fg[0], expected_fg) < BOUND
    assert off(bg[0], expected_bg) < BOUND
    passing = expected_fg[None, :, None, None] + 0.1 * queries[:1]
    sharp = torch.cat([queries, passing])  # pixels of the last one pass the gate
    found = enhance(sharp, fg, bg, compat="official")
    assert off(found, torch.stack([enhanced(z, expected_fg, expected_bg) for z in sharp])) < BOUND


def test_condition_token(shots: int) -> None:
    torch.manual_seed(0)
    mlp = ConditionTranslator(10, 12).double()
    features, masks = noise(shots, 10, 16, 16, seed=11), blobs(shots, seed=12)
    found = mlp(masked_features(features, masks, shots=shots, compat="official"))
    assert off(found, condition_token(features, masks, mlp.mlp)) < BOUND


def test_dino_features() -> None:
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=224, patch_size=14
    )
    model = Dinov2Model(config).eval()
    images = noise(2, 1, 256, 256, seed=13).clamp(-1, 1).float()
    with torch.no_grad():
        tokens = model(torch.stack([dino_input(image[0]) for image in images])).last_hidden_state[:, 1:]
    expected = tokens.transpose(1, 2).reshape(2, 16, 16, 16)
    assert off(DinoFeatures(model)(images, compat="official"), expected) < BOUND


def test_loss_and_gradients(naive: NaiveNetwork, ours: FewShotUNet, shots: int) -> None:
    """Two episodes, the reference one by one: the loss, and the gradient of every weight."""
    torch.manual_seed(0)
    mlp = ConditionTranslator(10, 12).double()
    features, masks = noise(2 * shots, 10, 16, 16, seed=14), blobs(2 * shots, seed=15)
    supports, queries = noise(2 * shots, 8, EDGE, EDGE, seed=16), noise(2, 8, EDGE, EDGE, seed=17)
    truth = noise(2, 4, EDGE, EDGE, seed=18)

    naive.unet.zero_grad()
    naive.conv_in_ref.zero_grad()
    expected = torch.zeros((), dtype=torch.float64)
    for number in range(2):
        own = slice(number * shots, (number + 1) * shots)
        token = condition_token(features[own], masks[own], mlp.mlp)
        naive.show(supports[own], token)
        out = naive.ask(queries[number : number + 1], token)
        expected = expected + (out - -truth[number : number + 1]).square().mean() / 2
    expected.backward()
    of_naive = naive.gradients() | taken_gradients(mlp)

    token = mlp(masked_features(features, masks, shots=shots, compat="official"))
    cache = ours.encode_support(supports, token, shots=shots)
    loss = nn.functional.mse_loss(ours.segment(queries, cache), truth.float())
    loss.backward()
    of_ours = gradients(ours) | taken_gradients(mlp)

    assert off(loss, expected) < BOUND
    assert of_ours.keys() == of_naive.keys()
    largest = max(float(g.abs().max()) for g in of_naive.values())
    for name, gradient in of_ours.items():
        assert float((gradient - of_naive[name]).abs().max()) < BOUND * largest, name
        if float(of_naive[name].abs().max()) > 1e-3 * largest:
            assert off(gradient, of_naive[name]) < 10 * BOUND, name


def gradients(network: FewShotUNet) -> dict[str, Tensor]:
    """The gradient of every weight by its released name; 0 where the folded condition needs none."""
    return {
        name.removeprefix("unet."): torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in network.named_parameters()
    }


def taken_gradients(mlp: ConditionTranslator) -> dict[str, Tensor]:
    """The gradients of the translator, which starts anew."""
    taken = {f"condition.{name}": p.grad.clone() for name, p in mlp.named_parameters() if p.grad is not None}
    mlp.zero_grad()
    return taken
