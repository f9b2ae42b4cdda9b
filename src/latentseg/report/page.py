"""One HTML page that holds everything it shows: pictures as data URIs, no network, no other file."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from latentseg.imaging.files import write_file
from latentseg.imaging.previews import Color
from latentseg.report.stack import Stack, Viewer

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

    @property
    def numeric(self) -> list[bool]:
        """Of every column, whether it holds numbers."""
        return [_is_numeric(row[column] for row in self.rows) for column in range(len(self.columns))]

    @property
    def linked(self) -> int:
        """The column that links to a case: the first one of text."""
        return self.numeric.index(False) if False in self.numeric else 0


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
    """One segmented target of one scan.

    Attributes:
        title: Its heading.
        panels: Pictures.
        subtitle: Beside the heading.
        facts: Such as `("Dice", "0.91")`.
        notes: What to mind.
        anchor: Where tables link to.
        links: Names and addresses of its files, from where the page is.
        viewer: Slices to be scrolled.
    """

    title: str
    panels: Sequence[Panel]
    subtitle: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    anchor: str = ""
    links: Sequence[tuple[str, str]] = ()
    viewer: Viewer | None = None


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

    @property
    def stacks(self) -> list[Stack]:
        """Slices of all scans that are shown, each once."""
        viewers = [case.viewer for section in self.sections for case in section.cases if case.viewer]
        return list({viewer.stack.name: viewer.stack for viewer in viewers}.values())


def render(page: Page) -> str:
    """The page as HTML text; everything that comes from the caller is escaped, but for the SVG of charts."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("latentseg.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data"] = _data_uri
    parts = files("latentseg.report")
    style, script = (
        parts.joinpath(name).read_text(encoding="utf-8").rstrip() for name in ("page.css", "page.js")
    )
    template = environment.get_template("page.html")
    return template.render(page=page, style=style, script=script, long=LONG, wide=WIDE)


def write_page(page: Page, *, path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        InputError: The file cannot be written.
    """
    write_file(Path(path), render(page))
    return Path(path)


def _data_uri(picture: bytes) -> str:
    """A picture, PNG or JPEG, as an address that holds it."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _is_numeric(cells: Iterable[str]) -> bool:
    """Whether every cell is a number or a dash for a missing one, and at least one is a number."""
    seen = [cell.strip() for cell in cells]
    known = [cell for cell in seen if cell not in ("", "–", "-")]
    return bool(known) and all(
        cell.removesuffix("%").strip().replace(".", "", 1).lstrip("-+").isdigit() for cell in known
    )
