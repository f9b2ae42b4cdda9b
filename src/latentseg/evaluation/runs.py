"""The folder of a run: every finished row is on disk at once, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.protocols import FewShotProtocol, Outcome, run_protocol
from latentseg.evaluation.rows import Row, RowKey
from latentseg.evaluation.slices import SliceMethod
from latentseg.imaging.files import write_file, write_json

FACTS_FILE = "run.json"
ROWS_FILE = "cases.jsonl"


def _quietly(seen: object) -> None:
    del seen


@dataclass(frozen=True)
class RunOptions:
    """How protocols are run.

    Attributes:
        queries: Query scans of each fold to take, from the first on; None is all.
        seen: By data set, the cases that the weights were trained on.
        say: Told every new row.
        show: Given every new outcome before its row counts as done.
    """

    queries: int | None = None
    seen: Mapping[str, Collection[str]] = field(default_factory=dict)
    say: Callable[[Row], None] = _quietly
    show: Callable[[Outcome], None] = _quietly


class RunFolder:
    """Rows of a run by key, as they are on disk.

    A row is one line, flushed to the disk when it is added; a line that was cut off by a crash is dropped.
    `run.json` holds what every row of the folder shares, such as the weights.

    Attributes:
        folder: Where it is.
        rows: What is finished.

    Args:
        folder: Destination, made if it does not exist.
        facts: What all rows must share; a folder of other facts is refused.
        restart: Forget what is there.

    Raises:
        UsageError: The folder holds a run of other facts.
        InputError: The folder cannot be written, or its files are damaged.
    """

    def __init__(self, folder: Path, *, facts: Mapping[str, object], restart: bool = False) -> None:
        self.folder = folder
        self.rows: dict[RowKey, Row] = {}
        if restart:
            for name in (FACTS_FILE, ROWS_FILE):
                (folder / name).unlink(missing_ok=True)
        if (folder / FACTS_FILE).exists():
            _check_facts(folder / FACTS_FILE, facts)
        else:
            write_json(folder / FACTS_FILE, dict(facts))
        if (folder / ROWS_FILE).exists():
            self.rows = {row.key: row for row in read_rows(folder / ROWS_FILE)}
            # without a last line that a crash may have cut off
            lines = (json.dumps(asdict(row)) + "\n" for row in self.rows.values())
            write_file(folder / ROWS_FILE, "".join(lines))

    def add(self, row: Row) -> None:
        """Put a finished row on the disk."""
        self.rows[row.key] = row
        with (self.folder / ROWS_FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(row)) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def read_rows(path: Path) -> list[Row]:
    """Rows of a run, without a last line that was cut off.

    Raises:
        InputError: The file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise InputError(f"cannot read the rows ({error.strerror})", where=str(path)) from error
    known = {one.name for one in fields(Row)}
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            rows.append(Row(**{name: value for name, value in content.items() if name in known}))
        except (ValueError, TypeError, AttributeError) as error:
            if number == len(lines) and not line.endswith("\n"):
                break
            fix = "remove the folder, or run with --restart"
            raise InputError(f"line {number} is damaged", where=str(path), fix=fix) from error
    return rows


def read_facts(path: Path) -> dict[str, object]:
    """What the rows of a run share.

    Raises:
        InputError: The file is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        fix = "remove the folder, or run with --restart"
        raise InputError("this run cannot be read", where=str(path), fix=fix) from error


def _check_facts(path: Path, facts: Mapping[str, object]) -> None:
    before, now = read_facts(path), json.loads(json.dumps(dict(facts)))
    for name in [*now, *before]:
        if before.get(name) != now.get(name):
            what = f"this folder holds a run with {name} {before.get(name)!r}, not {now.get(name)!r}"
            fix = "choose another folder, or run with --restart"
            raise UsageError(what, where=str(path.parent), fix=fix)


def run_all(
    protocols: Sequence[FewShotProtocol],
    *,
    methods: Sequence[SliceMethod],
    folder: RunFolder,
    options: RunOptions | None = None,
) -> list[Row]:
    """Run protocols one after the other, and return the rows that were asked for, old and new.

    Raises:
        UsageError: See `FewShotProtocol.check`; every protocol is checked before the first one runs.
        InputError: Cases are missing or cannot be read, or a support scan does not hold an organ.
    """
    options = options or RunOptions()
    for protocol in protocols:
        protocol.check()
    for protocol in protocols:
        found = run_protocol(protocol, methods=methods, done=folder.rows, queries=options.queries)
        for outcome in found:
            options.show(outcome)
            row = outcome.row
            seen = bool(row.weights) and row.case in options.seen.get(row.dataset, ())
            folder.add(replace(row, seen=seen))
            options.say(row)
    return [folder.rows[key] for key in _asked(protocols, methods, options.queries) if key in folder.rows]


def merge_runs(folders: Sequence[Path]) -> tuple[list[Row], dict[str, object]]:
    """Rows of several runs, and what they share; a row that two of them hold alike counts once.

    Raises:
        InputError: A folder holds no run.
        UsageError: Two runs hold different results of one case.
    """
    rows: dict[RowKey, Row] = {}
    facts: dict[str, set[str]] = {}
    for folder in folders:
        if not (folder / ROWS_FILE).exists():
            fix = "give folders that `latentseg evaluate fewshot` wrote"
            raise InputError("there is no run here", where=str(folder), fix=fix)
        for name, value in read_facts(folder / FACTS_FILE).items():
            facts.setdefault(name, set()).add(str(value))
        for row in read_rows(folder / ROWS_FILE):
            if rows.setdefault(row.key, row) != row:
                what = f"two results of {row.patient} {row.organ} by {row.method}"
                raise UsageError(what, where=str(folder), fix="leave one of the runs out")
    return list(rows.values()), {name: ", ".join(sorted(values)) for name, values in facts.items()}


def _asked(
    protocols: Sequence[FewShotProtocol], methods: Sequence[SliceMethod], queries: int | None
) -> Iterator[RowKey]:
    """Keys of all rows that the protocols ask for, in order."""
    for protocol in protocols:
        for case in protocol.cases()[1][:queries]:
            for organ in protocol.targets:
                for method in methods:
                    yield protocol.row(case, organ=organ, method=method).key
