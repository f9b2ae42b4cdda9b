"""`latentseg reproduce sdfsmis` end to end on phantoms: tiny folders of both layouts, stops, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from helpers.sd_folders import save_dinov2, save_stable_diffusion
from latentseg.cli import main, reproduce_sdfsmis
from latentseg.evaluation.datasets import SABS
from latentseg.imaging import write_like
from latentseg.phantom.bodies import abdomen

Capture = pytest.CaptureFixture[str]
CONFIGS = Path(__file__).parents[2] / "configs"
TRIAL = ["--folds", "0", "--train-steps", "2", "--queries", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fold 0 of SABS and one more scan to train on, played by phantoms."""
    folder = tmp_path_factory.mktemp("data")
    for case in [*SABS.members(0), "8"]:
        phantom = abdomen(seed=int(case == "8"), shape=(48, 48, 6))
        labels = np.select([phantom.labels.array == n for n in (1, 2, 3, 4)], [6, 2, 3, 1], 0)
        path = folder / "sabs" / f"image_{case}.nii.gz"
        write_like(phantom.image.array, like=phantom.image, path=path, kind="image")
        mask = path.with_name(f"label_{case}.nii.gz")
        write_like(labels.astype(np.uint8), like=phantom.labels, path=mask)
    return folder


@pytest.fixture(autouse=True)
def data(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATENTSEG_DATA", str(scans))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_stable_diffusion(tmp_path_factory.mktemp("sd"))
    save_dinov2(folder / "dinov2")
    return folder


def words(config: str, backbone: Path, *more: str) -> list[str]:
    text = (CONFIGS / f"sdfsmis-{config}.yaml").read_text(encoding="utf-8")
    Path("trial.yaml").write_text(text.replace("workers: 4", "log_every: 1"), encoding="utf-8")
    dinov2 = ["--dinov2", str(backbone / "dinov2")] if (backbone / "dinov2").exists() else []
    start = ["reproduce", "sdfsmis", "trial.yaml", "--backbone", str(backbone), "-o", "out"]
    return [*start, *TRIAL, *dinov2, *more]


def test_the_paper_on_stable_diffusion_step_by_step(
    diffusion: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba", reason="needs the extra `train`")
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    monkeypatch.setenv("LATENTSEG_OFFLINE", "1")
    assert main(words("paper", diffusion, "--steps", "export")) == 3
    assert "no packed slices" in capsys.readouterr().err
    assert main(words("paper", diffusion, "--steps", "prepare,supervoxels,train")) == 0
    assert "22 training scans are missing: 7, 9" in capsys.readouterr().err
    split = json.loads(Path("out/fold0/split.json").read_text(encoding="utf-8"))
    assert list(split["slices"]) == ["8"]  # none of the fold's own patients
    assert not Path("out/fold0/released").exists()
    assert main(words("paper", diffusion, "--steps", "export,evaluate")) == 0
    assert (Path("out/fold0/released") / "dinov2").is_dir()
    capsys.readouterr()
    assert main(words("paper", diffusion)) == 0  # all is there: the table again
    captured = capsys.readouterr()
    assert "Dice" not in captured.err  # no case was segmented twice
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert all(
        text in page for text in ("SD-FSMIS, CVPR 2026 (reported by the authors)", "83.7", "Worst cases")
    )
    assert "data:image/png;base64," in page
    assert "one support slice" in page
    assert len(json.loads(Path("out/results.json").read_text(encoding="utf-8"))["cases"]) == 4


def test_the_release_on_compact(tiny_tumor_model: Path, capsys: Capture) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    assert main(words("released", tiny_tumor_model)) == 0
    captured = capsys.readouterr()
    assert "not needed: this recipe is supervised by labels" in captured.err
    assert Path("out/fold0/fewshot.safetensors").is_file()
    assert "all three support slices" in Path("out/table.md").read_text(encoding="utf-8")
    assert main(words("released", tiny_tumor_model, "--setting", "2")) == 2
    assert "begun with another setting" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--steps", "trian"], 2, "no step 'trian'"),
        (["--setting", "cross-domain"], 2, "go together"),
        (["--setting", "cross-domain", "--train-dataset", "SABS"], 2, "trained and tested on one data set"),
        (["--train-dataset", "CHAOS"], 2, "go together"),
        (["--folds", "1"], 3, "fold 1 lacks"),
        (["--steps", "evaluate"], 4, "no exported weights"),
        (["--steps", "page"], 3, "there is no run here"),
    ],
)
def test_wrong_calls(diffusion: Path, capsys: Capture, more: list[str], code: int, says: str) -> None:
    assert main(words("released", diffusion, *more)) == code
    assert says in capsys.readouterr().err


def test_each_group_has_a_model_in_the_corrected_setting() -> None:
    units = reproduce_sdfsmis.units_of("2-corrected", [0, 1])
    assert [unit.name for unit in units] == ["fold0-upper", "fold0-lower", "fold1-upper", "fold1-lower"]
    assert [unit.name for unit in reproduce_sdfsmis.units_of("2", [3])] == ["fold3"]
