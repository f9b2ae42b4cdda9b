"""A scan as cells: which are described, where they lie, and that the last slices are kept."""

from __future__ import annotations

import pytest
import torch

from latentseg.methods.fewshot.cells import ScanCells, described_slices, places, some
from latentseg.methods.fewshot.scan_cells import KEPT, KEPT_SLICES, CellsOfScans


@pytest.mark.parametrize(
    ("count", "step_mm", "described"),
    [(5, 5.0, [0, 1, 2, 3, 4]), (6, 2.5, [0, 2, 4]), (3, 12.0, [0, 1, 2]), (1, 1.0, [0]), (7, 1.0, [0, 5])],
)
def test_slices_about_five_millimeters_apart_are_described(
    count: int, step_mm: float, described: list[int]
) -> None:
    assert described_slices(count, step_mm).tolist() == described


def test_places_are_centers_in_millimeters() -> None:
    found = places(torch.tensor([0.0, 7.5]), 4, 80.0).view(2, 4, 4, 3)
    assert found[1, 0, 0].tolist() == [7.5, -30.0, -30.0]
    assert found[0, 3, 1].tolist() == [0.0, 30.0, -10.0]


def test_air_is_left_out_and_comes_back() -> None:
    images = torch.full((2, 1, 8, 8), -1.0)
    images[1, 0, :4, 4:] = 0.5
    features = torch.arange(2 * 3 * 2 * 2).float().view(2, 3, 2, 2)
    cells = ScanCells.of(features, images, along_mm=torch.tensor([0.0, 5.0]), side_mm=8.0)
    assert cells.body.nonzero().tolist() == [[1, 0, 1]]
    assert cells.features.tolist() == [features[1, :, 0, 1].tolist()]
    assert cells.places_mm.tolist() == [[5.0, -2.0, 2.0]]
    grid = cells.on_grid(torch.tensor([3.0]), empty=-1.0)
    assert grid.shape == (2, 2, 2)
    assert grid[1, 0, 1] == 3.0
    assert (grid == -1).sum() == 7


def test_some_are_drawn_evenly_and_always_the_same() -> None:
    indices = torch.arange(1000)
    drawn = some(indices, 100)
    assert drawn.equal(some(indices, 100))
    assert len(drawn.unique()) == 100
    assert 400 < float(drawn.float().mean()) < 600
    assert some(indices, 2000).equal(indices)


def test_a_slice_is_described_once() -> None:
    asked = []

    def features(images: torch.Tensor) -> torch.Tensor:
        asked.append(float(images.mean()))
        return torch.ones(1, 2, 4, 4) * images.mean()

    cells = CellsOfScans(features)  # type: ignore[arg-type]
    images = (torch.arange(5.0) / 8)[:, None, None, None].expand(5, 1, 8, 8).clone()
    first = cells(images, along_mm=torch.arange(5.0), side_mm=8.0)
    assert asked == [0, 0.125, 0.25, 0.375, 0.5]
    fewer = cells(images[[1, 3]].half(), along_mm=torch.tensor([1.0, 3.0]), side_mm=16.0)  # of a support
    assert len(asked) == 5
    assert fewer.features.equal(first.features.view(5, 16, 2)[[1, 3]].flatten(0, 1))
    assert fewer.places_mm[0].tolist() == [1, -6, -6]
    assert cells(images.clone(), along_mm=torch.arange(5.0), side_mm=8.0) is first
    for number in range(max(KEPT, KEPT_SLICES)):
        cells(images[:1] - (number + 1) / 512, along_mm=torch.zeros(1), side_mm=8.0)
    before = len(asked)
    cells(images[:2], along_mm=torch.arange(2.0), side_mm=8.0)
    assert len(asked) == before + 2
