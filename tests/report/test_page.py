"""The page stands alone, shows everything it was given and escapes it."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from latentseg.errors import InputError
from latentseg.imaging.previews import SUPPORT, overlay
from latentseg.report.page import RESEARCH_USE, Case, Page, Panel, Section, Table, render, write_page

PNG = overlay(np.zeros((16, 16)))
PAGE = Page(
    "Spleen <in> & out",
    subtitle="Found twice.",
    run_card=[("Weights", "compact sha256 abc"), ("Seed", "7")],
    tables=[Table("Dice", ["case", "liver"], [["a", "81.5"], ["b", "–"]], strong=[1], note="in percent")],
    sections=[
        Section(
            "MR",
            [
                Case(
                    "case a", [Panel("Support", PNG, "marked"), Panel("Query", PNG)], facts=[("Dice", "0.82")]
                )
            ],
            legend=[(SUPPORT, "support mask")],
        )
    ],
    notes=["Cite the data."],
)


class Outline(HTMLParser):
    """Collects text, links and whether tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def parse(html: str) -> Outline:
    outline = Outline()
    outline.feed(html)
    outline.close()
    assert outline.open == []
    return outline


def test_no_address_outside_the_page() -> None:
    html = render(PAGE)
    assert not re.search(r"https?:|//[a-z0-9]|@import|url\(", re.sub(r"base64,[^\"]*", "", html))
    sources = parse(html).sources
    assert len(sources) == 2
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert base64.b64decode(sources[0].split(",")[1]) == PNG


def test_everything_given_is_shown() -> None:
    text = parse(render(PAGE)).text
    shown = ["Spleen <in> & out", "Found twice.", "compact sha256 abc", "81.5", "case a", "0.82", "marked"]
    for expected in [*shown, "support mask", "in percent", "Cite the data.", RESEARCH_USE]:
        assert expected in text


def test_text_is_escaped() -> None:
    html = render(Page("<script>alert(1)</script>", run_card=[("a", '"><img src=x>')]))
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
    assert "{{" not in html


def test_a_placeholder_in_the_text_is_only_text() -> None:
    assert "{{BODY}}" in parse(render(Page("a", subtitle="{{BODY}} {{TITLE}}"))).text
    assert "{{BODY}}" in parse(render(Page("{{BODY}}"))).text


def test_columns_of_numbers_are_aligned_right() -> None:
    html = render(PAGE)
    assert '<td class="number">81.5</td>' in html
    assert "<td>a</td>" in html
    assert '<tr class="strong"><td>b</td>' in html


def test_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write_page(PAGE, path=tmp_path / "new" / "report.html")
    assert path.read_text(encoding="utf-8") == render(PAGE)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    with pytest.raises(InputError):
        write_page(PAGE, path=path / "below" / "a_file.html")
