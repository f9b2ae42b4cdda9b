"""One HTML page that holds everything it shows: pictures as data URIs, no network, no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from latentseg.imaging.files import written_whole
from latentseg.imaging.previews import Color

RESEARCH_USE = "For research use. Not a medical device; not for diagnosis or treatment."
LONG = 40  # letters of a cell that is wrapped
WIDE = 60  # letters of a fact of the run that takes a whole row


@dataclass(frozen=True)
class Panel:
    """One picture, PNG or JPEG: a bold title and a short caption under it; a wide one takes a whole row."""

    title: str
    picture: bytes
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """One sortable table.

    Attributes:
        title: Heading of the table.
        columns: Names of the columns.
        rows: Cells as text; a column of numbers is aligned to the right and sorted by value.
        strong: Indices of the rows to emphasize, such as our own method.
        note: What the numbers are: protocol, data, how to read them.
        anchors: Of every row, the anchor of the case that it is about, or "": its first text links there.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: Sequence[int] = ()
    note: str = ""
    anchors: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """One drawing as SVG, which is trusted; its title and caption are not."""

    title: str
    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Drawings beside each other, under one heading, and how to read them."""

    title: str
    charts: Sequence[Chart]
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One segmented target of one scan: facts such as `("Dice", "0.91")`, pictures, and what to mind."""

    title: str
    panels: Sequence[Panel]
    subtitle: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    anchor: str = ""


@dataclass(frozen=True)
class Section:
    """Cases under one heading; the legend names the colors of the lines in their pictures."""

    title: str
    cases: Sequence[Case]
    intro: str = ""
    legend: Sequence[tuple[Color, str]] = ()


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        title: Heading of the page.
        subtitle: One or two sentences under it.
        run_card: Facts about the run: versions, weights and their hash, seed, licence, date, command.
        tables: Tables, above the pictures.
        charts: Drawings, below the tables.
        sections: Cases with pictures.
        appendix: Tables below them.
        notes: Paragraphs at the end, such as citations or warnings.
        badge: A line that must not be overlooked.
    """

    title: str
    subtitle: str = ""
    run_card: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Charts] = ()
    sections: Sequence[Section] = ()
    appendix: Sequence[Table] = ()
    notes: Sequence[str] = ()
    badge: str = RESEARCH_USE


def render(page: Page) -> str:
    """The page as HTML text; everything that comes from the caller is escaped."""
    template = files("latentseg.report").joinpath("page.html").read_text(encoding="utf-8")
    parts = [
        _head(page),
        *(_table(table) for table in page.tables),
        *(_charts(charts) for charts in page.charts),
        *(_section(section) for section in page.sections),
        *(_table(table) for table in page.appendix),
        _foot(page.notes),
    ]
    before, after = template.split("{{BODY}}")
    return before.replace("{{TITLE}}", escape(page.title)) + _join(*parts) + after


def write_page(page: Page, *, path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    with written_whole(Path(path)) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    return Path(path)


def _head(page: Page) -> str:
    card = "".join(_fact(name, value) for name, value in page.run_card)
    return _join(
        f"<h1>{escape(page.title)}</h1>",
        page.subtitle and f'<p class="lead">{escape(page.subtitle)}</p>',
        page.badge and f'<div class="badge">{escape(page.badge)}</div>',
        card and f'<dl class="run card">{card}</dl>',
    )


def _fact(name: str, value: str) -> str:
    kind = ' class="wide"' if len(value) > WIDE else ""
    return f"<div{kind}><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"


def _table(table: Table) -> str:
    numeric = [_is_numeric(row[column] for row in table.rows) for column in range(len(table.columns))]
    linked = numeric.index(False) if False in numeric else 0
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(
        f'<th scope="col"{kind}><button type="button">{escape(name)}</button></th>'
        for name, kind in zip(table.columns, kinds, strict=True)
    )
    cells = [[_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)] for row in table.rows]
    for row, anchor in zip(cells, table.anchors, strict=False):
        if anchor:
            row[linked] = _linked(row[linked], anchor)
    body = "\n".join(_row(row, strong=index in table.strong) for index, row in enumerate(cells))
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"
    return _join(
        f"<h2>{escape(table.title)}</h2>",
        f'<div class="card scroll">{grid}</div>',
        table.note and f'<p class="note">{escape(table.note)}</p>',
    )


def _charts(charts: Charts) -> str:
    figures = "".join(
        f"<figure>{one.svg}<figcaption><b>{escape(one.title)}</b> <span>{escape(one.caption)}</span>"
        "</figcaption></figure>"
        for one in charts.charts
    )
    return _join(
        f"<h2>{escape(charts.title)}</h2>",
        f'<div class="charts card">{figures}</div>',
        charts.note and f'<p class="note">{escape(charts.note)}</p>',
    )


def _row(cells: Sequence[str], *, strong: bool) -> str:
    start = '<tr class="strong">' if strong else "<tr>"
    return f"{start}{''.join(cells)}</tr>"


def _cell(text: str, kind: str) -> str:
    kind = kind or (' class="long"' if len(text) > LONG else "")
    return f"<td{kind}>{escape(text)}</td>"


def _linked(cell: str, anchor: str) -> str:
    start, inside = cell.removesuffix("</td>").split(">", 1)
    return f'{start}><a href="#{escape(anchor)}">{inside}</a></td>'


def _section(section: Section) -> str:
    legend = "".join(
        f'<span style="--swatch: rgb({red} {green} {blue})">{escape(name)}</span>'
        for (red, green, blue), name in section.legend
    )
    return _join(
        f"<h2>{escape(section.title)}</h2>",
        section.intro and f"<p>{escape(section.intro)}</p>",
        legend and f'<div class="legend">{legend}</div>',
        *(_case(case) for case in section.cases),
    )


def _case(case: Case) -> str:
    subtitle = f"<p>{escape(case.subtitle)}</p>" if case.subtitle else ""
    anchor = f' id="{escape(case.anchor)}"' if case.anchor else ""
    facts = "".join(
        f"<div><span>{escape(name)}</span> <b>{escape(value)}</b></div>" for name, value in case.facts
    )
    return _join(
        f'<article class="case card"{anchor}><header><h3>{escape(case.title)}</h3>{subtitle}</header>',
        facts and f'<div class="facts">{facts}</div>',
        *(f'<p class="note">{escape(note)}</p>' for note in case.notes),
        f'<div class="panels" style="--columns: {_columns(len(case.panels))}">',
        *(_panel(panel) for panel in case.panels),
        "</div></article>",
    )


def _columns(panels: int) -> int:
    """Pictures beside each other: at least four places, at most six, and rows of equal length."""
    rows = -(-panels // 6)
    return max(4, -(-panels // max(rows, 1)))


def _panel(panel: Panel) -> str:
    data = base64.b64encode(panel.picture).decode("ascii")
    kind = "jpeg" if panel.picture.startswith(b"\xff\xd8") else "png"
    caption = f" <span>{escape(panel.caption)}</span>" if panel.caption else ""
    alt = escape(f"{panel.title}. {panel.caption}".strip())
    start = '<figure class="wide">' if panel.wide else "<figure>"
    return (
        f'{start}<button type="button" class="well"><img src="data:image/{kind};base64,{data}" alt="{alt}">'
        f"</button><figcaption><b>{escape(panel.title)}</b>{caption}</figcaption></figure>"
    )


def _foot(notes: Sequence[str]) -> str:
    return "<footer>" + "".join(f"<p>{escape(note)}</p>" for note in notes) + "</footer>" if notes else ""


def _is_numeric(cells: Iterable[str]) -> bool:
    """Whether every cell is a number or a dash for a missing one, and at least one is a number."""
    seen = [cell.strip() for cell in cells]
    known = [cell for cell in seen if cell not in ("", "–", "-")]
    return bool(known) and all(
        cell.removesuffix("%").strip().replace(".", "", 1).lstrip("-+").isdigit() for cell in known
    )


def _join(*parts: str) -> str:
    return "\n".join(part for part in parts if part)
