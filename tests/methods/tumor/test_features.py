"""Stages that the tumor networks look at: their order, their widths, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from latentseg.backbones.compact import CompactBackbone
from latentseg.errors import ModelError
from latentseg.methods.tumor.features import FrozenStages, TumorConfig, folded, levels_of


def test_stages_are_sorted_and_counted(tiny_tumor_model: Path) -> None:
    backbone = CompactBackbone.from_folder(tiny_tumor_model)
    stages = FrozenStages(backbone, TumorConfig(stages=(0, 1, 2), photographs=(), cell=2))
    found = stages(torch.zeros(2, 1, 64, 64))
    edges = [stage.shape[-1] for stage in found]
    assert edges == sorted(edges, reverse=True)
    assert edges[0] == 32
    assert [width for level in stages.channels() for width in level] == [stage.shape[1] for stage in found]


def test_fine_stages_are_pooled(tiny_tumor_model: Path) -> None:
    backbone = CompactBackbone.from_folder(tiny_tumor_model)
    stages = FrozenStages(backbone, TumorConfig(stages=(0, 1), photographs=(), cell=8))
    assert {stage.shape[-1] for stage in stages(torch.zeros(1, 1, 64, 64))} == {8}
    assert len(stages.channels()) == 1
    alone = FrozenStages(backbone, TumorConfig(stages=(0, 1), photographs=(), cell=8, pyramid=0))
    assert [len(level) for level in alone.channels()] == [1, 1, 1]  # each attends by itself; one is folded


def test_photographs_that_are_missing_are_said(tiny_tumor_model: Path) -> None:
    backbone = CompactBackbone.from_folder(tiny_tumor_model)
    with pytest.raises(ModelError, match="features of photographs are missing"):
        FrozenStages(backbone, TumorConfig(photographs=(1,)))


@pytest.mark.parametrize("dims", [2, 3])
def test_folding_keeps_every_pixel(dims: int) -> None:
    image = torch.arange(4.0**dims).reshape(1, 1, *[4] * dims)
    cells = folded(image)
    assert cells.shape == (1, 2**dims, *[2] * dims)
    assert sorted(cells.flatten().tolist()) == image.flatten().tolist()
    first = image[(0, 0, *[slice(2)] * dims)]
    assert sorted(cells[(0, slice(None), *[0] * dims)].tolist()) == sorted(first.flatten().tolist())


def test_levels_are_stages_of_one_grid() -> None:
    stages = [torch.zeros(1, 1, n, n) for n in (8, 8, 4)]
    assert [len(level) for level in levels_of(stages)] == [2, 1]
