"""Two runs compared case by case: the same scans and organs, and nothing else.

A run is a folder with `cases.csv`, written by `latentseg evaluate`, or such a file. Rows are a pair if they
agree on the case and the organ, and on everything else (such as the method or the fold) that takes several
values in either run. What is fixed within each run may differ between the two: that is what is compared.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentseg.errors import InputError, UsageError
from latentseg.imaging.files import csv_text
from latentseg.metrics.statistics import Interval, bootstrap_mean

CASE = ("dataset", "fold", "case", "organ", "label")
CONDITION = (
    *("protocol", "setting", "support_dataset", "support_index", "support_slices", "shots"),
    "method",
)
METRICS = (
    *("dice", "iou", "nsd", "hd95_mm", "assd_mm", "lesion_f1", "panoptic_quality"),
    *("volume_ml", "presence", "absent_presence", "slice_auroc"),
)
LESS_IS_BETTER = ("hd95_mm", "assd_mm")
UNKNOWING = ("volume_ml", "presence", "absent_presence")  # neither more nor less is better

Record = Mapping[str, str]
Key = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """One metric of one group of pairs, A minus B.

    Attributes:
        group: What the pairs share: conditions such as the method, and the organ or `all`.
        metric: Name of the metric.
        mean_a: Mean over patients in A.
        mean_b: Mean over patients in B.
        difference: Mean over patients of the paired difference, with its 95 % bootstrap interval by patient.
        better: Share of the pairs in which A is better, ties counting half; None where no side is better.
        pairs: Number of pairs.
    """

    group: str
    metric: str
    mean_a: float
    mean_b: float
    difference: Interval
    better: float | None
    pairs: int


@dataclass(frozen=True)
class Comparison:
    """The pairs of two runs.

    Attributes:
        pairs: Both records, by key.
        conditions: Columns other than the case and the organ that tell pairs of a run apart.
        only_a: Rows of A without a partner.
        only_b: Rows of B without a partner.
    """

    pairs: Mapping[Key, tuple[Record, Record]]
    conditions: tuple[str, ...]
    only_a: int
    only_b: int


def read_run(path: str | Path, *, only: Mapping[str, str] | None = None) -> list[dict[str, str]]:
    """Records of a run, those whose columns have the values of `only`.

    Raises:
        InputError: No `cases.csv`, or one without cases and Dice, or nothing is left of it.
        UsageError: `only` names a column that is not there, or a value that does not occur.
    """
    path = Path(path)
    file = path / "cases.csv" if path.is_dir() else path
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            records = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        fix = "give a folder that `latentseg evaluate` wrote"
        raise InputError("no cases.csv can be read", where=str(path), fix=fix) from error
    if not records or not {"case", "dice"} <= set(records[0]):
        what = "this is no table of cases"
        raise InputError(what, where=str(file), fix="give a folder that `latentseg evaluate` wrote")
    for column, value in (only or {}).items():
        values = sorted({str(record.get(column)) for record in records})
        if value not in values:
            fix = f"choose from {', '.join(values[:12])}" if column in records[0] else _columns(records)
            raise UsageError(f"no rows with {column}={value}", where=str(file), fix=fix)
        records = [record for record in records if record[column] == value]
    return records


def pair_records(a: Sequence[Record], b: Sequence[Record]) -> Comparison:
    """Match the records of two runs.

    Raises:
        UsageError: A run holds a case twice: the two rows differ in what the other run does not say.
        InputError: Nothing matches.
    """
    shared = [name for name in (*CASE, *CONDITION) if name in a[0] and name in b[0]]
    several = [
        name
        for name in shared
        if name in CASE or any(len({record[name] for record in run}) > 1 for run in (a, b))
    ]
    by_a, by_b = (_by_key(run, several) for run in (a, b))
    both = [key for key in by_a if key in by_b]
    if not both:
        what = f"no row of one run has a partner in the other (compared by {', '.join(several)})"
        raise InputError(what, where="comparison", fix="choose rows, such as --a method=NAME --b method=NAME")
    pairs = {key: (by_a[key], by_b[key]) for key in both}
    conditions = tuple(name for name in several if name in CONDITION)
    return Comparison(pairs, conditions, len(by_a) - len(both), len(by_b) - len(both))


def differences(comparison: Comparison) -> list[Difference]:
    """Paired differences of every metric that both runs hold, by condition, over all organs and of each."""
    groups: dict[str, list[tuple[Record, Record]]] = {}
    for pair in comparison.pairs.values():
        condition = [pair[0][column] for column in comparison.conditions]
        organ = [pair[0][column] for column in ("organ", "label") if pair[0].get(column)]
        groups.setdefault(", ".join([*condition, "all"]), []).append(pair)
        groups.setdefault(", ".join([*condition, *organ]), []).append(pair)
    return [
        found
        for group, pairs in groups.items()
        for metric in METRICS
        if (found := _difference(group, metric, pairs)) is not None
    ]


def difference_cells(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """Header and text cells of a table of differences."""
    header = ["group", "metric", "A", "B", "A - B", "95 % interval", "A better %", "pairs", "patients"]
    body = [
        [
            one.group,
            one.metric,
            f"{one.mean_a:.3f}",
            f"{one.mean_b:.3f}",
            f"{one.difference.mean:+.3f}",
            f"{one.difference.low:+.3f} to {one.difference.high:+.3f}",
            "–" if one.better is None else f"{100 * one.better:.0f}",
            str(one.pairs),
            str(one.difference.patients),
        ]
        for one in found
    ]
    return header, body


def pairs_csv(comparison: Comparison) -> str:
    """One line per pair: what it is, and of each metric A, B and A minus B."""
    first = next(iter(comparison.pairs.values()))
    names = [name for name in (*CASE, *comparison.conditions) if name in first[0]]
    metrics = [m for m in METRICS if m in first[0] and m in first[1]]
    rows = []
    for a, b in comparison.pairs.values():
        row: dict[str, object] = {name: a[name] for name in names}
        for metric in metrics:
            both = _numbers(a, b, metric)
            row |= {f"{metric}_a": a[metric], f"{metric}_b": b[metric]}
            row[f"{metric}_difference"] = "" if both is None else both[0] - both[1]
        rows.append(row)
    return csv_text(rows)


def _by_key(run: Sequence[Record], columns: Sequence[str]) -> dict[Key, Record]:
    found: dict[Key, Record] = {}
    for record in run:
        key = tuple(record[name] for name in columns)
        if key in found:
            differing = [n for n in (*CASE, *CONDITION) if found[key].get(n) != record.get(n)]
            what = f"case {record['case']} is there twice (differing in {', '.join(differing) or 'nothing'})"
            fix = "choose rows, such as --a method=NAME, or --b shots=1"
            raise UsageError(what, where="comparison", fix=fix)
        found[key] = record
    return found


def _difference(group: str, metric: str, pairs: Sequence[tuple[Record, Record]]) -> Difference | None:
    """Difference of a metric; None where no pair has it."""
    values: dict[str, list[tuple[float, float]]] = {}
    for a, b in pairs:
        if (both := _numbers(a, b, metric)) is not None:
            values.setdefault(f"{a.get('dataset', '')} {a['case']}", []).append(both)
    if not values:
        return None
    flat = [both for of in values.values() for both in of]
    sign = -1 if metric in LESS_IS_BETTER else 1
    wins = [0.5 + 0.5 * ((sign * (a - b) > 0) - (sign * (a - b) < 0)) for a, b in flat]
    return Difference(
        group=group,
        metric=metric,
        mean_a=bootstrap_mean({who: [a for a, _ in of] for who, of in values.items()}).mean,
        mean_b=bootstrap_mean({who: [b for _, b in of] for who, of in values.items()}).mean,
        difference=bootstrap_mean({who: [a - b for a, b in of] for who, of in values.items()}),
        better=None if metric in UNKNOWING else sum(wins) / len(wins),
        pairs=len(flat),
    )


def _numbers(a: Record, b: Record, metric: str) -> tuple[float, float] | None:
    try:
        return float(a[metric]), float(b[metric])
    except (KeyError, ValueError, TypeError):
        return None


def _columns(records: Sequence[Record]) -> str:
    known = [name for name in (*CASE, *CONDITION) if name in records[0]]
    return f"columns are {', '.join(known)}"
