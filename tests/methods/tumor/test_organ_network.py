"""Organs are told by a slice and those above and below it, whatever their distance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from latentseg.methods.tumor.organ_network import Run, between
from latentseg.methods.tumor.organs import OrganMaps
from latentseg.training.growth import grow_from
from latentseg.training.tumor.losses import lesion_loss

CHANNELS = ((4, 3), (6,), (5,))


def stages_of(count: int) -> list[Tensor]:
    """Random stages on grids of 16 to 4."""
    torch.manual_seed(1)
    shapes = [
        (channels, grid) for level, grid in zip(CHANNELS, (16, 8, 4), strict=True) for channels in level
    ]
    return [torch.randn(count, channels, grid, grid) for channels, grid in shapes]


@pytest.fixture
def maps() -> OrganMaps:
    """With random weights, also where training begins with zeros."""
    torch.manual_seed(0)
    maps = OrganMaps(("liver", "spleen"), CHANNELS, around=True).eval()
    for around in maps.around:
        for tensor in around.parameters():
            nn.init.normal_(tensor, std=0.3)
    return maps


def test_between_slices_by_hand() -> None:
    values = torch.tensor([0.0, 10.0, 20.0, 30.0, 7.0, 9.0])
    runs = [Run(4, 5.0), Run(2, 0.0)]
    above = between(runs, 7.0).of(values).tolist()
    assert above == pytest.approx([14.0, 24.0, 20.0, 30.0, 7.0, 9.0]), "the slice itself beyond the ends"
    below = between(runs, -5.0).of(values).tolist()
    assert below == pytest.approx([0.0, 0.0, 10.0, 20.0, 7.0, 9.0])


@torch.no_grad()
def test_neighbors_are_seen_and_strangers_are_not(maps: OrganMaps) -> None:
    stages = stages_of(6)
    together, alone = maps(stages, [Run(6, 5.0)]), maps(stages)
    assert together.shape == (6, 3, 16, 16)
    assert float((together - alone).abs().max()) > 1e-3
    torch.testing.assert_close(alone[2:3], maps([stage[2:3] for stage in stages], [Run(1, 5.0)]))
    apart = maps(stages, [Run(3, 5.0), Run(3, 5.0)])
    torch.testing.assert_close(apart[:3], maps([stage[:3] for stage in stages], [Run(3, 5.0)]))


@torch.no_grad()
def test_the_distance_of_slices_is_heeded(maps: OrganMaps) -> None:
    near, far = (maps(stages_of(5), [Run(5, step_mm)]) for step_mm in (5.0, 20.0))
    assert float((near - far).abs().max()) > 1e-3
    pictures = maps(stages_of(5), 5 * [Run(1, 5.0)])
    torch.testing.assert_close(pictures, maps(stages_of(5)))


@torch.no_grad()
def test_a_scan_takes_stages_in_half_precision_and_any_number_of_slices(maps: OrganMaps) -> None:
    stages = stages_of(20)
    told = maps.of_scan([stage.half() for stage in stages], 5.0)
    chances = told.organs
    assert told.lesions_of("liver") is None, "which these weights do not tell"
    assert chances.shape == (20, 3, 16, 16)
    torch.testing.assert_close(chances.sum(1), torch.ones(20, 16, 16))
    torch.testing.assert_close(chances, maps(stages, [Run(20, 5.0)]).softmax(1), atol=2e-2, rtol=0)
    assert maps.distances(chances, "liver").shape == (20, 1, 16, 16)


@torch.no_grad()
def test_it_grows_from_weights_that_see_one_slice() -> None:
    torch.manual_seed(0)
    single = OrganMaps(("liver", "spleen"), CHANNELS).eval()
    grown = OrganMaps(("liver", "spleen"), CHANNELS, around=True).eval()
    grow_from(grown, single.state_dict(), where=Path("tumor.safetensors"))
    stages = stages_of(6)
    torch.testing.assert_close(grown(stages, [Run(6, 5.0)]), single(stages))
    torch.testing.assert_close(grown.of_scan(stages, 5.0).organs, single.of_scan(stages, 5.0).organs)


def test_it_learns_what_only_neighbors_tell() -> None:
    """Two slices are alike, and one of them lies below a bright one."""
    torch.manual_seed(0)
    maps = OrganMaps(("liver",), CHANNELS, around=True)
    stages = stages_of(6)
    for stage in stages:
        stage[4] = stage[1]
    stages[3][2, 0] += 9.0
    stages[3][5, 0] -= 9.0
    truth = torch.zeros(6, 16, 16, dtype=torch.long)
    truth[1] = 1
    runs = [Run(3, 7.0), Run(3, 7.0)]
    optimizer = torch.optim.Adam(maps.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(maps(stages, runs), truth).backward()
        optimizer.step()
    chance = maps.eval()(stages, runs).softmax(1)[:, 1].detach()
    assert float(chance[1].mean()) > 0.8
    assert float(chance[4].mean()) < 0.2


def test_lesions_are_learned_beside_organs_by_what_neighbors_tell() -> None:
    """The same slice has a lesion below a bright one, and none below a dark one."""
    torch.manual_seed(0)
    maps = OrganMaps(("liver",), CHANNELS, around=True, lesions=True)
    before = maps.eval()(stages_of(6)).detach()
    maps.train()
    stages = stages_of(6)
    for stage in stages:
        stage[4] = stage[1]
    stages[3][2, 0] += 9.0
    stages[3][5, 0] -= 9.0
    shares = torch.zeros(6, 16, 16)
    shares[1, 4:9, 4:9] = 1
    sure, runs = torch.ones(6, dtype=torch.bool), [Run(3, 7.0), Run(3, 7.0)]
    optimizer = torch.optim.Adam(maps.lesions.parameters(), lr=1e-2)  # type: ignore[union-attr]  # it has them
    for _ in range(150):
        optimizer.zero_grad()
        lesions = maps.with_lesions(stages, runs)[1]
        assert lesions is not None
        lesion_loss(lesions[:, 0], shares, sure, sizes=[3, 3]).backward()
        optimizer.step()
    with torch.no_grad():
        found = maps.eval().with_lesions(stages, runs)[1]
    assert found is not None
    assert float(found[1, 0, 5:8, 5:8].min()) > 0 > float(found[4, 0, 5:8, 5:8].max())
    torch.testing.assert_close(maps(stages_of(6)), before, msg="organs do not change by that")


def test_a_lesion_that_is_not_outlined_is_no_mistake() -> None:
    odds = torch.full((2, 16, 16), -4.0, requires_grad=True)
    shares, sure = torch.zeros(2, 16, 16), torch.tensor([True, False])
    shares[:, 0, 0] = 1
    with torch.no_grad():
        odds[:, 8, 8] = 3.0
    lesion_loss(odds, shares, sure, sizes=[1, 1]).backward()
    assert odds.grad is not None
    assert odds.grad[0, 8, 8] > 0
    assert odds.grad[1, 8, 8] == 0
    assert (odds.grad[:, 0, 0] < 0).all(), "what is outlined counts in both"


def test_a_small_lesion_is_not_outweighed_by_a_large_one() -> None:
    shares = torch.zeros(2, 16, 16)
    shares[0, :2, :2] = shares[1, :8, :8] = 1
    odds = torch.zeros(2, 16, 16, requires_grad=True)
    lesion_loss(odds, shares, torch.ones(2, dtype=torch.bool), sizes=[2]).backward()
    assert odds.grad is not None
    assert float(odds.grad[0, 0, 0] / odds.grad[1, 0, 0]) > 2
