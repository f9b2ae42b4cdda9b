"""Heights in the body: read from normalized slices, and how far a target is out of view."""

from __future__ import annotations

import math

import pytest
import torch

from latentseg.imaging.body import locate
from latentseg.imaging.network_input import square_slices
from latentseg.methods.fewshot.body_place import gap_mm, heights_mm
from latentseg.methods.fewshot.volume_matching import VolumeOptions
from latentseg.phantom.bodies import abdomen


def test_heights_are_those_of_the_scan() -> None:
    scan = abdomen(seed=0, shape=(64, 64, 12)).image
    seen = square_slices(scan, 256)
    along_mm = torch.arange(12) * seen.spacing_mm[0]
    found = heights_mm(
        torch.from_numpy(seen.images)[:, None], along_mm=along_mm, side_mm=256 * seen.spacing_mm[1]
    )
    assert found.shape == (12,)
    assert bool((found.diff() > 0).all())
    assert abs(float(found.mean()) - float(locate(scan).height_mm.mean())) < 60


@pytest.mark.parametrize(
    ("scan", "target", "gap"),
    [((0, 100), (50.0, 60.0), -50), ((0, 100), (130, 150), 30), ((0, 9), (-40, -9), 9)],
)
def test_gaps_by_hand(scan: tuple[float, float], target: tuple[float, float], gap: float) -> None:
    heights, unknown = torch.tensor(scan), torch.full((2,), torch.nan)
    assert gap_mm(heights, torch.tensor(target)) == gap
    assert gap_mm(heights, unknown, torch.tensor(target)) == gap
    assert math.isnan(gap_mm(unknown, torch.tensor(target)))


def test_what_fit_is_asked_for() -> None:
    options = VolumeOptions()
    assert options.least_fit_at(-10) == options.least_fit_in_place < options.least_fit_at(options.near_mm + 1)
    assert options.least_fit_at(options.farthest_mm + 1) == math.inf
    assert options.least_fit_at(math.nan) == options.least_fit
