"""`latentseg reproduce sdfsmis` end to end on phantoms: tiny folders of both layouts, stops, wrong input."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.sd_folders import save_dinov2, save_stable_diffusion
from latentseg.cli import main
from latentseg.evaluation.datasets import CHAOS, MS_CMRSEG, SABS
from latentseg.evaluation.runs import read_rows
from latentseg.imaging import Volume, read_labels, write_like
from latentseg.phantom.bodies import abdomen
from latentseg.training.fewshot.scan_pack import smallest_of
from latentseg.training.pack import Pack

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
    cases = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["cases"]
    methods = Counter(case["method"] for case in cases)
    assert (methods["support mask copied"], methods["prototype matching"]) == (4, 4)
    assert methods.total() == 12


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
        (["--steps", "trian"], 2, "unknown steps 'trian'"),
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


@pytest.mark.parametrize("spoiled", ["nowhere", "no unet", "no dinov2"])
def test_models_are_read_before_the_work_and_the_folder(
    diffusion: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, spoiled: str
) -> None:
    monkeypatch.setenv("LATENTSEG_OFFLINE", "1")
    model = tmp_path / "model"
    if spoiled != "nowhere":
        shutil.copytree(diffusion, model)
        shutil.rmtree(model / {"no unet": "unet", "no dinov2": "dinov2"}[spoiled])
    assert main(words("released", model)) == 4
    says = {"nowhere": "model", "no unet": "no config.json", "no dinov2": "dinov2-base"}
    assert says[spoiled] in capsys.readouterr().err
    assert not Path("out/recipe.json").exists()  # the same folder takes the right model


def test_each_group_has_a_model_in_the_corrected_setting(
    scans: Path, tiny_tumor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba", reason="needs the extra `train`")
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    shutil.copytree(scans, tmp_path / "data")
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path / "data"))
    labels = read_labels(path := tmp_path / "data" / "sabs" / "label_8.nii.gz")
    shown = labels.array.copy()
    shown[..., :3] = 0  # the training scan has slices without any organ, and with
    write_like(shown, like=labels, path=path)
    assert main(words("paper", tiny_tumor_model, "--setting", "2-corrected")) == 0
    for unit, organs in (
        ("fold0-upper", {"liver", "spleen"}),
        ("fold0-lower", {"right_kidney", "left_kidney"}),
    ):
        split = json.loads(Path("out", unit, "split.json").read_text(encoding="utf-8"))
        assert split["slices"]["8"][:3] == [0, 1, 2]
        assert len(split["slices"]["8"]) < 6
        rows = read_rows(Path("out", unit, "evaluation", "cases.jsonl"))
        assert {row.organ for row in rows} == organs
    cases = json.loads(Path("out/results.json").read_text(encoding="utf-8"))["cases"]
    assert {case["setting"] for case in cases} == {"2-corrected"}
    page = Path("out/page.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 + 2  # four cases, a loss of each model


def test_across_domains(
    scans: Path, tiny_tumor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    shutil.copytree(scans, tmp_path / "data")
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path / "data"))
    for number, case in enumerate(CHAOS.across_domains().members(0)):
        phantom = abdomen(seed=20 + number, modality="MR", shape=(48, 48, 6))
        folder = tmp_path / "data" / "chaos_t2"
        write_like(
            phantom.image.array, like=phantom.image, path=folder / f"image_{case}.nii.gz", kind="image"
        )
        labels = np.select([phantom.labels.array == n for n in (1, 2, 3, 4)], [1, 2, 3, 4], 0)
        write_like(labels.astype(np.uint8), like=phantom.labels, path=folder / f"label_{case}.nii.gz")
    more = ["--setting", "cross-domain", "--dataset", "CHAOS", "--train-dataset", "SABS"]
    assert main(words("released", tiny_tumor_model, *more)) == 0
    assert {scan.source for scan in Pack(Path("out/pack-SABS")).scans} == {"SABS"}
    rows = read_rows(Path("out/fold0/evaluation/cases.jsonl"))
    assert {(row.dataset, row.support_dataset, row.setting) for row in rows} == {
        ("CHAOS", "CHAOS", "cross-domain")
    }
    assert "reported by the authors" in Path("out/table.md").read_text(encoding="utf-8")


def test_hearts_from_the_download(
    tiny_tumor_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="needs the extra `train`")
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    across, down, _ = np.ogrid[:64, :64, :4]
    rng = np.random.default_rng(0)
    for patient in [*MS_CMRSEG.members(0), "9"]:
        away = np.hypot(across - 32, down - 32) + np.zeros((1, 1, 4))
        labels = np.select([away < 10, away < 16], [500, 200], 0).astype(np.uint16)
        labels[44:58, 24:40] = 600
        array = (100 + labels / 3 + rng.normal(0, 8, labels.shape)).astype(np.int16)
        scan = Volume(array, np.diag([4.0, 4.0, 10.0, 1.0]), "MR")
        path = tmp_path / "raw" / f"patient{patient}_C0.nii.gz"
        write_like(array, like=scan, path=path, kind="image")
        write_like(labels, like=scan, path=path.with_name(f"patient{patient}_C0_manual.nii.gz"))
    more = ["--dataset", "MS-CMRSeg", "--original", str(tmp_path / "raw")]
    assert main(words("released", tiny_tumor_model, *more)) == 0
    rows = read_rows(Path("out/fold0/evaluation/cases.jsonl"))
    assert {row.organ for row in rows} == {"left_ventricle", "myocardium", "right_ventricle"}
    assert smallest_of("MS-CMRSeg") == 1000
    table = Path("out/table.md").read_text(encoding="utf-8")
    assert "no result on this data set is known" in table
