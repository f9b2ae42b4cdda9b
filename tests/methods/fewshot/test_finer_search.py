"""Small targets are searched again in finer cells, on bodies whose every cell is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from latentseg.methods.fewshot.finer_search import FinerOptions, FinerSearch, Square
from latentseg.methods.fewshot.part import EncodedScan, Examples, Search
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.methods.fewshot.target_evidence import ELSEWHERE, UNLIKE
from latentseg.methods.fewshot.volume_example import size_in_cells
from latentseg.methods.fewshot.volume_matching import VolumeMatching, VolumeOptions

PIXELS, SLICES, SIDE_MM = 64, 14, 320.0
SPACING_MM = (5.0, SIDE_MM / PIXELS, SIDE_MM / PIXELS)


class Greys:
    """What a cell looks like: the grey values around it, smoothed."""

    grid = 16
    device = torch.device("cpu")

    def __call__(self, images: Tensor) -> Tensor:
        smooth = torch.nn.functional.avg_pool2d(images.float(), 3, 1, 1)
        patches = torch.nn.functional.unfold(smooth, 8, padding=2, stride=4).unflatten(2, (16, 16))
        return torch.nn.functional.normalize(patches + 1e-3, dim=1)


def organ(start: int = 5, *, size: int = 7) -> np.ndarray:
    """A target ``(S, H, W)`` less than two cells wide."""
    marked = np.zeros((SLICES, PIXELS, PIXELS), bool)
    marked[start : start + 4, 27 : 27 + size, 22 : 22 + size] = True
    return marked


def body(marked: np.ndarray, *, seed: int = 0) -> Tensor:
    """Slices ``(S, 1, H, W)`` of coarse texture, the target brighter."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(SLICES, 1, 16, 16, generator=random) * 0.8 - 0.5
    texture = torch.nn.functional.interpolate(coarse, size=(PIXELS, PIXELS), mode="bilinear")
    return torch.where(torch.from_numpy(marked)[:, None], torch.tensor(0.9), texture)


def two_higher(images: Tensor) -> Tensor:
    """The same body in another scan, which begins two slices lower and has noise of its own."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(9))
    return torch.cat([body(organ(20))[:2], images[:-2]]) + 0.15 * noise


def shown(images: Tensor, marked: np.ndarray) -> SupportScan:
    return SupportScan.of(images[:, 0].numpy(), marked, step_mm=5.0, side_mm=SIDE_MM)


def searched(
    scans: tuple[SupportScan, ...], images: Tensor, options: FinerOptions | None = None
) -> tuple[Search, Search]:
    """After the search in large cells, and after the one in finer cells."""
    examples = Examples(images[:1], torch.zeros(1, PIXELS, PIXELS), 1, scans)
    whole, finer = VolumeMatching(Greys(), VolumeOptions()), FinerSearch(Greys(), options)  # type: ignore[arg-type]
    scan = EncodedScan(images, SPACING_MM)
    first = whole(Search.everywhere(scan), scan, whole.of_support(examples))
    return first, finer(first, scan, finer.of_support(examples))


def dice(search: Search, truth: np.ndarray) -> float:
    answer = search.log_odds.numpy() > 0
    return float(2 * (answer & truth).sum() / (answer.sum() + truth.sum()))


def test_a_small_target_is_outlined_better_in_finer_cells() -> None:
    example, truth = organ(), organ(7)
    images = two_higher(body(example))
    first, finer = searched((shown(body(example), example),), images)
    assert dice(finer, truth) > 0.7
    assert dice(finer, truth) > dice(first, truth) + 0.05
    assert finer.reason == ""


@pytest.mark.parametrize(("score", "reason"), [(0.0, ""), (-0.4, UNLIKE)])
def test_finer_cells_say_whether_a_small_target_is_there(
    score: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentseg.methods.fewshot.finer_search.evidence", lambda *_, **__: score)
    example, alone = organ(), FinerOptions(cells=(1000, 2000), weight=(1, 0))
    _, finer = searched((shown(body(example), example),), two_higher(body(example)), alone)
    assert (finer.likely < 0.01) == bool(reason)
    assert finer.reason == reason


def test_why_the_scan_shows_something_else_stays() -> None:
    example = organ()
    first, finer = searched((shown(body(example), example),), body(organ(30), seed=5))
    assert first.reason == ELSEWHERE
    assert finer.reason == ELSEWHERE


def test_a_large_target_is_left_alone() -> None:
    large = organ(2, size=36)
    first, finer = searched((shown(body(large), large),), body(large))
    assert torch.equal(first.log_odds, finer.log_odds)
    assert finer.likely == first.likely


def test_a_large_target_of_which_one_slice_is_marked_is_not_small() -> None:
    one_slice = organ(2, size=36)
    one_slice[3:] = False
    known = SupportScan.of(
        body(one_slice)[:, 0].numpy(), one_slice, step_mm=5.0, side_mm=SIDE_MM, complete=False
    )
    first, finer = searched((known,), body(one_slice))
    assert torch.equal(first.log_odds, finer.log_odds)


@pytest.mark.parametrize(("of_slices", "size"), [([4] * 20, 80), ([100], 1000), ([9, 9, 9], 27)])
def test_the_size_of_a_target(of_slices: list[int], size: float) -> None:
    assert size_in_cells(torch.tensor(of_slices)) == pytest.approx(size)


def test_in_its_own_scan_a_small_target_is_there() -> None:
    example = organ()
    _, finer = searched((shown(body(example), example),), body(example))
    assert finer.likely == 1
    assert finer.reason == ""
    assert dice(finer, example) > 0.7


def test_of_several_examples_each_keeps_its_number() -> None:
    """An example that has no references has no number, in neither search."""
    example = organ()
    air = SupportScan.of(
        np.full((SLICES, PIXELS, PIXELS), -1, np.float32), example, step_mm=5.0, side_mm=SIDE_MM
    )
    good = shown(body(example), example)
    alone, both = searched((good,), body(example))[1], searched((air, good), body(example))[1]
    assert torch.equal(alone.log_odds, both.log_odds)


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_larger_the_target_the_less_the_finer_search_counts(one: int, other: int) -> None:
    weight = FinerOptions().weight_of
    assert 0 <= weight(max(one, other)) <= weight(min(one, other)) <= 1


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (-40.0, 60.0)])
def test_a_square_is_cut_where_it_is_in_millimeters(down: float, right: float) -> None:
    images = torch.zeros(1, 1, PIXELS, PIXELS)
    row, column = (round(PIXELS * (at / SIDE_MM + 0.5)) for at in (down, right))
    images[0, 0, row - 1 : row + 1, column - 1 : column + 1] = 1
    cuts = Square(torch.tensor([down, right]), 80.0).cuts(1, pixels=PIXELS, slice_mm=SIDE_MM)
    enlarged = cuts.of(images)[0, 0]
    middle = PIXELS // 2
    assert enlarged[middle - 2 : middle + 2, middle - 2 : middle + 2].min() > 0.5
    assert enlarged.sum() < 1.3 * 16 * 4  # four pixels, each four times as wide
