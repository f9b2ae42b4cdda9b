"""The zero-shot protocol on phantoms, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.cli import main
from latentseg.errors import InputError, UsageError
from latentseg.evaluation.datasets import tumors
from latentseg.evaluation.datasets.tumors import (
    CATEGORIES,
    Category,
    TumorArchive,
    TumorCase,
    TumorFiles,
    get_category,
)
from latentseg.evaluation.tumor_methods import IntensityOutlier, top_mean
from latentseg.evaluation.zero_shot import (
    Found,
    average_precision,
    case_rows,
    category_cells,
    evaluate_category,
    summarize_categories,
)
from latentseg.imaging import Volume, read, write_like
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.phantom.bodies import abdomen
from latentseg.text.codes import segment_code

Capture = pytest.CaptureFixture[str]
FILES = TumorFiles("tumour_3d/*/CT_image.nii.gz", ("_image", "_mask"), (1,), "CT")
PHANTOM = Category("phantom", "liver tumor", (FILES,), ("CT",))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two patients with a bright box on slices 2 and 3."""
    for number in (1, 2):
        phantom = abdomen(seed=number, shape=(64, 64, 6))
        mask = np.zeros(phantom.image.shape, np.uint8)
        mask[30:38, 30:38, 2:4] = 1
        folder = tmp_path / "tumour_3d" / f"P{number}"
        folder.mkdir(parents=True)
        image = np.where(mask > 0, 900, phantom.image.array)
        write_like(image, like=phantom.image, path=folder / "CT_image.nii.gz", kind="image")
        write_like(mask, like=phantom.image, path=folder / "CT_mask.nii.gz")
    healthy = abdomen(seed=5, shape=(64, 64, 8)).image
    control = TumorCase("control", "control", healthy, None)
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path))
    monkeypatch.setitem(tumors.CONTROLS, "CT", lambda: iter([control]))
    return tmp_path


def test_an_archive_holds_a_scan_and_its_tumor(tmp_path: Path) -> None:
    phantom = abdomen(seed=1, shape=(64, 64, 4)).image
    mask = np.zeros(phantom.shape, bool)
    mask[30:38, 20:24, 1:3] = True
    save_slices(slice_datasets(phantom), tmp_path / "P1" / "image")
    scan = read(tmp_path / "P1" / "image")
    aligned = mask if np.array_equal(scan.array, phantom.array) else mask[:, :, ::-1]
    (tmp_path / "P1" / "mask").mkdir()
    write_seg(
        [Segment("GTV Mass", aligned, segment_code("tumor"))],
        like=scan,
        path=tmp_path / "P1" / "mask" / "1.dcm",
    )
    with tarfile.open(tmp_path / "P1.tar.xz", "w:xz") as packed:
        packed.add(tmp_path / "P1", "P1")
    archive = TumorArchive("P1.tar.xz", "P1/image", "P1/mask", "gtv mass")
    (case,) = archive.cases(tmp_path)
    assert (case.name, case.patient, case.image.modality) == ("P1.tar.xz", "P1", "CT")
    assert case.mask is not None
    np.testing.assert_array_equal(case.mask, aligned)
    np.testing.assert_array_equal(case.image.array, scan.array)
    assert not list(archive.cases(tmp_path / "nowhere"))


class Halves:
    """Finds the first half of the box, and a pixel on the first slice of everything."""

    name = "halves"

    def __call__(self, scan: Volume, prompt: str) -> Found:
        assert prompt == "liver tumor"
        mask = np.zeros(scan.shape, bool)
        mask[30:34, 30:38, 2:4] = True
        mask[0, 0, 0] = True
        return Found(mask, np.arange(scan.shape[2], dtype=float))


@pytest.mark.usefixtures("data")
def test_rows_by_hand() -> None:
    rows = list(evaluate_category(PHANTOM, [Halves()]))
    sick = [row for row in rows if row.tumor]
    assert [(row.patient, row.slice) for row in sick] == [("P1", 2), ("P1", 3), ("P2", 2), ("P2", 3)]
    for row in sick:
        assert row.dice == pytest.approx(2 * 32 / (32 + 64))
        assert (row.lesions, row.lesions_found, row.lesions_predicted) == (1, 1, 1)
        assert row.score == row.slice
    healthy = [row for row in rows if not row.tumor]
    assert len(healthy) == 8
    assert {row.dice for row in healthy} == {None}
    (summary,) = summarize_categories(rows)
    assert summary.dice.mean == pytest.approx(2 / 3)
    assert summary.false_positive_rate == pytest.approx(3 / 8)
    assert summary.auroc == pytest.approx((2.5 + 3.5) / 16)
    assert summary.lesion_recall == summary.lesion_precision == 1
    header, body = category_cells([summary])
    assert len(header) == len(body[0])


@pytest.mark.usefixtures("data")
def test_the_outlier_baseline_finds_a_bright_box() -> None:
    case = next(PHANTOM.cases())
    rows = list(case_rows(PHANTOM, case, IntensityOutlier(limit=1.5, blur=0.5)))
    assert min(row.dice or 0 for row in rows) > 0.3
    speck = Volume(np.pad(np.ones((2, 2, 1)), ((9, 9), (9, 9), (0, 0))), np.eye(4), modality="MR")
    assert not IntensityOutlier()(speck, "liver tumor").mask.any()  # no body is left to compare with


def test_average_precision_by_hand() -> None:
    assert average_precision([3, 1], [2, 0]) == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert average_precision([1], [1]) == 0.5
    assert average_precision([], [1]) is None


def test_top_mean_by_hand() -> None:
    values = np.zeros((2, 10, 20))
    values[1, 0, :2] = 3.0
    assert top_mean(values).tolist() == [0.0, 3.0]


def test_unknown_or_missing_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no category 'wart'"):
        get_category("wart")
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path))
    for category in CATEGORIES.values():
        assert category.prompt_concept
        with pytest.raises(InputError, match="no scans of the category"):
            next(category.cases())
        assert not list(category.healthy())
    with pytest.raises(InputError, match="no slice with tumor"):
        summarize_categories(case_rows(PHANTOM, control(), Halves()))


def control() -> TumorCase:
    return TumorCase("c", "c", abdomen(seed=5, shape=(64, 64, 4)).image, None)


@pytest.mark.usefixtures("data")
def test_command(
    tiny_tumor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tumors.CATEGORIES, "phantom", PHANTOM)
    words = ["evaluate", "tumor", "--category", "phantom", "--backbone", str(tiny_tumor_model)]
    assert main([*words, "--methods", "learned,outlier", "--limit", "1"]) == 0
    captured = capsys.readouterr()
    assert "not trained without 'liver tumor'" in captured.err
    assert "+ learned fusion" in captured.out
    assert "Reported by the authors" in captured.out
    with Path("evaluation/cases.csv").open(encoding="utf-8") as file:
        assert {row["method"] for row in csv.DictReader(file)} == {"+ learned fusion", "intensity outlier"}
    results = json.loads(Path("evaluation/results.json").read_text(encoding="utf-8"))
    assert results["about"]["limit"] == 1
    assert len(results["summaries"]) == 2
    assert Path("evaluation/table.md").read_text(encoding="utf-8").startswith("# Zero-shot")
    for more, text in (
        (["--category", "wart"], "no category 'wart'"),
        (["--methods", "magic"], "unknown methods 'magic'"),
        (["--category", ""], "no category"),
        (["--preset", "best"], "unknown preset 'best'"),
    ):
        assert main([*words, *more]) == 2
        assert text in capsys.readouterr().err
