"""`latentseg report`: from a folder of results to one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.imaging.phantom import Phantom, abdomen

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(tmp_path: Path, shown: Phantom, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`out/` as `latentseg batch` writes it: two scans segmented, one that is none."""
    for number in range(2):
        scan = abdomen(seed=number + 1, shape=(60, 64, 6)).image
        write_like(scan.array, like=scan, path=tmp_path / f"in/ct{number}.nii.gz", kind="image")
    (tmp_path / "in/ct2.nii.gz").write_bytes(b"no scan")
    write_like(shown.image.array, like=shown.image, path=tmp_path / "ex.nii.gz", kind="image")
    write_like(shown.labels.array == 1, like=shown.image, path=tmp_path / "ex_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    words = ["-s", "ex.nii.gz,ex_mask.nii.gz", "-t", "liver", "--backbone", str(tiny_model), "-o", "out"]
    assert main(["batch", "in", *words]) == 6
    return tmp_path / "out"


def test_a_batch_becomes_a_page(run: Path, capsys: Capture) -> None:
    assert main(["report", "out"]) == 0
    assert f"Look at {run / 'report.html'}" in capsys.readouterr().out
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "liver in 3 scans" in html
    assert html.count("<article") == 2
    assert html.count("data:image/jpeg") >= 4
    assert main(["report", "out", "-o", "else.html"]) == 0
    assert Path("else.html").read_text(encoding="utf-8") == html
