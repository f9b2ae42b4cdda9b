"""Per-case rows, and the tables made of them: Markdown, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from latentseg.errors import InputError
from latentseg.evaluation.metrics import Overlap, pooled_dice
from latentseg.evaluation.statistics import Interval, bootstrap_mean
from latentseg.imaging.files import written_whole

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class Row:
    """One organ of one query scan, segmented by one method. One line of the CSV.

    Attributes:
        protocol: Evaluation protocol, such as `"EP1"`.
        dataset: Data set of the query scan.
        fold: Fold of the query scan.
        case: Case id of the query scan.
        support_dataset: Data set of the support scan; another one than `dataset` across domains.
        support_index: Position of the support scan in its fold.
        support_case: Case id of the support scan.
        organ: What was segmented.
        method: What segmented it.
        slices: Slices given to the method.
        both: Voxels of the original grid in prediction and truth.
        only_prediction: Voxels in the prediction alone.
        only_truth: Voxels in the truth alone.
        voxel_volume_ml: Volume of one voxel in milliliters.
    """

    protocol: str
    dataset: str
    fold: int
    case: str
    support_dataset: str
    support_index: int
    support_case: str
    organ: str
    method: str
    slices: int
    both: int
    only_prediction: int
    only_truth: int
    voxel_volume_ml: float

    @property
    def overlap(self) -> Overlap:
        """The voxel counts of this row."""
        return Overlap(self.both, self.only_prediction, self.only_truth)

    @property
    def dice(self) -> float:
        """Dice of this row in [0, 1]."""
        return self.overlap.dice

    @property
    def volume_ml(self) -> float:
        """Predicted volume in milliliters."""
        return (self.both + self.only_prediction) * self.voxel_volume_ml

    @property
    def truth_volume_ml(self) -> float:
        """True volume in milliliters."""
        return (self.both + self.only_truth) * self.voxel_volume_ml

    @property
    def patient(self) -> str:
        """Who was scanned: the unit of averages and of the bootstrap."""
        return f"{self.dataset} {self.case}"

    @property
    def setting(self) -> tuple[str, str, str, int]:
        """What rows must share to stand in one line: protocol, query data, support data, support index."""
        return self.protocol, self.dataset, self.support_dataset, self.support_index


@dataclass(frozen=True)
class Summary:
    """One line of the table: a method in a setting, folds put together.

    Attributes:
        protocol: Evaluation protocol.
        dataset: Data set of the queries.
        support_dataset: Data set of the supports.
        support_index: Position of the support scan in its fold.
        folds: Folds of the queries.
        method: Name of the method.
        organ_dice: Mean over patients of Dice, by organ, in [0, 1].
        mean: Mean over patients of the mean over organs, with its 95 % bootstrap interval by patient.
        pooled_dice: Mean over organs of the Dice of pooled voxel counts, in [0, 1].
    """

    protocol: str
    dataset: str
    support_dataset: str
    support_index: int
    folds: tuple[int, ...]
    method: str
    organ_dice: Mapping[str, float]
    mean: Interval
    pooled_dice: float


def summarize(rows: Iterable[Row]) -> list[Summary]:
    """Average rows over patients: one summary per setting and method, in order of first appearance."""
    return [_summary(group) for group in _grouped(rows, key=lambda row: (row.setting, row.method)).values()]


def markdown(summaries: Sequence[Summary]) -> str:
    """Table of Dice in percent, one line per summary, one column per organ.

    Raises:
        InputError: There is nothing to show.
    """
    header, body = table_cells(summaries)
    aligned = ["---"] * 3 + ["---:"] * (len(header) - 3)
    lines = [header, aligned, *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def table_cells(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of the Dice table, for Markdown and for the HTML page alike.

    Raises:
        InputError: There is nothing to show.
    """
    if not summaries:
        raise InputError("no result to tabulate", where="evaluation", fix="evaluate at least one case")
    organs = list(dict.fromkeys(organ for summary in summaries for organ in summary.organ_dice))
    names = [organ.replace("_", " ") for organ in organs]
    header = ["query", "support", "method", *names, "mean", "95 % interval", "pooled", "patients"]
    return header, [_cells(summary, organs) for summary in summaries]


def write_tables(
    rows: Sequence[Row], *, folder: str | Path, about: Mapping[str, object] | None = None
) -> None:
    """Write `cases.csv`, `table.md` and `results.json` (summaries, rows and `about`) into `folder`.

    Args:
        rows: Every evaluated case.
        folder: Destination, made if it does not exist.
        about: Facts to store beside the numbers: date, versions, weights, seed.

    Raises:
        InputError: There is no row, or the folder cannot be written.
    """
    summaries = summarize(rows)
    results = {
        "about": dict(about or {}),
        "summaries": [asdict(summary) for summary in summaries],
        "cases": [asdict(row) | {"dice": row.dice} for row in rows],
    }
    _write(markdown(summaries), Path(folder) / "table.md")
    _write(csv_text(rows), Path(folder) / "cases.csv")
    _write(json.dumps(results, indent=1) + "\n", Path(folder) / "results.json")


def csv_text(rows: Iterable[Row]) -> str:
    """One line per row, with Dice and both volumes in milliliters."""
    derived = ("dice", "volume_ml", "truth_volume_ml")
    names = [field.name for field in fields(Row)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*names, *derived])
    for row in rows:
        plain = [getattr(row, name) for name in names]
        writer.writerow(plain + [f"{getattr(row, name):.6g}" for name in derived])
    return stream.getvalue()


def _write(text: str, path: Path) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _summary(rows: Sequence[Row]) -> Summary:
    by_organ = _grouped(rows, key=lambda row: row.organ)
    by_patient = _grouped(rows, key=lambda row: row.patient)
    first = rows[0]
    return Summary(
        protocol=first.protocol,
        dataset=first.dataset,
        support_dataset=first.support_dataset,
        support_index=first.support_index,
        folds=tuple(sorted({row.fold for row in rows})),
        method=first.method,
        organ_dice={organ: _patient_mean(group) for organ, group in by_organ.items()},
        mean=bootstrap_mean({patient: [row.dice for row in group] for patient, group in by_patient.items()}),
        pooled_dice=sum(pooled_dice(row.overlap for row in group) for group in by_organ.values())
        / len(by_organ),
    )


def _patient_mean(rows: Sequence[Row]) -> float:
    """Mean over patients; a patient queried in two folds counts once."""
    means = [
        sum(row.dice for row in group) / len(group)
        for group in _grouped(rows, key=lambda r: r.patient).values()
    ]
    return sum(means) / len(means)


def _cells(summary: Summary, organs: Sequence[str]) -> list[str]:
    folds = ", ".join(map(str, summary.folds))
    dice = [summary.organ_dice.get(organ) for organ in organs]
    return [
        f"{summary.dataset}, fold {folds}",
        f"{summary.support_dataset}, index {summary.support_index}",
        summary.method,
        *("–" if value is None else f"{100 * value:.1f}" for value in dice),
        f"{100 * summary.mean.mean:.1f}",
        f"{100 * summary.mean.low:.1f}–{100 * summary.mean.high:.1f}",
        f"{100 * summary.pooled_dice:.1f}",
        str(summary.mean.patients),
    ]


def _grouped(rows: Iterable[Row], *, key: Callable[[Row], _Key]) -> dict[_Key, list[Row]]:
    groups: dict[_Key, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
