"""`segment -p` and `batch -p`: what is known of a category is said, and what cannot be seen is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.phantom.bodies import Phantom

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def scan(tmp_path: Path, searched: Phantom, monkeypatch: pytest.MonkeyPatch) -> str:
    """A scan in a folder of its own, which is below the current one."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "in" / "scan.nii.gz"
    path.parent.mkdir()
    write_like(searched.image.array, like=searched.image, path=path, kind="image")
    return "in/scan.nii.gz"


def test_what_the_weights_do_not_see_is_refused_before_the_work(scan: str, capsys: Capture) -> None:
    for verb in (["segment", scan], ["batch", "in"]):
        assert main([*verb, "-p", "prostate cancer"]) == 2
        said = capsys.readouterr().err
        assert "E200 the model does not see where 'prostate cancer' may be, of the prostate" in said
        assert "--anyway looks for it" in said
        assert not Path("out", "scan").exists()


def test_anyway_looks_for_it_and_says_that_nothing_was_measured(
    scan: str, tiny_tumor_model: Path, capsys: Capture
) -> None:
    for verb in (["segment", scan], ["batch", "in"]):
        words = ["-p", "prostate cancer", "--anyway", "--backbone", str(tiny_tumor_model)]
        assert main([*verb, *words, "-o", verb[0]]) == 0
        assert "nothing was measured of how well this is found" in capsys.readouterr().out
        assert Path(verb[0], "scan").is_dir()


def test_the_figures_of_a_finding_are_said_beside_its_volume(scan: str, capsys: Capture) -> None:
    assert main(["segment", scan, "-p", "liver tumor", "--save", "mask"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("liver tumor: ")]
    assert "; something was marked in" in line
