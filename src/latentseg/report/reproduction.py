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
class WorstCase:
    """A case for the list of the worst.

    Attributes:
        dice: Of it; None where there was nothing to find.
        cells: Of its line in the table.
        picture: Of it, which may not be there.
    """

    dice: float | None
    cells: Sequence[str]
    picture: Path


def write_reproduction(
    path: Path,
    *,
    rows: Sequence[Row],
    pictures: Sequence[Path],
    about: Mapping[str, object],
    curves: Mapping[str, Path],
) -> None:
    """Write the HTML page of SD-FSMIS, which needs no other file.

    Args:
        path: Of the page.
        rows: Every evaluated case.
        pictures: One for each row; the baselines have none.
        about: Facts for its head.
        curves: Pictures of the trainings' curves, by title; those that are not there are left out.

    Raises:
        InputError: There is no row, or the page cannot be written.
    """
    header = ["scan", "organ", "method", "fold", "Dice %", "HD95 mm", "volume ml", "true ml"]
    cases = [
        WorstCase(row.dice, _fewshot_cells(row), picture)
        for row, picture in zip(rows, pictures, strict=True)
        if row.method.startswith("SD-FSMIS")
    ]
    tables = sections(summarize(rows))
    _write_page(path, "SD-FSMIS", tables, worst=(header, cases), about=about, curves=curves)


def write_tumor_reproduction(
    path: Path,
    *,
    rows: Sequence[VolumeRow],
    pictures: Sequence[Path],
    about: Mapping[str, object],
    curves: Mapping[str, Path],
) -> None:
    """Write the HTML page of DiffuGTS; arguments as of :func:`write_reproduction`."""
    tables = [volume_table(summarize_volumes(rows))]
    header = ["data", "prompt", "scan", "Dice %", "lesions found", "lesions", "predicted", "anomaly score"]
    cases = [
        WorstCase(row.dice, _tumor_cells(row), picture)
        for row, picture in zip(rows, pictures, strict=True)
        if row.method.startswith("DiffuGTS")
    ]
    _write_page(path, "DiffuGTS", tables, worst=(header, cases), about=about, curves=curves)


def _write_page(
    path: Path,
    name: str,
    tables: Sequence[Section],
    *,
    worst: tuple[Sequence[str], Sequence[WorstCase]],
    about: Mapping[str, object],
    curves: Mapping[str, Path],
) -> None:
    parts = [f"<h1>Reproduction of {name}</h1>", _list(f"{k}: {v}" for k, v in about.items())]
    for section in tables:
        parts += [f"<h2>{escape(section.title)}</h2>", _table(section.header, section.body)]
        parts.append(_list(section.notes))
    header, cases = worst
    known = sorted((one for one in cases if one.dice is not None), key=lambda one: one.dice or 0.0)[:WORST]
    parts += ["<h2>Worst cases</h2>", _table(header, [one.cells for one in known]), f"<p>{LEGEND}</p>"]
    parts += [_picture(", ".join(one.cells[:3]), one.picture) for one in known]
    parts += ["<h2>Trainings</h2>", *(_picture(title, file) for title, file in curves.items())]
    head = f'<meta charset="utf-8"><title>Reproduction of {name}</title><style>{STYLE}</style>'
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
