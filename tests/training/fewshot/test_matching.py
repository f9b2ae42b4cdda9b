"""The adapter of the matching features: identity at first, trained alone, written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import packs
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork, headless
from latentseg.backbones.weights import write_weights
from latentseg.errors import ModelError
from latentseg.methods.fewshot import matching_features
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.training.fewshot.episodes import EpisodeOptions
from latentseg.training.fewshot.matching import MatchingOptions, MatchingTask
from latentseg.training.loop import LoopOptions

OPTIONS = MatchingOptions(
    loop=LoopOptions(steps=10, learning_rate=1e-2),
    episodes=EpisodeOptions(scenes=2, targets=2, queries=3, min_area=12),
    width=8,
)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MatchingTask:
    monkeypatch.setattr(
        "latentseg.training.fewshot.matching.load_feature_network", lambda: FeatureNetwork(tiny_state())
    )
    return MatchingTask(OPTIONS, packs.small_pack(tmp_path / "pack"))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_starts_as_the_identity(task: MatchingTask, images: torch.Tensor) -> None:
    plain = MatchingFeatures(task.features.network, grid=8)(images)
    torch.testing.assert_close(task.features(images), plain)
    assert plain.shape == (2, matching_features.width_of(task.features.network), 8, 8)


@pytest.mark.parametrize("bf16", [False, True])
def test_steps_improve_one_batch_and_leave_the_network_alone(task: MatchingTask, *, bf16: bool) -> None:
    before = {name: t.clone() for name, t in task.features.network.named_parameters()}
    batch = task.batch(np.random.default_rng(0), 0.0)
    assert task.images(batch) == 12
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    losses = []
    for _ in range(8):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, figures = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        assert 0 <= figures["dice"] <= 1
    assert losses[-1] < 0.97 * losses[0]
    for name, parameter in task.features.network.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_written_and_read(task: MatchingTask, images: torch.Tensor, tmp_path: Path) -> None:
    torch.nn.init.normal_(task.model.out.weight, std=0.02)
    task.export(task.model, tmp_path)
    again = matching_features.load(tmp_path / "matching.safetensors", grid=8)
    torch.testing.assert_close(again(images), task.features(images), atol=2e-2, rtol=0)
    assert not any(parameter.requires_grad for parameter in again.parameters())
    write_weights(tmp_path / "plain.safetensors", headless(task.features.network))
    assert matching_features.load(tmp_path / "plain.safetensors", grid=8).adapter is None


def test_an_adapter_of_another_network(task: MatchingTask, tmp_path: Path) -> None:
    other = matching_features.MatchingAdapter(5, 8)
    matching_features.save(MatchingFeatures(task.features.network, other), tmp_path / "odd.safetensors")
    with pytest.raises(ModelError, match="not matching features"):
        matching_features.load(tmp_path / "odd.safetensors")
