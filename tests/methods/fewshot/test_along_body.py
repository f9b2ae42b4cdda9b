"""Where along the body the target can be: scans of one course, shifted, stretched, cut and strange."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from latentseg.methods.fewshot.along_body import (
    AxisOptions,
    SupportAxis,
    coarse_region,
    course,
    examples_beside,
    places,
    seen_length,
    shown_by,
)
from latentseg.methods.fewshot.scan_features import coarse
from latentseg.methods.fewshot.support_scan import SupportScan

BODY = torch.randn(41, 6, 8, 8, generator=torch.Generator().manual_seed(0))  # coarse features every 5 mm


def slices_at(positions_mm: np.ndarray) -> Tensor:
    """Coarse features of slices at some heights of the body."""
    below = np.clip(positions_mm / 5, 0, 39.999).astype(int)
    share = torch.tensor(positions_mm / 5 - below, dtype=torch.float32)[:, None, None, None]
    return BODY[below] * (1 - share) + BODY[below + 1] * share


def chance(slices: Tensor, axes: list[SupportAxis], *, step_mm: float = 5.0) -> np.ndarray:
    return shown_by([course(slices, axis, step_mm, AxisOptions()) for axis in axes], axes)


THIRDS = torch.tensor([1 / 6, 1 / 2, 5 / 6])


def axis(first: int = 12, last: int = 20) -> SupportAxis:
    holds = torch.zeros(40, dtype=torch.bool)
    holds[first : last + 1] = True
    return SupportAxis(BODY[:40], holds, torch.ones(8, 8), torch.tensor(5.0), THIRDS)


def test_the_same_scan_shows_the_target_where_the_support_does() -> None:
    shown = chance(BODY[:40], [axis()], step_mm=5.0)
    assert (shown >= 0.5).tolist() == axis().holds.tolist()


@pytest.mark.parametrize("step_mm", [2.5, 4.0, 7.5])
def test_other_spacings_and_a_shift_are_seen_through(step_mm: float) -> None:
    at = np.arange(15, 190, step_mm)
    shown = chance(slices_at(at), [axis()], step_mm=step_mm) >= 0.5
    inside = (at > 62.5) & (at < 97.5)
    outside = (at < 52.5) | (at > 107.5)
    assert shown[inside].all()
    assert not shown[outside].any()


def test_a_scan_that_ends_before_the_target_does_not_show_it() -> None:
    assert chance(BODY[24:40], [axis()], step_mm=5.0).max() < 0.5


def test_a_gap_is_jumped_over() -> None:
    rest = torch.cat([BODY[:12], BODY[21:40]])
    assert chance(rest, [axis()], step_mm=5.0).max() < 0.5


def seen(shown: np.ndarray, *axes: SupportAxis) -> float:
    return seen_length(shown, axes, step_mm=5.0, options=AxisOptions(length=0.8))


def test_a_target_much_shorter_than_in_the_support_is_hardly_there() -> None:
    shown = np.zeros(40)
    shown[12:21] = 1
    assert seen(shown, axis()) == 1.0
    shown[12:18] = 0
    assert seen(shown, axis()) == pytest.approx(3 / (0.8 * 9))
    assert seen(shown, axis(12, 20), axis(10, 24)) == pytest.approx(3 / (0.8 * 12))
    assert seen(np.roll(shown, -18), axis()) == 1.0  # may go on beyond the scan
    assert seen(np.zeros(40), axis()) == 0.0


def test_several_supports_are_averaged() -> None:
    one, other = axis(12, 20), axis(16, 24)
    both = chance(BODY[:40], [one, other], step_mm=5.0)
    alone = [chance(BODY[:40], [each], step_mm=5.0) for each in (one, other)]
    np.testing.assert_allclose(both, np.mean(alone, axis=0))


def test_a_scan_without_any_content_is_no_error() -> None:
    shown = chance(torch.zeros(5, 6, 8, 8), [axis()], step_mm=5.0)
    assert np.isfinite(shown).all()


def test_forward_and_backward_by_hand() -> None:
    cosines = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = places(cosines, 5.0, 5.0, AxisOptions(temperature=0.01, drift=0.1))
    assert found[0].argmax() == 0
    assert found[1].argmax() == 1  # nothing to see there, but one step further on
    np.testing.assert_allclose(found.sum(1), 1)


def test_coarse_features_and_region() -> None:
    features = torch.arange(2 * 3 * 32 * 32).float().view(2, 3, 32, 32)
    assert coarse(features).shape == (2, 3, 8, 8)
    assert coarse(features).dtype == torch.float16
    mask = torch.zeros(256, 256, dtype=torch.bool)
    mask[70, 100] = True
    region = coarse_region(mask)
    assert region.nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (2, 3, 4)]


def test_a_scan_tells_where_the_target_ends_or_is_left_out() -> None:
    images, region = np.zeros((9, 4, 4), np.float32), np.ones((4, 4), bool)

    def of(*held: int, step_mm: float = 5.0) -> tuple[SupportScan, ...]:
        inside = np.isin(np.arange(9), held)
        return SupportScan.of(images, inside, region, step_mm=step_mm, chosen=held[:2])

    assert np.flatnonzero(of(2, 3, 6)[0].holds).tolist() == [2, 3, 4, 5, 6]  # one run
    assert of(2, 3) == ()  # two slices may be all that were drawn on
    assert of(*range(9)) == ()
    (thin,) = of(2, 3, 4, 5, step_mm=2.5)
    assert (len(thin.images), thin.step_mm, thin.holds.tolist()) == (4, 5.0, [0, 1, 1, 0])
    np.testing.assert_allclose(thin.marked, [0.125, 0.375])
    (thinnest,) = of(4, 5, 6, step_mm=0.6)
    assert thinnest.holds.any()  # a run shorter than the step is not lost


def test_each_slice_takes_the_support_slice_that_lies_where_it_does() -> None:
    first = axis(12, 20)
    courses = [course(BODY[:40], first, 5.0, AxisOptions())]
    taken = examples_beside(courses, [first])
    assert taken.shape == (40, 1)
    assert taken[12:21, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    other = SupportAxis(*list(vars(axis(10, 14)).values())[:4], torch.tensor([0.9, 0.1]))
    courses.append(course(BODY[:40], other, 5.0, AxisOptions()))
    both = examples_beside(courses, [first, other])
    assert torch.equal(both[:, 0], taken[:, 0])
    assert both[10, 1] == 4  # counted on from the three of the first scan
    assert both[14, 1] == 3
