"""The folder of a run: what a crash leaves is used, what another run left is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.rows import Row
from latentseg.evaluation.runs import RunFolder, read_rows

FACTS = {"weights": "abc", "version": "1"}


def row(case: str) -> Row:
    return Row("EP1", "TOY", 0, case, "TOY", 2, "2", "liver", "copy", 7, 1, 2, 3, 0.01)


def test_rows_are_there_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", facts=FACTS)
    run.add(row("0"))
    run.add(row("1"))
    again = RunFolder(tmp_path / "run", facts=FACTS)
    assert list(again.rows.values()) == [row("0"), row("1")]
    assert row("1").key in again.rows


def test_a_line_that_was_cut_off_is_lost_and_no_other(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, facts=FACTS)
    run.add(row("0"))
    run.add(row("1"))
    path = tmp_path / "cases.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    again = RunFolder(tmp_path, facts=FACTS)
    assert list(again.rows.values()) == [row("0")]
    again.add(row("2"))
    assert read_rows(path) == [row("0"), row("2")]


def test_other_facts_are_refused_and_restart_forgets(tmp_path: Path) -> None:
    RunFolder(tmp_path, facts=FACTS).add(row("0"))
    with pytest.raises(UsageError, match=r"a run with weights 'abc', not 'xyz'.*--restart"):
        RunFolder(tmp_path, facts=FACTS | {"weights": "xyz"})
    fresh = RunFolder(tmp_path, facts=FACTS | {"weights": "xyz"}, restart=True)
    assert fresh.rows == {}
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["weights"] == "xyz"


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, facts=FACTS)
    run.add(row("0"))
    path = tmp_path / "cases.jsonl"
    path.write_text("nonsense\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError, match="line 1 is damaged"):
        RunFolder(tmp_path, facts=FACTS)
    (tmp_path / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="this run cannot be read"):
        RunFolder(tmp_path, facts=FACTS)


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write"):
        RunFolder(tmp_path / "file", facts=FACTS)
