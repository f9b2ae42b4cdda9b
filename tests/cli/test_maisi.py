"""The commands on a tiny random MAISI in the published layout of keys: segment, batch, evaluate, train."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

pytest.importorskip("monai")

from helpers.maisi_toys import save_tumor_model
from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.methods.tumor import network as network_file
from latentseg.methods.tumor.features import TumorConfig
from latentseg.phantom.bodies import abdomen

CONFIG = TumorConfig(stages=(0, 1, 2), photographs=(), fold=False, cell=4, ratio=0.1, pyramid=0, projected=4)
TRAINING = """
loop: {{steps: 2, learning_rate: 1.0e-3, warmup: 1, precision: fp32}}
residual_loop: {{steps: 1, learning_rate: 1.0e-3, warmup: 1, precision: fp32}}
network: {network}
organ_loop: {{steps: 2, learning_rate: 1.0e-3, warmup: 1, precision: fp32}}
data:
  - {{folder: {folder}, prompt: liver tumor, labels: [cancer], share: 0, organs: {{liver: liver}}}}
  - {{folder: {folder}, name: organs alone, organs: {{fat: kidney}}}}
blocks: {{edges: [32, 32, 32], voxel_mm: 10.0, finer: 0.5}}
healthy_count: 1
residual_count: 1
inpainting_steps: 1
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tumor_model(tmp_path_factory.mktemp("tiny_maisi"), CONFIG)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small scans with a tumor in each, in the layout of nnU-Net."""
    folder = tmp_path_factory.mktemp("Task03_Liver")
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "cancer": 1, "liver": 2, "fat": 3}}
    (folder / "dataset.json").write_text(json.dumps(about))
    for number in range(2):
        image = abdomen(seed=number, modality="CT", shape=(36, 36, 6)).image
        mask = np.zeros(image.shape, np.uint8)
        mask[10:24, 10:24, 1:5] = 2
        mask[14:20, 14:20, 2:4] = 1
        mask[28:32] = 3
        path = folder / "imagesTr" / f"s{number}_0000.nii.gz"
        write_like(image.array, like=image, path=path, kind="image")
        write_like(mask, like=image, path=folder / "labelsTr" / f"s{number}.nii.gz")
    return folder


@pytest.mark.parametrize(
    ("preset", "variant"), [("paper", "maisi-ct-rflow"), ("recommended", "maisi-ct-ddpm")]
)
def test_segment(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], preset: str, variant: str
) -> None:
    model = save_tumor_model(tmp_path / variant, CONFIG, variant)
    scan = data / "imagesTr" / "s0_0000.nii.gz"
    words = ["segment", str(scan), "-p", "liver tumor", "--backbone", str(model), "--preset", preset]
    more = ["--save", "mask,prob,evidence,healthy", "--device", "cpu", "-o", str(tmp_path)]
    assert main([*words, *more]) == 0
    assert "GiB, most of it while" in capsys.readouterr().err
    mask = nib.load(tmp_path / "s0" / "s0_seg-liver_tumor.nii.gz")
    assert mask.shape == nib.load(scan).shape
    np.testing.assert_array_equal(mask.affine, nib.load(scan).affine)
    assert (tmp_path / "s0" / "s0_healthy-liver_tumor.nii.gz").exists()


def test_too_little_memory_is_one_sentence(
    model: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("latentseg.backbones.maisi.model.free_bytes", lambda _: 1 << 20)
    scan = data / "imagesTr" / "s0_0000.nii.gz"
    words = ["segment", str(scan), "-p", "liver tumor", "--backbone", str(model), "-o", str(tmp_path)]
    assert main([*words, "--device", "cpu"]) == 5
    assert "voxel size" in capsys.readouterr().err
    assert not (tmp_path / "s0").exists()


def test_batch(model: Path, data: Path, tmp_path: Path) -> None:
    words = ["batch", str(data / "imagesTr"), "-p", "liver tumor", "--backbone", str(model)]
    assert main([*words, "--device", "cpu", "-o", str(tmp_path)]) == 0
    assert len(list(tmp_path.rglob("*_seg-liver_tumor.nii.gz"))) == 2


def test_train_and_evaluate(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    network = json.dumps(CONFIG.model_dump(mode="json"))
    (tmp_path / "run.yaml").write_text(TRAINING.format(network=network, folder=data))
    run = tmp_path / "run"
    assert (
        main(["train", "tumor", str(tmp_path / "run.yaml"), "--backbone", str(model), "--out", str(run)]) == 0
    )
    trained, _ = network_file.load(run / "tumor.safetensors")
    assert trained.organs.names == ("kidney", "liver")
    assert ((trained.organs.quality >= 0) & (trained.organs.quality < 1)).all()
    words = ["evaluate", "tumor", "--data", str(data), "--prompt", "liver tumor", "--label", "cancer"]
    more = ["--backbone", str(model), "--weights", str(run / "tumor.safetensors"), "--preset", "paper"]
    assert main([*words, *more, "--device", "cpu", "--limit", "1", "-o", str(tmp_path / "table")]) == 0
    results = json.loads((tmp_path / "table" / "results.json").read_text(encoding="utf-8"))
    assert [case["case"] for case in results["cases"]] == ["s0"]


def test_organs_without_a_training_of_their_own(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TRAINING.format(network=json.dumps(CONFIG.model_dump(mode="json")), folder=data)
    lines = [line for line in text.splitlines() if not line.startswith("organ_loop")]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    words = ["train", "tumor", str(tmp_path / "run.yaml"), "--backbone", str(model)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 3
    assert "labels of kidney, liver, and no organ_loop" in capsys.readouterr().err
