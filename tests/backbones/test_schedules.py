"""Schedules against those of diffusers, and against their own definitions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from latentseg.backbones.schedules import RectifiedFlow, Schedule, VariancePreserving
from latentseg.backbones.stable_diffusion import read_schedule
from latentseg.errors import ModelError

BOTH = pytest.mark.parametrize("schedule", [RectifiedFlow(), VariancePreserving()])


def draw(seed: int, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def toy(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """A stand-in for a network that depends on both of its inputs."""
    return torch.tanh(latents) * (1 + timestep / 500)


def test_flow_steps_are_those_of_diffusers() -> None:
    theirs = FlowMatchEulerDiscreteScheduler()
    theirs.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    a = b = draw(0)
    for t, to, timestep in zip((1, 0.75, 0.5, 0.25), (0.75, 0.5, 0.25, 0), theirs.timesteps, strict=True):
        a = RectifiedFlow().step(a, toy(a, RectifiedFlow().timestep(t)), t, to)
        b = theirs.step(toy(b, int(timestep)), timestep, b).prev_sample
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_diffusion_steps_are_those_of_ddim() -> None:
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="trailing",
    )
    theirs.set_timesteps(5)
    ours = VariancePreserving()
    a = b = draw(1)
    for t, to, timestep in zip(
        (1, 0.8, 0.6, 0.4, 0.2), (0.8, 0.6, 0.4, 0.2, 0), theirs.timesteps, strict=True
    ):
        assert ours.timestep(t) == int(timestep)
        a = ours.step(a, toy(a, ours.timestep(t)), t, to)
        b = theirs.step(toy(b, int(timestep)), timestep, b).prev_sample
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    noised = theirs.add_noise(draw(2), draw(3), torch.tensor([599, 599]))
    torch.testing.assert_close(ours.noised(draw(2), draw(3), 0.6), noised)


@BOTH
def test_a_true_prediction_leads_back(schedule: Schedule) -> None:
    clean, noise = draw(4), draw(5)
    truth = noise - clean if isinstance(schedule, RectifiedFlow) else noise
    noisy = schedule.noised(clean, noise, 0.7)
    torch.testing.assert_close(schedule.clean(noisy, truth, 0.7), clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        schedule.step(noisy, truth, 0.7, 0.3), schedule.noised(clean, noise, 0.3), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(schedule.noised(clean, noise, 0), clean)


@BOTH
@pytest.mark.parametrize(("t", "to"), [(0.0, 0.4), (0.2, 0.9), (0.5, 1.0), (1.0, 1.0)])
def test_renoising_has_the_marginals_of_noising(schedule: Schedule, t: float, to: float) -> None:
    clean = torch.full((400, 4, 8, 8), 3.0)
    again = schedule.renoised(schedule.noised(clean, draw(6, 400), t), draw(7, 400), t, to)
    direct = schedule.noised(clean, draw(8, 400), to)
    assert float(again.mean()) == pytest.approx(float(direct.mean()), abs=0.02)
    assert float(again.std()) == pytest.approx(float(direct.std()), abs=0.02)


def test_the_schedule_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "scheduler_config.json"
    default = read_schedule(path)
    config = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    path.write_text(json.dumps(config), encoding="utf-8")
    a, b = (schedule.noised(draw(0), draw(1), 0.5) for schedule in (default, read_schedule(path)))
    assert torch.equal(a, b)
    path.write_text(json.dumps(config | {"beta_schedule": "linear"}), encoding="utf-8")
    assert not torch.equal(a, read_schedule(path).noised(draw(0), draw(1), 0.5))
    for odd in ({"beta_schedule": "squaredcos"}, {"prediction_type": "sample"}):
        path.write_text(json.dumps(config | odd), encoding="utf-8")
        with pytest.raises(ModelError, match="unknown noise schedule"):
            read_schedule(path)
