"""Organs are told by a slice and those above and below it, whatever their distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from latentseg.methods.tumor.organ_network import PLACES, Run, ScanPyramid, between
from latentseg.methods.tumor.organs import OrganMaps

CHANNELS = ((4, 3), (6,), (5,), (8,))


@pytest.fixture
def network() -> ScanPyramid:
    """With random weights, also where training begins with zeros."""
    torch.manual_seed(0)
    network = ScanPyramid(CHANNELS, 3).eval()
    for around in network.around:
        nn.init.normal_(around.out.weight, std=0.3)  # type: ignore[union-attr, arg-type]  # a convolution
    return network


def stages_of(count: int) -> list[Tensor]:
    """Random stages on grids of 32 to 4."""
    torch.manual_seed(1)
    grids = (32, 16, 8, 4)
    return [
        torch.randn(count, channels, grid, grid)
        for level, grid in zip(CHANNELS, grids, strict=True)
        for channels in level
    ]


def test_between_slices_by_hand() -> None:
    values = torch.tensor([0.0, 10.0, 20.0, 30.0, 7.0, 9.0])
    runs = [Run(4, 5.0), Run(2, 0.0)]
    above = between(runs, 7.0).of(values)
    assert above.tolist() == pytest.approx([14.0, 24.0, 20.0, 30.0, 7.0, 9.0]), (
        "the slice itself beyond the ends"
    )
    below = between(runs, -5.0).of(values)
    assert below.tolist() == pytest.approx([0.0, 0.0, 10.0, 20.0, 7.0, 9.0])


def test_neighbors_are_seen_and_strangers_are_not(network: ScanPyramid) -> None:
    stages = stages_of(6)
    with torch.no_grad():
        together = network(stages, [Run(6, 5.0)])
        alone = network(stages, [Run(6, 0.0)])
        one = network([stage[2:3] for stage in stages], [Run(1, 5.0)])
        apart = network(stages, [Run(3, 5.0), Run(3, 5.0)])
        first = network([stage[:3] for stage in stages], [Run(3, 5.0)])
    assert together.shape == (6, 3, 64, 64)
    assert float((together - alone).abs().max()) > 1e-3
    torch.testing.assert_close(alone[2:3], one)
    torch.testing.assert_close(apart[:3], first)


def test_slices_half_as_far_apart_look_the_same(network: ScanPyramid) -> None:
    """Between two alike slices lies another one like them."""
    few = [stage[:1].expand(4, -1, -1, -1) for stage in stages_of(1)]
    many = [stage.repeat(2, 1, 1, 1) for stage in few]
    with torch.no_grad():
        torch.testing.assert_close(network(few, [Run(4, 8.0)])[0], network(many, [Run(8, 4.0)])[0])


def test_a_scan_is_the_same_in_half_precision(network: ScanPyramid) -> None:
    del network
    torch.manual_seed(2)
    organs = OrganMaps(("liver", "spleen"), CHANNELS, around=True).eval()
    stages = stages_of(20)
    chances = organs.of_scan([stage.half() for stage in stages], 5.0)
    assert chances.shape == (20, 3, 64, 64)
    torch.testing.assert_close(chances.sum(1), torch.ones(20, 64, 64))
    with torch.no_grad():
        torch.testing.assert_close(chances, organs(stages, [Run(20, 5.0)]).softmax(1), atol=5e-3, rtol=0)
    assert organs.distances(chances, "liver").shape == (20, 1, 64, 64)


def test_it_learns_what_only_neighbors_tell() -> None:
    """The middle slice of three is an organ where the slice above it is bright."""
    torch.manual_seed(0)
    network = ScanPyramid(CHANNELS, 2)
    stages = stages_of(6)
    truth = torch.zeros(6, 64, 64, dtype=torch.long)
    for row in (2, 5):  # the uppermost of both runs
        stages[4][row] += 4 * torch.sign(torch.arange(8) - 3.5)[:, None, None] * (row == 2)
    truth[1] = 1
    for level in range(len(stages)):  # middle slices look alike
        stages[level][4] = stages[level][1]
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(stages, [Run(3, 7.0), Run(3, 7.0)]), truth).backward()
        optimizer.step()
    chance = network.eval()(stages, [Run(3, 7.0), Run(3, 7.0)]).softmax(1)[:, 1].detach()
    assert float(chance[1].mean()) > 0.8
    assert float(chance[4].mean()) < 0.2
    assert network.places.shape[-1] == PLACES
