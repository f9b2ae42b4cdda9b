"""`latentseg report`: from a folder of results to one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.phantom.bodies import Phantom, abdomen

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
    moved = Path("else.html").read_text(encoding="utf-8")
    assert moved.replace('href="out/', 'href="') == html  # the links to the masks


def test_against_the_truth(run: Path, capsys: Capture) -> None:
    for number in range(2):
        labels = abdomen(seed=number + 1, shape=(60, 64, 6)).labels
        write_like(labels.array == 1, like=labels, path=Path(f"truth/ct{number}.nii.gz"))
    assert main(["report", "out", "--truth", "truth"]) == 0
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "Against the truth" in html
    assert "Cases that failed: 1." in html
    assert main(["report", "out", "--truth", "truth", "--labels", "2=spleen"]) == 2
    assert "no label is called 'liver', only spleen: truth/ct" in capsys.readouterr().err


def test_what_is_no_run(tmp_path: Path, capsys: Capture) -> None:
    assert main(["report", str(tmp_path / "nowhere")]) == 3
    assert "E300 no such folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 3
    assert "E300 there is no run.json, so no run to report on" in capsys.readouterr().err
    (tmp_path / "run.json").write_text('{"methods"', encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert "E300 the manifest is damaged (Expecting ':' delimiter" in error
    assert "Run 'latentseg batch' again with --resume: what is finished is kept." in error
    assert list(tmp_path.iterdir()) == [tmp_path / "run.json"]
    assert main(["report", str(tmp_path), "--labels", "1=liver"]) == 2
    assert "labels of no truth: --labels. Give --truth too." in capsys.readouterr().err
