"""The whole scan of an example: what is kept, and on which slices unmarked means outside."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.methods.fewshot.support_scan import SupportScan, known_slices


def masks_at(*held: int, count: int = 40, wide: int = 4) -> np.ndarray:
    masks = np.zeros((count, 16, 16), bool)
    masks[list(held), 4 : 4 + wide, 5:7] = True
    return masks


def test_a_target_that_is_marked_throughout_is_known_everywhere() -> None:
    assert known_slices(masks_at(10, 11, 12), step_mm=5.0, side_mm=160.0).all()
    assert known_slices(masks_at(*range(40)), step_mm=5.0, side_mm=160.0).all()


@pytest.mark.parametrize("held", [(10, 20), (10, 11), (15,), (10, 11, 12, 14)])
def test_around_a_few_marked_slices_nothing_is_known(held: tuple[int, ...]) -> None:
    known = known_slices(masks_at(*held), step_mm=5.0, side_mm=160.0)  # 40 mm wide: 8 slices
    unknown = sorted(set(range(held[0] - 8, held[-1] + 9)) - set(held))
    assert np.flatnonzero(~known).tolist() == unknown


def test_somebody_may_say_whether_all_slices_are_marked() -> None:
    few = known_slices(masks_at(10, 11, 12), step_mm=5.0, side_mm=160.0, complete=False)
    assert np.flatnonzero(~few).tolist() == [*range(2, 10), *range(13, 21)]
    assert known_slices(masks_at(10, 20), step_mm=5.0, side_mm=160.0, complete=True).all()


def test_slices_five_millimeters_apart_are_kept() -> None:
    masks = masks_at(10, 11, 12, 13)
    scan = SupportScan.of(np.zeros(masks.shape, np.float32), masks, step_mm=2.5, side_mm=160.0)
    assert scan.images.dtype == np.float16
    assert scan.places_mm.tolist() == [5.0 * n for n in range(20)]
    assert np.flatnonzero(scan.masks.any((1, 2))).tolist() == [5, 6]
    assert scan.known.all()


def test_no_marked_slice_is_lost() -> None:
    few = SupportScan.of(np.zeros((40, 16, 16), np.float32), masks_at(3, 17), step_mm=1.0, side_mm=160.0)
    assert few.places_mm[few.masks.any((1, 2))].tolist() == [3.0, 17.0]
    assert few.known[few.masks.any((1, 2))].all()
    short = masks_at(11, 12, 13)
    thin = SupportScan.of(np.zeros(short.shape, np.float32), short, step_mm=0.5, side_mm=160.0)
    assert thin.masks.any()
