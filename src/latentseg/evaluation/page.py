"""The page of an evaluation: Dice beside what was published, surfaces, folds, absence, and small print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from latentseg.evaluation.published import MARK, Published, published_rows, source_of
from latentseg.evaluation.tables import Summary, line_of, markdown_table, organs_of, percent, table_cells

Cells = tuple[list[str], list[list[str]]]

DICE_RULE = (
    "Dice in percent per patient, then over patients; a patient queried in two folds counts once. 95 % "
    "interval: bootstrap over patients. Folds: mean and standard deviation of the folds' means. Pooled: "
    "voxels of all patients added before dividing."
)
SURFACE_RULE = (
    "NSD at 2 mm, HD95 and ASSD in mm on the original grid. Both masks empty: NSD 1, distances 0. One empty "
    "(missed): Dice 0, NSD 0, distances the diagonal of the scan."
)
ABSENCE_RULE = (
    "Slices: share of the slices without the organ that got a voxel of it; the volume found on them relative "
    "to the organ's, mean and median over cases; AUROC of the slices' presence scores within a scan. Scans: "
    "the slices of a scan that do not hold the organ are taken as a scan without it."
)
SETTING_RULE = (
    "Published Setting 2, but for SSL-ALPNet, leaves out only slices that show all four organs at once."
)


class Section(NamedTuple):
    """A titled table; the first three columns are text."""

    title: str
    header: list[str]
    body: list[list[str]]
    notes: tuple[str, ...] = ()


def page(summaries: Sequence[Summary], *, about: Mapping[str, object]) -> str:
    """Everything as Markdown.

    Raises:
        InputError: There is nothing to show.
    """
    parts = ["# Few-shot evaluation\n", "".join(f"* {name}: {value}\n" for name, value in about.items())]
    for section in sections(summaries):
        parts.append(f"## {section.title}\n")
        parts.append(markdown_table(section.header, section.body, texts=3))
        parts += [f"{note}\n" for note in section.notes]
    return "\n".join(part for part in parts if part)


def sections(summaries: Sequence[Summary]) -> list[Section]:
    """The tables that have something to say, most important first.

    Raises:
        InputError: There is nothing to show.
    """
    found = [dice_section(summaries), Section("Surfaces", *surface_cells(summaries), (SURFACE_RULE,))]
    if any(len(summary.folds) > 1 for summary in summaries):
        found.append(Section("Folds", *fold_cells(summaries)))
    if any(summary.absence for summary in summaries):
        found.append(Section("Absence", *absence_cells(summaries), (ABSENCE_RULE,)))
    return found


def dice_section(summaries: Sequence[Summary]) -> Section:
    """Dice of every summary, and of what was published on the same data and setting."""
    header, body = table_cells(summaries)
    notes = [DICE_RULE]
    if any(summary.seen for summary in summaries):
        seen = max(summary.seen for summary in summaries)
        notes.append(
            f"† These weights were trained on {seen} of the query scans: not a held-out result."
            " Which labels the training saw is in the weights' card."
        )
    places = dict.fromkeys(
        (s.dataset, s.setting) for s in summaries if s.protocol == "EP1" and _comparable(s)
    )
    for data, setting in places:
        rows = published_rows(data, setting=setting)
        body += [_published_cells(row, summaries) for row in rows]
        notes += _published_notes(rows, setting=setting)
    return Section("Dice", header, body, tuple(notes))


def surface_cells(summaries: Sequence[Summary]) -> Cells:
    """NSD, HD95, ASSD and IoU with intervals."""
    header = ["query", "support", "method", "NSD %", "HD95 mm", "ASSD mm", "IoU %", "missed", "cases"]
    body = []
    for summary in summaries:
        nsd, hd95, assd, iou = (summary.metrics[name] for name in ("nsd", "hd95_mm", "assd_mm", "iou"))
        cells = [
            f"{100 * nsd.mean:.1f} ({100 * nsd.low:.1f}–{100 * nsd.high:.1f})",
            f"{hd95.mean:.1f} ({hd95.low:.1f}–{hd95.high:.1f})",
            f"{assd.mean:.2f} ({assd.low:.2f}–{assd.high:.2f})",
            f"{100 * iou.mean:.1f}",
            str(summary.missed),
            str(summary.cases),
        ]
        body.append([*line_of(summary), *cells])
    return header, body


def fold_cells(summaries: Sequence[Summary]) -> Cells:
    """Dice of every fold by itself."""
    organs = organs_of(summaries)
    header = ["query", "support", "method", "fold", *(organ.replace("_", " ") for organ in organs), "mean"]
    body = [
        [*line_of(summary), str(fold), *(percent(means.get(name)) for name in (*organs, "mean"))]
        for summary in summaries
        for fold, means in summary.fold_dice.items()
    ]
    return header, body


def absence_cells(summaries: Sequence[Summary]) -> Cells:
    """False positives and presence scores where the organ is not."""
    header = [
        *("query", "support", "method", "false-positive slices %", "false volume %", "median"),
        *("AUROC slices", "false-positive scans %", "AUROC scans", "scans without"),
    ]
    body = []
    for summary in summaries:
        if (found := summary.absence) is not None:
            found_there = (found.slice_fpr, found.volume, found.median_volume)
            cells = [*map(percent, found_there), _three(found.slice_auroc), percent(found.scan_fpr)]
            body.append([*line_of(summary), *cells, _three(found.scan_auroc), str(found.scans)])
    return header, body


def _comparable(summary: Summary) -> bool:
    return summary.shots == 1 and summary.dataset == summary.support_dataset


def _published_cells(row: Published, summaries: Sequence[Summary]) -> list[str]:
    dice = [row.dice.get(organ) for organ in organs_of(summaries)]
    values = ["–" if value is None else f"{value:.1f}" for value in (*dice, row.mean)]
    return [f"EP1 setting {row.setting}: {row.data}, all folds", row.data, row.label, *values, *["–"] * 4]


def _published_notes(rows: Sequence[Published], *, setting: str) -> list[str]:
    """Where the rows were read, and what is odd about them."""
    if not rows:
        return []
    sources = "; ".join(dict.fromkeys(source_of(row) for row in rows))
    read_in = (
        f"Rows '{MARK}' ({rows[0].data}) are other people's numbers over all folds, mostly by models trained"
        f" per fold; read in: {sources}. Fold-to-fold spread in this field is 8 to 13 points."
    )
    notes = [read_in, SETTING_RULE] if setting.startswith("2") else [read_in]
    notes += [f"{row.method}, {row.data}: {row.note}." for row in rows if row.note]
    return notes


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
