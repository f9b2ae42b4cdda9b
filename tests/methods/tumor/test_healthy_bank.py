"""Healthy cells: what is near is found, places pull, banks survive the disk, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.backbones.weights import write_weights
from latentseg.errors import ModelError, UsageError
from latentseg.methods.tumor.healthy_bank import (
    Cells,
    HealthyBank,
    RetrievalOptions,
    grid_places,
    load_bank,
    save_bank,
)

WIDTH, EDGE = 6, 4


def bank(count: int = 40) -> HealthyBank:
    """Cells in random directions, whose latent is the number of the cell."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    latents = torch.arange(float(count))[:, None].expand(-1, 2)
    cells = Cells(directions, torch.rand(count, 2, generator=generator), latents)
    return HealthyBank({"CT abdomen": cells}, torch.eye(WIDTH), torch.zeros(WIDTH))


def features_of(directions: Tensor) -> Tensor:
    """One slice ``(1, D, EDGE, EDGE)`` whose first cells have these directions."""
    filled = torch.ones(EDGE * EDGE, WIDTH)
    filled[: len(directions)] = directions
    return filled.T.reshape(1, WIDTH, EDGE, EDGE)


def test_what_is_in_the_bank_is_found() -> None:
    cells = bank().groups["CT abdomen"]
    options = RetrievalOptions(nearest=1, pull=0.0)
    found = bank().compare(features_of(3 * cells.directions[[7, 11]]), "CT abdomen", options=options)
    assert found.distance.shape == (1, 1, EDGE, EDGE)
    assert found.latents.shape == (1, 2, EDGE, EDGE)
    assert found.latents[0, :, 0, :2].tolist() == [[7, 11], [7, 11]]
    torch.testing.assert_close(found.distance[0, 0, 0, :2], torch.zeros(2), atol=1e-5, rtol=0)
    assert float(found.distance[0, 0, 1:].min()) > 0.01


def test_neighbors_are_averaged() -> None:
    every = RetrievalOptions(nearest=999, pull=0.0)
    found = bank(10).compare(features_of(torch.zeros(0, WIDTH)), "CT abdomen", options=every)
    torch.testing.assert_close(found.latents, torch.full_like(found.latents, 4.5))


def test_the_pull_prefers_the_same_place() -> None:
    places = grid_places(EDGE)
    same = F.normalize(torch.ones(len(places), WIDTH), dim=1)
    cells = Cells(same, places, torch.arange(float(len(places)))[:, None])
    aligned = HealthyBank({"x": cells}, torch.eye(WIDTH), torch.zeros(WIDTH))
    options = RetrievalOptions(nearest=1, pull=1.0)
    found = aligned.compare(features_of(torch.zeros(0, WIDTH)), "x", options=options)
    assert found.latents.flatten().tolist() == list(range(EDGE * EDGE))
    torch.testing.assert_close(found.distance, torch.zeros_like(found.distance), atol=1e-5, rtol=0)


def test_places_are_those_of_a_flattened_grid() -> None:
    assert grid_places(2).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


def test_banks_on_disk(tmp_path: Path) -> None:
    save_bank(bank(), tmp_path / "bank.safetensors")
    again = load_bank(tmp_path / "bank.safetensors")
    assert again.groups.keys() == {"CT abdomen"}
    for one, other in zip(again.groups["CT abdomen"], bank().groups["CT abdomen"], strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)
    write_weights(tmp_path / "other.safetensors", {"a/directions": torch.zeros(2, 2)})
    with pytest.raises(ModelError, match=r"no bank of healthy cells.*places.*healthy-bank"):
        load_bank(tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_bank(tmp_path / "missing.safetensors")


def test_wrong_questions() -> None:
    with pytest.raises(UsageError, match=r"no healthy cells 'MR knee'.*CT abdomen"):
        bank().compare(features_of(torch.zeros(0, WIDTH)), "MR knee")
    with pytest.raises(UsageError, match="0 neighbors"):
        RetrievalOptions(nearest=0)
