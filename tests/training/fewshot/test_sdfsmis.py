"""Training the few-shot network: what a step changes, what it must not, and what is exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latentseg.backbones.compact import (
    CompactBackbone,
    new_denoiser,
    save_denoiser,
)
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.errors import ModelError
from latentseg.methods.sdfsmis import checkpoint
from latentseg.training.fewshot.episodes import EpisodeOptions
from latentseg.training.fewshot.sdfsmis import FewShotOptions, FewShotTask, build, soft_dice
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack

EPISODES = EpisodeOptions(scenes=2, targets=2, queries=3, min_area=12)
OPTIONS = FewShotOptions(
    loop=LoopOptions(steps=10, learning_rate=1e-3), episodes=EPISODES, start="matching", prior=False
)


@pytest.fixture
def task(packed: Pack, backbone: CompactBackbone) -> FewShotTask:
    return build(OPTIONS, packed, backbone)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def copied(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def test_inputs_belong_to_their_targets(task: FewShotTask, backbone: CompactBackbone) -> None:
    batch = task.batch(rng(), 0.5)
    inputs = task.encode(batch)
    assert inputs.support.shape == inputs.support_mask.shape == (4, 4, 8, 8)
    assert inputs.query.shape == (12, 4, 8, 8)
    assert inputs.condition.shape == (4, 1, 16)
    support, query = backbone.encode(batch.support_images), backbone.encode(batch.query_images)
    for scene in range(2):
        for target in range(2):
            index = 2 * scene + target
            torch.testing.assert_close(inputs.support[index], support[scene])
            for slice_ in range(3):
                torch.testing.assert_close(inputs.query[3 * index + slice_], query[3 * scene + slice_])
    masks = backbone.encode(batch.support_masks[:, None] * 2 - 1)
    torch.testing.assert_close(inputs.support_mask, masks)
    assert not any(tensor.requires_grad for tensor in inputs)


def test_every_query_sees_its_own_support(task: FewShotTask) -> None:
    inputs = task.encode(task.batch(rng(), 0.5))
    with torch.no_grad():
        together = task.model(inputs)
        swapped = task.model(inputs._replace(support_mask=inputs.support_mask[[0, 1, 2, 0]]))
    assert together.shape == (12, 4, 8, 8)
    torch.testing.assert_close(together[:9], swapped[:9])
    assert not torch.allclose(together[9:], swapped[9:], atol=1e-4)


def test_one_step_changes_all_trained_parts_and_not_the_backbone(
    task: FewShotTask, backbone: CompactBackbone
) -> None:
    frozen = copied(backbone.vae) | {f"head.{name}": t for name, t in copied(backbone.mask_head).items()}
    before = copied(task.model)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3, weight_decay=0)
    loss, figures = task.loss(task.batch(rng(), 0.5))
    assert loss.isfinite()
    assert all(np.isfinite(value) for value in figures.values())
    assert 0 <= figures["dice"] <= 1
    loss.backward()
    optimizer.step()
    after = copied(task.model)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    for part in ("unet.conv_in.", "unet.conv_in_ref.", "unet.unet.", "translator.mlp.", "mask_head."):
        assert any(name.startswith(part) for name in changed), part
    # a single condition token makes the cross-attention's queries and keys irrelevant; all else is trained
    assert {name.split(".")[-2] for name in after.keys() - changed} <= {"to_q", "to_k", "norm2"}
    now = copied(backbone.vae) | {f"head.{name}": t for name, t in copied(backbone.mask_head).items()}
    assert all(torch.equal(now[name], t) for name, t in frozen.items())
    parameters = [*backbone.vae.parameters(), *backbone.mask_head.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in parameters)


def test_a_few_steps_on_one_batch_lower_the_loss(task: FewShotTask) -> None:
    batch = task.batch(rng(1), 0.5)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(5):
        loss, _ = task.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_the_mask_head_starts_from_the_backbone(task: FewShotTask, backbone: CompactBackbone) -> None:
    head = backbone.mask_head.state_dict()
    assert all(torch.equal(t, head[name]) for name, t in task.model.mask_head.state_dict().items())
    assert task.model.mask_head is not backbone.mask_head


def test_the_first_weights_come_from_the_seed(
    packed: Pack, backbone: CompactBackbone, task: FewShotTask
) -> None:
    torch.manual_seed(99)
    again = build(OPTIONS, packed, backbone).model.state_dict()
    assert all(torch.equal(t, again[name]) for name, t in task.model.state_dict().items())


def test_an_export_loads_to_the_same_answers(task: FewShotTask, tmp_path: Path) -> None:
    task.export(task.model, tmp_path)
    weights = checkpoint.load(tmp_path / "fewshot.safetensors")
    assert weights.metadata == {"backbone": "compact"}
    inputs = task.encode(task.batch(rng(), 0.5))
    model = task.model.half().float().eval()  # the file holds half precision
    with torch.no_grad():
        expected = model(inputs)
        model.unet, model.translator = weights.network, weights.translator
        model.mask_head.load_state_dict(weights.mask_head)
        found = model(inputs)
        logits = model.mask_head(found)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert logits.shape == (12, 1, 64, 64)


def test_soft_dice() -> None:
    truth = torch.zeros(4, 10, 10)
    truth[:, :5] = 1
    guess = torch.stack([truth[0], 1 - truth[0], torch.zeros(10, 10), torch.full((10, 10), 0.5)])
    assert soft_dice(guess, truth).tolist() == pytest.approx([1, 1 / 101, 1 / 51, 51 / 101])
    assert soft_dice(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)).tolist() == [1]


def test_it_starts_from_the_denoiser_which_stays_as_it_is(packed: Pack, backbone: CompactBackbone) -> None:
    options = OPTIONS.model_copy(update={"start": "denoiser"})
    with pytest.raises(ModelError, match="no denoiser"):
        build(options, packed, backbone)
    assert backbone.folder is not None
    save_denoiser(new_denoiser(), backbone.folder)
    before = copied(backbone.unet)
    task = build(options, packed, backbone)
    network = task.model.unet
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k.weight"
    assert torch.equal(network.unet.state_dict()[name], before[name])
    torch.testing.assert_close(network.conv_in.weight[:, :4], before["conv_in.weight"] / 2)
    assert all(p.requires_grad for p in network.parameters())
    loss, _ = task.loss(task.batch(rng(), 0.5))
    loss.backward()
    assert all(torch.equal(t, before[name]) for name, t in backbone.unet.state_dict().items())
    assert not any(p.requires_grad for p in backbone.unet.parameters())


def test_a_prior_is_an_entrance_that_starts_without_effect(
    packed: Pack,
    backbone: CompactBackbone,
    task: FewShotTask,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from helpers.tiny_features import tiny_state as tiny

    monkeypatch.setattr(
        "latentseg.training.fewshot.sdfsmis.load_feature_network", lambda: FeatureNetwork(tiny())
    )
    task.export(task.model, tmp_path / "before")
    options = OPTIONS.model_copy(update={"prior": True})
    after = build(options, packed, backbone, weights=tmp_path / "before" / "fewshot.safetensors")
    batch = task.batch(rng(), 0.5)
    inputs, with_prior = task.encode(batch), after.encode(batch)
    assert inputs.prior.shape[1] == 0
    assert with_prior.prior.shape == (len(batch.query_masks), 3, 8, 8)
    assert with_prior.prior.std() > 0
    torch.testing.assert_close(task.model(inputs), after.model(with_prior), atol=2e-2, rtol=2e-2)
    loss, _ = after.loss(batch)
    loss.backward()
    entrance = after.model.unet.conv_in.weight.grad
    assert entrance is not None
    assert entrance[:, -3:].abs().max() > 0
    after.export(after.model, tmp_path / "after")
    assert checkpoint.load(tmp_path / "after" / "fewshot.safetensors").network.prior_channels == 3
    assert (tmp_path / "after" / "matching.safetensors").is_file()
    with pytest.raises(ModelError, match="unreadable"):
        build(options, packed, backbone, weights=tmp_path / "none.safetensors")
