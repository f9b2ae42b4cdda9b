"""`latentseg demo` and `latentseg evaluate` on phantoms, in place of the real data sets as well."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg import api, demo
from latentseg.backbones import registry
from latentseg.cli import main
from latentseg.evaluation.datasets import CHAOS, SABS, Dataset
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.slices import SupportSlices
from latentseg.imaging import write_like
from latentseg.imaging.previews import overlay
from latentseg.phantom.bodies import Phantom, abdomen

Capture = pytest.CaptureFixture[str]
ORGANS = {"liver": "liver", "kidney_right": "right_kidney", "kidney_left": "left_kidney", "spleen": "spleen"}


@pytest.fixture
def embedded(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights in the place of the shipped ones, and no real data."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "compact"))
    registry.write_manifest(folder)
    monkeypatch.setattr(registry, "_embedded_folder", lambda name: folder)
    monkeypatch.setattr(demo, "PHANTOM_SHAPE", (48, 48, 8))
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


def pose_as(dataset: Dataset, phantom: Phantom, root: Path) -> None:
    """Store a phantom as every scan of fold 0 of a data set."""
    labels = np.zeros(phantom.labels.shape, np.uint8)
    for value, name in phantom.names.items():
        if name in ORGANS:
            labels[phantom.labels.array == value] = dataset.label_of[ORGANS[name]]
    folder = root / dataset.folder
    for position in dataset.folds[0]:
        case = dataset.ids[position]
        path = folder / f"image_{case}.nii.gz"
        write_like(phantom.image.array, like=phantom.image, path=path, kind="image")
        write_like(labels, like=phantom.labels, path=folder / f"label_{case}.nii.gz")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tree like that of the real data, of phantoms."""
    pose_as(SABS, abdomen(seed=3, shape=(48, 48, 8)), tmp_path / "data")
    pose_as(CHAOS, abdomen(seed=4, shape=(48, 48, 8), modality="MR"), tmp_path / "data")
    return tmp_path / "data"


def test_demo_without_data(embedded: None, capsys: Capture) -> None:
    assert main(["demo", "-o", "page"]) == 0
    captured = capsys.readouterr()
    assert "set LATENTSEG_DATA" in captured.err
    rows = re.findall(r"^(CT|MR) phantom +(\w+) +\d\.\d{3} +\d+ ml +\d\.\d\d", captured.out, re.MULTILINE)
    assert rows == [(modality, name) for modality in ("CT", "MR") for name in demo.PHANTOM_TARGETS]
    page = Path("page/demo.html").read_text(encoding="utf-8")
    assert str(Path("page/demo.html").resolve()) in captured.out.replace("\n", "")
    assert page.count("data:image/png;base64,") >= 6 * 3
    assert "<table" in page
    assert "Phantoms, whole volumes" in page
    assert (Path("page") / "phantom-ct" / "volume" / "volume_seg-liver.nii.gz").exists()


@pytest.mark.usefixtures("data")
def test_demo_with_data(embedded: None, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    one = overlay(np.zeros((4, 4), np.float32))  # outlines of noise would take a minute
    monkeypatch.setattr(demo, "PHANTOM_TARGETS", ("liver",))
    monkeypatch.setattr(demo, "overlay", lambda *rest, **options: one)
    monkeypatch.setattr(demo, "heatmap", lambda *rest, **options: one)
    assert main(["demo", "-o", "page", "--queries", "1"]) == 0
    output = capsys.readouterr().out
    for word in ("SABS", "CHAOS", "SD-FSMIS (compact)", "prototype matching", "support mask copied"):
        assert word in output
    page = Path("page/demo.html").read_text(encoding="utf-8")
    for name in ("CT shows, CT is searched", "MR shows, MR is searched", "CT shows, MR is searched"):
        assert name in page
    assert page.count("data:image/png;base64,") > 2 * 3 + 3 * 4


def test_demo_refuses_a_folder_it_cannot_write(embedded: None, capsys: Capture) -> None:
    Path("file").write_text("", encoding="utf-8")
    assert main(["demo", "-o", "file/page"]) == 3
    assert capsys.readouterr().err.startswith("E300 a file is in the way")


def test_queries_and_supports_are_encoded_once(
    tiny_model: Path, shown: Phantom, searched: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = api.load(backbone=tiny_model)
    method = FewShotMethod(segmenter)
    assert method.name == "SD-FSMIS (compact)"
    support = ls.Support.from_volumes(shown.image, shown.labels, name="x", label=1)
    query = ls.Support.from_volumes(searched.image, searched.labels, name="x", label=1).images
    example = SupportSlices(support.images[:1], support.masks[:1])
    first = method(example, query)
    assert first.shape == query.shape
    monkeypatch.setattr(segmenter, "encode", None)
    monkeypatch.setattr(segmenter, "encode_slices", None)
    np.testing.assert_allclose(method(example, query[::-1])[::-1], first, atol=1e-5)
