"""The page of a reproduction: our rows beside the authors', the curves of the trainings, the worst cases."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from latentseg.evaluation.page import sections
from latentseg.evaluation.rows import Row
from latentseg.evaluation.tables import summarize
from latentseg.imaging.files import written_whole

WORST = 10
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ccc;text-align:right;white-space:nowrap}"
    "th:nth-child(-n+3),td:nth-child(-n+3){text-align:left}img{max-width:100%}"
)


def write_reproduction(
    path: Path, *, rows: Sequence[Row], about: Mapping[str, object], curves: Mapping[str, Path]
) -> None:
    """Write one HTML page that needs no other file.

    Args:
        path: Of the page.
        rows: Every evaluated case.
        about: Facts for its head.
        curves: Pictures of the trainings' curves, by title; those that are not there are left out.

    Raises:
        InputError: There is no row, or the page cannot be written.
    """
    parts = ["<h1>Reproduction of SD-FSMIS</h1>", _list(f"{k}: {v}" for k, v in about.items())]
    for section in sections(summarize(rows)):
        parts += [f"<h2>{escape(section.title)}</h2>", _table(section.header, section.body)]
        parts.append(_list(section.notes))
    parts += ["<h2>Worst cases</h2>", _table(*worst_cases(rows)), "<h2>Trainings</h2>"]
    parts += [
        _picture(title, file) for title, file in curves.items() if file.is_file() and file.stat().st_size
    ]
    head = f'<meta charset="utf-8"><title>Reproduction of SD-FSMIS</title><style>{STYLE}</style>'
    text = f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def worst_cases(rows: Sequence[Row], *, count: int = WORST) -> tuple[list[str], list[list[str]]]:
    """The cases of the lowest Dice, the worst first, as a table."""
    header = ["scan", "organ", "method", "fold", "Dice %", "HD95 mm", "volume ml", "true ml"]
    worst = sorted(rows, key=lambda row: row.dice)[:count]
    body = [
        [
            *(row.patient, row.organ.replace("_", " "), row.method, str(row.fold)),
            *(f"{100 * row.dice:.1f}", f"{row.hd95_mm:.1f}", f"{row.volume_ml:.0f}"),
            f"{row.truth_volume_ml:.0f}",
        ]
        for row in worst
    ]
    return header, body


def _table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in body)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def _list(lines: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def _picture(title: str, file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    name = escape(title)
    return f'<h3>{name}</h3><img alt="loss of {name}" src="data:image/png;base64,{content}">'
