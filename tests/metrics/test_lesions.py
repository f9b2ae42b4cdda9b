"""Lesion-wise metrics against examples worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from latentseg.metrics.lesions import LesionMatch, match_lesions


def row(text: str) -> np.ndarray:
    """A mask of one row: `#` is foreground."""
    return np.array([[c == "#" for c in text]])


def test_by_hand() -> None:
    # Found at IoU 3/4, found at IoU 1/5, missed; one false alarm.
    truth = row("####.....#####....##")
    guess = row("###......#....##....")
    match = match_lesions(guess, truth)
    assert (match.true, match.predicted) == (3, 3)
    assert match.iou.tolist() == [[0.75, 0, 0], [0, 0.2, 0], [0, 0, 0]]
    assert match.found() == 2
    assert match.f1() == pytest.approx(2 * 2 / 6)
    assert match.f1(min_iou=0.5) == pytest.approx(2 * 1 / 6)
    assert match.panoptic_quality == pytest.approx(0.75 / (1 + 2 / 2 + 2 / 2))


def test_one_prediction_over_two_lesions_finds_one() -> None:
    match = match_lesions(row("#######"), row("###.###"))
    assert match.iou.tolist() == [[pytest.approx(3 / 7)], [pytest.approx(3 / 7)]]
    assert match.f1() == pytest.approx(2 / 3)
    assert match.panoptic_quality == 0.0


def test_as_many_lesions_are_found_as_can_be_paired() -> None:
    match = LesionMatch(np.array([[0.6, 0.2], [0.2, 0.0]]))
    assert match.found() == 2


def test_corners_touch() -> None:
    truth = np.zeros((2, 2, 2), bool)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    assert match_lesions(truth, truth).true == 1
    assert match_lesions(truth, truth).panoptic_quality == 1.0


def test_rule_for_empty_masks() -> None:
    empty, some = row("...."), row(".##.")
    assert match_lesions(empty, empty).f1() == match_lesions(empty, empty).panoptic_quality == 1.0
    for pair in ((empty, some), (some, empty)):
        assert match_lesions(*pair).f1() == match_lesions(*pair).panoptic_quality == 0.0
