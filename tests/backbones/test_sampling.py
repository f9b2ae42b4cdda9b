"""Sampling from a denoiser that is known in closed form."""

from __future__ import annotations

import pytest
import torch

from helpers import toys
from latentseg.backbones.sampling import intervals, noise
from latentseg.errors import UsageError
from plain_sampler import SamplingOptions, sample

KEYS = [f"item {i}" for i in range(40)]


@pytest.mark.parametrize(("guidance", "mean"), [(1.0, 0.9), (0.0, 0.5)])
def test_samples_have_the_right_distribution(guidance: float, mean: float) -> None:
    options = SamplingOptions(steps=50, guidance=guidance)
    latents = sample(toys.GaussianBackbone(), toys.tokens(0.2), keys=KEYS, options=options)
    assert latents.shape == (40, 3, 8, 8)
    assert float(latents.mean()) == pytest.approx(mean, abs=0.03)
    assert float(latents.std()) == pytest.approx(0.7, abs=0.03)


def test_guidance_goes_beyond_the_condition() -> None:
    means = [
        float(
            sample(
                toys.GaussianBackbone(), toys.tokens(0.2), keys=KEYS, options=SamplingOptions(10, g)
            ).mean()
        )
        for g in (0.0, 1.0, 2.0)
    ]
    assert means[2] - means[1] == pytest.approx(means[1] - means[0], abs=0.02)


def test_an_item_depends_on_its_key_and_the_seed_alone() -> None:
    backbone, options = toys.GaussianBackbone(), SamplingOptions(steps=4, slab=3)
    together = sample(backbone, toys.tokens(), keys=KEYS[:7], options=options)
    alone = sample(backbone, toys.tokens(), keys=[KEYS[5]], options=SamplingOptions(steps=4))
    torch.testing.assert_close(together[5:6], alone)
    other = sample(backbone, toys.tokens(), keys=[KEYS[5]], options=SamplingOptions(steps=4, seed=1))
    assert not torch.allclose(alone, other)


def test_conditions_may_differ_by_item() -> None:
    both = torch.cat([toys.tokens(-1.0), toys.tokens(1.0)])
    latents = sample(toys.GaussianBackbone(), both, keys=["a", "b"], options=SamplingOptions(20, 1.0, slab=1))
    assert float(latents[1].mean() - latents[0].mean()) == pytest.approx(4, abs=0.5)


def test_noise() -> None:
    first = noise((3, 4), keys=["a", "b"], seed=0)
    assert first.shape == (2, 3, 4)
    assert torch.equal(first[1], noise((3, 4), keys=["b"], seed=0)[0])
    assert not torch.equal(first[0], first[1])


def test_intervals() -> None:
    assert intervals(2, start=0.6) == [(0.6, 0.3), (0.3, 0.0)]


def test_no_steps() -> None:
    with pytest.raises(UsageError, match="0 sampling steps"):
        SamplingOptions(steps=0)
