"""Filling between slices, what an emptied slice ends, the journal, paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from latentseg.errors import InputError, UsageError
from latentseg.serve.between import fill_between
from latentseg.serve.emptied import beyond_emptied
from latentseg.serve.journal import Journal
from latentseg.serve.paths import allowed, listing, safe_name
from latentseg.serve.settings import ServeOptions


def disc(radius: float, size: int = 41) -> np.ndarray:
    x, y = np.indices((size, size)) - size // 2
    return x**2 + y**2 <= radius**2


def test_between_two_discs_lies_a_disc() -> None:
    filled = fill_between({2: disc(5), 6: disc(13)})
    assert sorted(filled) == [3, 4, 5]
    assert abs(filled[4].sum() - disc(9).sum()) < 0.05 * disc(9).sum()
    assert filled[3].sum() < filled[4].sum() < filled[5].sum()


def test_checked_slices_stay() -> None:
    assert sorted(fill_between({2: disc(5), 4: disc(0) & False, 6: disc(5)})) == [3, 5]


@pytest.mark.parametrize("drawn", [{}, {3: disc(4)}, {3: disc(4), 4: disc(4)}])
def test_nothing_to_fill(drawn) -> None:
    with pytest.raises(UsageError, match="nothing to fill"):
        fill_between(drawn)


def test_what_went_through_an_emptied_slice_is_gone() -> None:
    mask = np.zeros((9, 9, 12), bool)
    mask[3:6, 3:6, 1:11] = True
    gone = beyond_emptied(mask, {3: mask[:, :, 3], 7: np.zeros((9, 9), bool)})
    assert not gone[:, :, :7].any()
    assert gone[3:6, 3:6, 8:11].all()


def test_another_part_stays() -> None:
    mask = np.zeros((20, 9, 12), bool)
    mask[2:5, 3:6, 1:11] = True
    mask[12:15, 3:6, 8:11] = True  # it never went through the emptied slice
    gone = beyond_emptied(mask, {3: mask[:, :, 3], 7: np.zeros((20, 9), bool)})
    assert gone[2:5, :, 8:].any()
    assert not gone[12:15].any()


def test_without_a_drawn_slice_nothing_is_taken_away() -> None:
    mask = np.ones((3, 3, 5), bool)
    assert not beyond_emptied(mask, {2: np.zeros((3, 3), bool)}).any()
    assert not beyond_emptied(mask, {2: np.ones((3, 3), bool)}).any()


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert [journal.append("drew", who="a"), journal.append("drew", who="b")] == [1, 2]
    with (tmp_path / "journal.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"number": 3, "wh')
    again = Journal(tmp_path / "journal.jsonl")
    assert [event["who"] for event in again] == ["a", "b"]
    assert again.append("drew", who="c") == 3
    lines = (tmp_path / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (root / "inside" / "a.nii.gz").write_bytes(b"x")
    (root / "note.txt").write_bytes(b"x")
    (tmp_path / "secret.nii.gz").write_bytes(b"x")
    (root / "link.nii.gz").symlink_to(tmp_path / "secret.nii.gz")
    (root / "out").symlink_to(tmp_path)
    return root


@pytest.mark.parametrize(
    "path",
    [
        "{0}/../secret.nii.gz",
        "{0}/link.nii.gz",
        "{0}/out/secret.nii.gz",
        "/etc/passwd",
        "{0}/missing",
        "a\0b",
        "",
        "{0}/" + "x" * 5000,
    ],
)
def test_no_path_leads_outside(tree: Path, path: str) -> None:
    with pytest.raises(InputError):
        allowed(path.format(tree), [tree])


def test_what_is_listed(tree: Path) -> None:
    assert [(entry.name, entry.kind) for entry in listing(tree, [tree])] == [("inside", "folder")]
    assert [entry.name for entry in listing(tree / "inside", [tree])] == ["a.nii.gz"]
    assert allowed(tree / "inside" / "a.nii.gz", [tree]).name == "a.nii.gz"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.nii.gz", "a.nii.gz"),
        ("../../etc/passwd", "passwd"),
        ("..\\x.nii", "x.nii"),
        ("a\0b\n.nii", "a_b_.nii"),
        (".hidden", "hidden"),
    ],
)
def test_names_of_uploads(given: str, kept: str) -> None:
    assert safe_name(given) == kept


@pytest.mark.parametrize("name", ["", "..", "/", "..."])
def test_uploads_without_a_name(name: str) -> None:
    with pytest.raises(InputError, match="no name"):
        safe_name(name)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"token": "short"}, "16 are needed"),
        ({"token": "with space in the middle"}, "spaces"),
        ({"data": (Path("/nowhere"),)}, "not a folder"),
        ({"dicomweb": "ftp://x"}, "DICOMweb"),
        ({"origins": ("*",)}, "not the origin of a page"),
    ],
)
def test_what_a_server_is_not_started_with(tmp_path: Path, wrong, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        ServeOptions(tmp_path, **wrong)
