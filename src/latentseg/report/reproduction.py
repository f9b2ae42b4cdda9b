"""The page of a reproduction: our rows beside the authors', the worst cases with pictures, the curves."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from latentseg.evaluation.page import Section, sections
from latentseg.evaluation.pictures import LEGEND
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import summarize
from latentseg.evaluation.tumor_volumes import VolumeRow, summarize_volumes, volume_table
from latentseg.imaging.files import write_file

WORST = 10
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
    "th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}img{max-width:100%}"
)


@dataclass(frozen=True)
class Content:
    """What the page of a method shows.

    Attributes:
        method: Its name.
        tables: Our rows beside those of the authors.
        header: Of the table of the worst cases.
        cases: Dice, which is None where there was nothing to find, cells and picture of each case.
    """

    method: str
    tables: Sequence[Section]
    header: Sequence[str]
    cases: Sequence[tuple[float | None, list[str], Path]]


def fewshot_content(rows: Sequence[Row], pictures: Sequence[Path]) -> Content:
    """The page of SD-FSMIS, from every evaluated case and its picture; baselines have none.

    Raises:
        InputError: There is no row.
    """
    header = ["scan", "organ", "method", "fold", "Dice %", "HD95 mm", "volume ml", "true ml"]
    cases = [
        (row.dice, _fewshot_cells(row), picture)
        for row, picture in zip(rows, pictures, strict=True)
        if row.method.startswith("SD-FSMIS")
    ]
    return Content("SD-FSMIS", sections(summarize(rows)), header, cases)


def tumor_content(rows: Sequence[VolumeRow], pictures: Sequence[Path]) -> Content:
    """The page of DiffuGTS, from every evaluated volume and its picture."""
    header = ["data", "prompt", "scan", "Dice %", "lesions found", "lesions", "predicted", "anomaly score"]
    cases = [
        (row.dice, _tumor_cells(row), picture)
        for row, picture in zip(rows, pictures, strict=True)
        if row.method.startswith("DiffuGTS")
    ]
    return Content("DiffuGTS", [volume_table(summarize_volumes(rows))], header, cases)


def write_reproduction(
    path: Path, content: Content, *, about: Mapping[str, object], curves: Mapping[str, Path]
) -> None:
    """Write the HTML page of a reproduction, which needs no other file.

    Args:
        path: Of the page.
        content: Tables and cases.
        about: Facts for its head.
        curves: Pictures of the trainings' curves, by title; those that are not there are left out.

    Raises:
        InputError: The page cannot be written.
    """
    parts = [f"<h1>Reproduction of {content.method}</h1>", _list(f"{k}: {v}" for k, v in about.items())]
    for section in content.tables:
        parts += [f"<h2>{escape(section.title)}</h2>", _table(section.header, section.body)]
        parts.append(_list(section.notes))
    known = [case for case in content.cases if case[0] is not None]
    worst = sorted(known, key=lambda case: case[0] or 0.0)[:WORST]
    table = _table(content.header, [cells for _, cells, _ in worst])
    parts += ["<h2>Worst cases</h2>", table, f"<p>{LEGEND}</p>"]
    parts += [_picture(", ".join(cells[:3]), picture) for _, cells, picture in worst]
    parts += ["<h2>Trainings</h2>", *(_picture(title, file) for title, file in curves.items())]
    title = f"<title>Reproduction of {content.method}</title>"
    head = f'<meta charset="utf-8">{title}<style>{STYLE}</style>'
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    write_file(path, text)


def _fewshot_cells(row: Row) -> list[str]:
    return [
        *(row.patient, row.organ.replace("_", " "), row.method, str(row.fold)),
        *(f"{100 * row.dice:.1f}", f"{row.hd95_mm:.1f}", f"{row.volume_ml:.0f}"),
        f"{row.truth_volume_ml:.0f}",
    ]


def _tumor_cells(row: VolumeRow) -> list[str]:
    counts = (row.lesions_found, row.lesions, row.lesions_predicted)
    dice = "–" if row.dice is None else f"{100 * row.dice:.1f}"
    return [row.data, row.prompt, row.case, dice, *map(str, counts), f"{row.score:.2f}"]


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _picture(title: str, file: Path) -> str:
    """A picture in the page; nothing where it is not there."""
    if not file.is_file() or not file.stat().st_size:
        return ""
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    name = escape(title)
    return f'<h3>{name}</h3><img alt="{name}" src="data:image/png;base64,{content}">'
