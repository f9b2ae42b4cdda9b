"""Reliability curves, by hand and on the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentseg.cli import main
from latentseg.metrics.calibration import Reliability
from latentseg.report.reliability import plot


def test_by_hand() -> None:
    probability = np.repeat(np.float32([0.0, 0.25, 0.75, 1.0]), 100)
    truth = np.zeros(400, bool)
    truth[100:150] = truth[200:275] = truth[300:] = True  # none, 50 %, 75 % and all
    counts = Reliability.of(probability, truth)
    assert counts.points == [(0.0, 0.0), (0.25, 0.5), (0.75, 0.75), (1.0, 1.0)]
    assert counts.error == pytest.approx(0.25 / 3)
    twice = counts + counts
    assert twice.points == counts.points
    assert twice.voxels.sum() == 800
    few = Reliability.of(np.zeros(5, np.float32), np.zeros(5, bool))
    assert few.points == []
    assert few.error is None
    assert plot([(0.0, 0.0), (1.0, 1.0)]).count("<circle") == 2


def test_on_the_page(rich_cohort: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    words = ["report", str(rich_cohort / "out"), "-o", str(page)]
    assert main([*words, "--truth", str(rich_cohort / "truth"), "--labels", "1=liver,4=spleen"]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == text.count("Reliability curve") == 2
    assert "calibration error" in text
    assert main(words) == 0
    assert "<svg" not in page.read_text(encoding="utf-8")
