"""Whole scans compared with whole scans, on bodies whose every cell is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from latentseg.methods.fewshot.cell_margins import (
    FAR,
    REACH_MM,
    Placed,
    beside_box,
    best,
    every_other,
    joint_margin,
    margin,
    weights_of,
)
from latentseg.methods.fewshot.cells import ScanCells, on_slices
from latentseg.methods.fewshot.local_placement import largest, moved
from latentseg.methods.fewshot.part import EncodedScan, Examples, Search
from latentseg.methods.fewshot.slices_only import SlicesOnly
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.methods.fewshot.target_evidence import ELSEWHERE, UNLIKE, evidence, looks
from latentseg.methods.fewshot.volume_example import VolumeExample, comparable, likeness_of, principal_axes
from latentseg.methods.fewshot.volume_matching import VolumeMatching, VolumeOptions, examples_of

EDGE, SLICES, SIDE_MM = 12, 14, 120.0
SPACING_MM = (5.0, SIDE_MM / 48, SIDE_MM / 48)
ORGAN = slice(5, 9), slice(3, 7), slice(6, 10)  # slices, rows and columns of cells


def body(*, seed: int = 0, organ: np.ndarray | None = None) -> Tensor:
    """Slices ``(S, 1, 48, 48)``: every cell looks different, those of the organ a bit alike."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(SLICES, 1, 48, 48, generator=random) - 0.5
    pattern = (torch.arange(16).view(4, 4) % 3 - 1).repeat(12, 12)
    inside = torch.from_numpy(mask() if organ is None else organ)[:, None]
    return noise + 0.3 * pattern * inside


def features(images: Tensor) -> Tensor:
    """What a cell looks like is the grey values of its pixels."""
    cells = torch.nn.functional.unfold(images, 4, stride=4).unflatten(2, (EDGE, EDGE))
    return torch.nn.functional.normalize(cells, dim=1)


def mask(shift: int = 0) -> np.ndarray:
    cells = np.zeros((SLICES, EDGE, EDGE), bool)
    cells[slice(ORGAN[0].start + shift, ORGAN[0].stop + shift), *ORGAN[1:]] = True
    return cells.repeat(4, 1).repeat(4, 2)


def shown(images: Tensor, marked: np.ndarray) -> SupportScan:
    return SupportScan.of(images[:, 0].numpy(), marked, step_mm=5.0, side_mm=SIDE_MM)


def matching(**options: object) -> VolumeMatching:
    return VolumeMatching(features, VolumeOptions(**options))  # type: ignore[arg-type]


def own_example(images: Tensor) -> tuple[VolumeExample, ScanCells]:
    """A body as an example, and as a scan."""
    examples = Examples(images[:1], torch.zeros(1, 48, 48), 1, (shown(images, mask()),))
    (example,) = examples_of(matching().of_support(examples), torch.device("cpu"))
    return example, ScanCells.of(
        features(images), images, along_mm=5.0 * torch.arange(SLICES), side_mm=SIDE_MM
    )


def found(part: VolumeMatching, scans: tuple[SupportScan, ...], images: Tensor) -> Search:
    examples = Examples(images[:1], torch.zeros(1, 48, 48), 1, scans)
    scan = EncodedScan(images, SPACING_MM)
    return part(Search.everywhere(scan), scan, part.of_support(examples))


def dice(search: Search, truth: np.ndarray) -> float:
    answer = search.log_odds.numpy() > 0
    return float(2 * (answer & truth).sum() / (answer.sum() + truth.sum()))


def test_a_target_is_found_where_it_is_though_the_scan_starts_elsewhere() -> None:
    images = body()
    moved_up = torch.cat([body(seed=1, organ=mask(5))[:3], images[:-3]])
    search = found(matching(), (shown(images, mask()),), moved_up)
    assert dice(search, mask(3)) > 0.8
    assert search.reason == ""
    assert search.in_view.min() > 0.9


def test_a_scan_of_something_else_is_out_of_view() -> None:
    strict = matching(least_fit_in_place=0.06)  # heights of noise tell nothing
    search = found(strict, (shown(body(), mask()),), body(seed=1))
    assert search.in_view.max() < 0.5
    assert search.reason == ELSEWHERE


def test_a_poor_example_does_not_spoil_a_good_one() -> None:
    images = body()
    good, poor = shown(images, mask()), shown(body(seed=1), mask(2))
    alone, together = (found(matching(), scans, images) for scans in ((good,), (poor, good)))
    assert dice(together, mask()) > dice(alone, mask()) - 0.02
    assert dice(found(matching(examples=1), (poor, good), images), mask()) == dice(alone, mask())
    assert together.reason == ""


def test_what_is_not_marked_is_not_outside_where_slices_are_missing() -> None:
    images, marked = body(), mask()
    marked[[6, 8]] = False  # two of four slices were marked
    part = matching()
    tensors = part.of_support(Examples(images[:1], torch.zeros(1, 48, 48), 1, (shown(images, marked),)))
    (example,) = examples_of(tensors, torch.device("cpu"))
    assert set(example.target_mm[:, 0].tolist()) == {25.0, 35.0}
    assert set(example.rest_mm[:, 0].tolist()) == {25.0, 35.0}  # 40 mm wide: unknown up to 40 mm beyond


def test_targets_without_a_whole_scan_are_left_to_other_parts() -> None:
    images, part = body(), matching()
    assert part.of_support(Examples(images[:1], torch.ones(1, 48, 48), 1)) == {}
    search = found(part, (), images)
    assert not search.log_odds.any()
    empty = shown(torch.full((SLICES, 1, 48, 48), -1.0), mask())
    assert part.of_support(Examples(images[:1], torch.ones(1, 48, 48), 1, (empty,))) == {}  # marked in air


def test_many_examples_are_described_and_aligned_once_for_all_targets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aligned, described, part = [], [], matching()
    place, describe = Placed.of, part.cells.features
    monkeypatch.setattr(Placed, "of", lambda *pair: aligned.append(pair) or place(*pair))
    part.cells.features = lambda images: described.append(images) or describe(images)  # type: ignore[assignment]
    scans = [body(seed=seed) for seed in range(1, 9)]
    for shift in (0, 1, 2):
        found(part, tuple(shown(images, mask(shift)) for images in scans), body())
    assert len(aligned) == 8
    assert len(described) == 9 * SLICES


def test_the_second_search_is_centered_on_what_was_found() -> None:
    images = body()
    example, cells = own_example(images)
    placed = Placed.of(cells, example)
    displaced = replace(placed, places_mm=placed.places_mm + torch.tensor([20.0, -10.0, 0.0]))
    margins = torch.where(torch.from_numpy(mask()[:, ::4, ::4]), 0.2, -0.3)
    back = moved(displaced, example, cells, margins)
    torch.testing.assert_close(back.places_mm, placed.places_mm, atol=3.0, rtol=0)
    assert moved(displaced, example, cells, torch.full_like(margins, -0.3)) is displaced


def test_what_resembles_the_target_speaks_for_it() -> None:
    images = body()
    part = matching()
    tensors = part.of_support(Examples(images[:1], torch.zeros(1, 48, 48), 1, (shown(images, mask()),)))
    (example,) = examples_of(tensors, torch.device("cpu"))
    cells = ScanCells.of(features(images), images, along_mm=5.0 * torch.arange(SLICES), side_mm=SIDE_MM)
    placed, organ = Placed.of(cells, example), torch.from_numpy(mask()[:, ::4, ::4])[cells.body]
    margins = torch.where(organ, 0.4, -0.3)
    there = evidence(example, placed, margins, pull_mm=170.0)
    assert there == pytest.approx(
        1 - placed.alignment.alike + 0.55 * 0.4, abs=0.05
    )  # every cell has its like
    others = replace(placed, features=placed.features[~organ], places_mm=placed.places_mm[~organ])
    assert evidence(example, others, torch.full((len(others.features),), 0.01), pull_mm=170.0) < there - 0.5
    assert evidence(example, placed, torch.full_like(margins, -0.3), pull_mm=170.0) == -1


def test_what_was_found_for_its_place_alone_speaks_against_the_target() -> None:
    images = body()
    example, cells = own_example(images)
    placed, organ = Placed.of(cells, example), torch.from_numpy(mask()[:, ::4, ::4])
    there = looks(example, placed, cells, torch.where(organ, 0.4, -0.3))
    assert looks(example, placed, cells, torch.where(organ, -0.3, 0.4)) < there - 0.5
    assert looks(example, placed, cells, torch.full(organ.shape, -0.3)) == -1
    away = replace(placed, places_mm=placed.places_mm + torch.tensor([0.0, 77.0, 0.0]))
    assert looks(example, away, cells, torch.where(organ, 0.4, -0.3)) == pytest.approx(there - 0.1, abs=0.01)
    few = replace(example, complete=torch.tensor(False))
    assert looks(few, away, cells, torch.where(organ, 0.4, -0.3)) == pytest.approx(there, abs=0.01)


def test_likeness_is_that_of_far_cells() -> None:
    places = torch.tensor([[0.0, 0, 0], [0, 10, 0], [100, 0, 0], [100, 10, 0]])
    apart = torch.eye(4)
    assert likeness_of(apart, places) == pytest.approx(-1 / 3)  # two far cells that differ, none else
    assert likeness_of(torch.ones(4, 4) / 2, places) == pytest.approx(1 / 3)


def test_results_are_examples_after_those_that_were_marked() -> None:
    images, other = body(), body(seed=1)
    marked = shown(other, mask())
    result = replace(shown(images, mask()), found=True)
    wrong = replace(shown(images, mask(2)), found=True)
    alone, with_own = (found(matching(), scans, images) for scans in ((marked,), (marked, wrong)))
    assert torch.equal(alone.log_odds, with_own.log_odds), "a scan is not compared with its own result"
    again = body(seed=2, organ=mask())
    helped = found(matching(), (marked, result), again)
    assert [one.number for one in helped.placements] == [0, 1]
    first = found(matching(examples=1), (result, marked), again)
    assert [one.number for one in first.placements] == [1], "what was marked comes first"


def test_where_scans_are_alike_small_margins_are_not_enough() -> None:
    images = body()
    usual, less = (
        found(matching(level=share, small=(1, 2)), (shown(images, mask()),), images).log_odds
        for share in (0.1, 0.5)
    )
    assert torch.all(less < usual)
    assert (less > 0).sum() < (usual > 0).sum()


def test_small_margins_are_enough_for_small_targets() -> None:
    images = body()
    small, other = (
        found(matching(level=share, small=(1000, 2000)), (shown(images, mask()),), images).log_odds
        for share in (0.1, 0.5)
    )
    assert torch.equal(small, other)


def test_a_scan_is_laid_on_an_example_once_for_all_targets(monkeypatch) -> None:
    images, part, asked = body(), matching(), []
    monkeypatch.setattr(Placed, "of", lambda *which, of=Placed.of: asked.append(which) or of(*which))
    first = found(part, (shown(images, mask()),), images)
    assert found(part, (shown(images, mask(1)),), images).log_odds.ne(first.log_odds).any()
    assert len(asked) == 1
    found(part, (shown(images, mask()),), body(seed=1))
    assert len(asked) == 2


def test_a_scan_without_the_target_has_none() -> None:
    images = body()
    organ = torch.from_numpy(mask())[:, None]
    without = torch.where(organ, body(seed=2, organ=np.zeros_like(mask())), images)
    without = without + 0.1 * (body(seed=3, organ=np.zeros_like(mask())))  # no two scans are the same
    search = found(matching(), (shown(images, mask()),), without)
    assert search.likely < 0.5
    assert search.reason == UNLIKE


def test_in_a_scan_that_is_an_example_itself_the_target_is_there() -> None:
    images, one_slice = body(), mask()
    one_slice[[*range(6), *range(7, SLICES)]] = False
    known = SupportScan.of(images[:, 0].numpy(), one_slice, step_mm=5.0, side_mm=SIDE_MM, complete=False)
    search = found(matching(least_evidence=9.0), (known,), images)
    assert (search.in_view.min(), search.likely, search.reason) == (1, 1, "")
    assert found(matching(least_evidence=9.0), (known,), body(seed=1)).likely < 0.5


def test_far_cells_are_not_compared() -> None:
    images = body()
    part = matching()
    tensors = part.of_support(Examples(images[:1], torch.zeros(1, 48, 48), 1, (shown(images, mask()),)))
    (example,) = examples_of(tensors, torch.device("cpu"))
    cells = ScanCells.of(features(images), images, along_mm=5.0 * torch.arange(SLICES), side_mm=SIDE_MM)
    placed = Placed.of(cells, example)
    away = replace(placed, places_mm=placed.places_mm + 2 * REACH_MM)
    assert (margin(cells, example, away, pull_mm=250.0) == FAR).all()
    near = margin(cells, example, placed, pull_mm=250.0)
    assert near.shape == cells.body.shape
    assert (near > 0).sum() > 0.9 * np.prod([4, 4, 4])
    pairs = [(example, placed)] * 2
    assert weights_of(pairs, 2.0).tolist() == [0.5, 0.5]
    assert joint_margin(cells, pairs, weights_of(pairs, 2.0), pull_mm=250.0).allclose(near)


def test_pieces() -> None:
    assert best(torch.tensor([[1.0, 5.0, 3.0, 4.0]])).tolist() == [4.0]
    assert best(torch.tensor([[1.0]])).tolist() == [1.0]
    many = torch.rand(3, 1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(best(many), many.topk(3, 1).values.mean(1), atol=0.02, rtol=0)
    assert every_other(torch.ones(4, 4, 4, dtype=torch.bool)).sum() == 16
    box = torch.tensor([[0.0, 0.0, 0.0], [10.0, 10.0, 10.0]])
    assert beside_box(torch.tensor([[5.0, 5.0, 5.0], [13.0, 14.0, 5.0]]), box).tolist() == [0.0, 25.0]
    two = torch.zeros(5, 5, 5, dtype=torch.bool)
    two[0, 0, 0] = two[2:4, 2:4, 2:4] = True
    assert largest(two).sum() == 8
    assert not largest(torch.zeros(2, 2, 2, dtype=torch.bool)).any()
    mean, axes = principal_axes(torch.randn(50, 7, generator=torch.Generator().manual_seed(0)))
    assert (mean.shape, axes.shape) == ((7,), (7, 7))
    torch.testing.assert_close(axes.T @ axes, torch.eye(7), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("described", "expected"), [([0, 2, 4], [0.0, 1, 2, 3, 4, 4]), ([0], [0.0] * 6)])
def test_slices_between_described_ones_lie_between(described: list[int], expected: list[float]) -> None:
    margins = torch.tensor(described).float()[:, None, None].expand(-1, 2, 2)
    out = on_slices(margins, torch.tensor(described), (6, 4, 4))
    assert out.shape == (6, 4, 4)
    assert out[:, 0, 0].tolist() == expected


def test_examples_are_saved_and_read() -> None:
    images = body()
    tensors = matching().of_support(
        Examples(images[:1], torch.zeros(1, 48, 48), 1, (shown(images, mask()), shown(images, mask(2))))
    )
    first, second = examples_of(tensors, torch.device("cpu"))
    assert isinstance(first, VolumeExample)
    assert not first.target_mm.equal(second.target_mm)
    assert first.sample.dtype == torch.float16


def test_parts_of_slices_are_left_out_where_scans_were_shown() -> None:
    class Counting(VolumeMatching):
        name = "counting"

        def __init__(self) -> None:
            self.scans = 0

        def of_support(self, examples: Examples) -> dict[str, Tensor]:
            return {"known": torch.tensor(len(examples.images))}

        def of_scan(self, images: Tensor) -> dict[str, Tensor]:
            self.scans += len(images)
            return {"kept": images.mean((1, 2, 3))}

        def __call__(self, search: Search, scan: EncodedScan, support: dict[str, Tensor]) -> Search:
            assert support == {"known": torch.tensor(1)}
            assert scan.of(self.name)["kept"].shape == (SLICES,)
            return replace(search, log_odds=search.log_odds + 1)

    images, inner = body(), Counting()
    part, scan = SlicesOnly(inner, edge=EDGE, slab=8), EncodedScan(images, SPACING_MM, {})
    assert part.name == "counting"
    whole = part.of_support(Examples(images[:1], torch.ones(1, 48, 48), 1, (shown(images, mask()),)))
    assert whole == {}
    start = Search.everywhere(scan)
    assert part(start, scan, whole) is start
    assert inner.scans == 0
    slices = part.of_support(Examples(images[:1], torch.ones(1, 48, 48), 1))
    for _ in range(2):
        assert part(start, scan, slices).log_odds.min() == 1
    assert inner.scans == SLICES  # once


def test_scans_without_references_are_compared_slice_by_slice() -> None:
    images = body()
    everywhere = shown(images, np.ones_like(mask()))
    in_air = shown(torch.full((SLICES, 1, 48, 48), -1.0), mask())
    for scan in (everywhere, in_air):
        assert not comparable((scan,), EDGE)
        examples = Examples(images[:1], torch.ones(1, 48, 48), 1, (scan,))
        assert matching().of_support(examples) == {}
        assert SlicesOnly(matching(), edge=EDGE).of_support(examples) != {}
    assert comparable((in_air, shown(images, mask())), EDGE)
    assert not comparable((), EDGE)
