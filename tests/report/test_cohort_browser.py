"""The page of a batch as a browser shows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from latentseg.cli import main

LABELS = "1=liver,4=spleen"


@pytest.fixture(autouse=True)
def _browser(pages: SimpleNamespace) -> None:
    if pages.browser() is None:
        pytest.skip(f"no browser here, none of {', '.join(pages.BROWSERS)}")


def test_in_a_browser(rich_cohort: Path, pages: SimpleNamespace, tmp_path: Path) -> None:
    words = ["--truth", str(rich_cohort / "truth"), "--labels", LABELS]
    assert main(["report", str(rich_cohort / "out"), *words]) == 0
    clicks = [("All results", "uncertainty"), ("All results", "case"), ("Look at these first", "review")]
    seen = pages.browse(rich_cohort / "out/report.html", tmp_path, clicks=clicks)
    assert seen["console"] == seen["violations"] == seen["errors"] == seen["fetched"] == []
    assert seen["requests"] == set()
    assert seen["broken"] == 0
    assert not seen["wide"]
    assert seen["zoomed"]
    for name, column in clicks:
        before, down, up, marked, focused = seen["rows"][f"{name}/{column}"]
        key = str if column == "case" else float
        assert down == sorted(before, key=key, reverse=True)
        assert up == sorted(before, key=key)
        assert (marked, focused) == ("ascending", True)
    picture = np.asarray(Image.open(seen["screenshot"]).convert("L"), float)
    assert picture.shape == (1600, 1280)
    assert picture.std() > 10


def test_slices_are_scrolled_and_windowed(rich_cohort: Path, pages: SimpleNamespace, tmp_path: Path) -> None:
    assert (
        main(["report", str(rich_cohort / "out"), "--truth", str(rich_cohort / "truth"), "--labels", LABELS])
        == 0
    )
    seen = pages.browse(rich_cohort / "out/report.html", tmp_path)
    assert seen["console"] == seen["errors"] == []
    assert len(seen["viewers"]) == 6
    for viewer in seen["viewers"]:
        assert not viewer["hidden"]
        sums, said = zip(*viewer["steps"], strict=True)
        assert said[0].startswith("slice K 0 · -125 to 275 HU")
        assert said[1].startswith("slice K 5 ·")
        assert said[3].endswith("· -1350 to 150 HU")
        assert len(set(sums[2:6])) == 4  # window, opacity and level change the picture
        assert len(sums) == 6 + 3  # truth, found, probability
        assert viewer["preset"] == ""
        first, now = map(int, viewer["slice"])
        assert now == max(0, first - 1)


@pytest.mark.parametrize("width", [1280, 420])
def test_nothing_is_wider_than_the_window(
    rich_cohort: Path, pages: SimpleNamespace, tmp_path: Path, width: int
) -> None:
    assert main(["report", str(rich_cohort / "out")]) == 0
    seen = pages.browse(rich_cohort / "out/report.html", tmp_path, f"--window-size={width},1600")
    assert not seen["wide"]
    assert seen["scrolled"] == (width == 420)
    assert seen["filled"] > 0.9


def test_light_and_dark(cohort: Path, pages: SimpleNamespace, tmp_path: Path) -> None:
    assert main(["report", str(cohort / "out")]) == 0
    page = cohort / "out/report.html"
    assert pages.browse(page, tmp_path)["paper"] == "rgb(246, 247, 249)"
    assert pages.browse(page, tmp_path, "--force-dark-mode")["paper"] == "rgb(17, 20, 24)"


def test_the_test_would_notice(pages: SimpleNamespace, tmp_path: Path) -> None:
    """A page that does all that ours must not do."""
    page = tmp_path / "bad.html"
    wrong = "<script>console.error('oh'); nothing();</script><img src='http://outside.invalid/a.png'>"
    page.write_text(
        f"<body><figure><button></button></figure><dialog id='zoom'></dialog>{wrong}</body>", encoding="utf-8"
    )
    seen = pages.browse(page, tmp_path)
    assert len(seen["console"]) >= 2
    assert seen["errors"]
    assert "http://outside.invalid/a.png" in seen["requests"]
    assert seen["broken"] == 1
