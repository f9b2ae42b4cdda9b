"""The one way through folders: links to folders are followed, rings end, nothing is lost without a word."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.errors import noted
from latentseg.imaging.files import files_below, natural_key


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """Files relative to the folder, and what was said."""
    with noted([]) as notes:
        return [path.relative_to(folder).as_posix() for path in files_below(folder)], notes


def test_natural_order_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "s10/a", "s2/b10", "s2/b9", ".DS_Store", "s2/._b9", ".snapshot/s2/b9", "a²", "a٣")
    assert listed(tmp_path) == (["a٣", "a²", "s2/b9", "s2/b10", "s10/a"], [])
    assert natural_key(Path("a²")) != natural_key(Path("a2"))


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    touch(tmp_path, "store/p1/ct.nii.gz", "store/p2/deep/ct.nii.gz", "cohort/p3/ct.nii.gz")
    (tmp_path / "cohort/p1").symlink_to("../store/p1")
    (tmp_path / "cohort/p2").symlink_to(tmp_path / "store/p2")
    (tmp_path / "cohort/p4.nii.gz").symlink_to("../store/p1/ct.nii.gz")
    files = ["p1/ct.nii.gz", "p2/deep/ct.nii.gz", "p3/ct.nii.gz", "p4.nii.gz"]
    assert listed(tmp_path / "cohort") == (files, [])
    (tmp_path / "all").symlink_to("cohort")
    assert listed(tmp_path / "all") == (files, [])


def test_a_link_behind_a_link_is_followed(tmp_path: Path) -> None:
    touch(tmp_path, "a/x", "b/y", "c/z")
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_c").symlink_to("../c")
    assert listed(tmp_path / "a") == (["to_b/to_c/z", "to_b/y", "x"], [])


@pytest.mark.parametrize("target", ["..", ".", "../..", "/", "../../a"])
def test_links_upwards_end(target: str, tmp_path: Path) -> None:
    touch(tmp_path, "a/x", "a/deep/y")
    (tmp_path / "a/deep/up").symlink_to(target)
    files, notes = listed(tmp_path / "a")
    assert (files, len(notes)) == (["deep/y", "x"], 1)
    assert "1 link(s) to folders that are listed already left out, such as" in notes[0]
    assert notes[0].endswith(str(Path("deep/up")))


def test_rings_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x", "b/y")
    (tmp_path / "a/to_b").symlink_to("../b")
    (tmp_path / "b/to_a").symlink_to("../a")
    files, notes = listed(tmp_path / "a")
    assert (files, len(notes)) == (["to_b/y", "x"], 1)


def test_a_folder_with_two_names_is_listed_once_under_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "z/x")
    (tmp_path / "a").symlink_to("z")
    (tmp_path / "b").symlink_to("z")
    files, notes = listed(tmp_path)
    assert files == ["z/x"]
    assert "2 link(s) to folders" in notes[0]


def test_a_link_to_a_folder_that_holds_one_listed_adds_the_rest(tmp_path: Path) -> None:
    touch(tmp_path, "store/p1/x", "store/p2/y")
    (tmp_path / "cohort").mkdir()
    (tmp_path / "cohort/a").symlink_to("../store/p1")
    (tmp_path / "cohort/b").symlink_to("../store")
    assert listed(tmp_path / "cohort") == (["a/x", "b/p2/y"], [])


def test_links_that_lead_nowhere_are_said(tmp_path: Path) -> None:
    touch(tmp_path, "x")
    (tmp_path / "series3").symlink_to("moved/away")
    (tmp_path / "itself").symlink_to("itself")
    (tmp_path / "ct.nii.gz").symlink_to("moved/ct.nii.gz")
    files, notes = listed(tmp_path)
    assert files == ["ct.nii.gz", "x"]  # an image that is missing fails by name when it is read
    assert "2 folder(s) or link(s) that cannot be opened left out" in notes[0]


def test_folders_that_may_not_be_read_are_said(own_folder: Path) -> None:
    touch(own_folder, "x", "closed/y")
    (own_folder / "closed").chmod(0)
    files, notes = listed(own_folder)
    (own_folder / "closed").chmod(0o700)
    assert files == ["x"]
    assert "1 folder(s) or link(s) that cannot be opened left out" in notes[0]
