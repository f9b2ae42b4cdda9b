"""Both reproductions end to end on real scans, with tiny random networks in the real layouts."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

pytest.importorskip("monai", reason="needs the extra `maisi`")
pytest.importorskip("accelerate", reason="needs the extra `train`")

from helpers.maisi_toys import save_tumor_model
from helpers.sd_folders import save_dinov2, save_stable_diffusion
from latentseg.cli import main
from latentseg.methods.tumor.features import TumorConfig

DATA = Path(os.environ.get("LATENTSEG_DATA") or "../shared/data").absolute()
CONFIGS = Path(__file__).parents[2] / "configs"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA} (set LATENTSEG_DATA)")

ORGANS = {"background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3, "liver": 6}
REST = {str(label): label for label in (4, 5, 7, 8, 9, 10, 11, 12, 13)}
TUMORS = {
    "Sarcoma": ("tumour_3d/STS_00{}/CT_image.nii.gz", "tumour_3d/STS_00{}/CT_mask.nii.gz", "23"),
    "Lung": (
        "tcia/LIDC-IDRI__LIDC-IDRI-000{}__CT__*.nii.gz",
        "tcia/LIDC-IDRI__LIDC-IDRI-000{}__nodule_mask.nii.gz",
        "12",
    ),
}
TRAINING = """
loop: {{steps: 1, learning_rate: 1.0e-3, warmup: 0, precision: fp32}}
residual_loop: {{steps: 1, learning_rate: 1.0e-3, warmup: 0, precision: fp32}}
network: {{stages: [0, 1, 2], photographs: [], fold: false, cell: 4, ratio: 0.1, pyramid: 0, projected: 4}}
data:
  - {{folder: {root}/Sarcoma, prompt: sarcoma, labels: [tumor], share: 0.5}}
  - {{folder: {root}/Lung, prompt: lung tumor, labels: [tumor], share: 0.5}}
blocks: {{edges: [32, 32, 32], voxel_mm: 6.0}}
healthy_count: 1
residual_count: 1
inpainting_steps: 1
"""


def add_case(folder: Path, name: str, image: str, mask: str) -> None:
    """Link a scan and its label map into a folder in the layout of nnU-Net."""
    for kind, pattern, ending in (("imagesTr", image, "_0000"), ("labelsTr", mask, "")):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(next(DATA.glob(pattern)), folder / kind / f"{name}{ending}.nii.gz")


def describe(folder: Path, labels: dict[str, int]) -> None:
    about = {"channel_names": {"0": "CT"}, "labels": labels, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about))


def test_sdfsmis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One abdomen to train on, one to show and one to segment; the fold's third is not looked at."""
    monkeypatch.chdir(tmp_path)
    cases = ["14", "11", "16", "17"]
    for case in cases:
        add_case(tmp_path / "Abdomen", case, f"sabs/image_{case}.nii.gz", f"sabs/label_{case}.nii.gz")
    describe(tmp_path / "Abdomen", ORGANS | REST)
    splits = [{"train": cases[:1], "val": cases[1:]}]
    (tmp_path / "Abdomen" / "splits_final.json").write_text(json.dumps(splits))
    model = save_stable_diffusion(tmp_path / "sd")
    save_dinov2(model / "dinov2")
    text = (
        (CONFIGS / "sdfsmis-released.yaml").read_text(encoding="utf-8").replace("workers: 4", "log_every: 1")
    )
    (tmp_path / "trial.yaml").write_text(text, encoding="utf-8")
    words = ["reproduce", "sdfsmis", "trial.yaml", "--backbone", str(model), "--dataset", "Abdomen"]
    more = ["--dinov2", str(model / "dinov2"), "--train-steps", "1", "--queries", "1", "--device", "cpu"]
    assert main([*words, *more, "-o", "out"]) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))["cases"]
    assert {case["case"] for case in found} == {"11"}
    assert {"liver", "spleen", "right_kidney"} <= {case["organ"] for case in found}
    assert "Worst cases" in (tmp_path / "out" / "page.html").read_text(encoding="utf-8")


def test_diffugts(tmp_path: Path) -> None:
    """Two chests and two sarcomas, one of each held out."""
    config = TumorConfig(stages=(0, 1, 2), photographs=(), fold=False, cell=4, pyramid=0, projected=4)
    model = save_tumor_model(tmp_path / "maisi", config)
    for name, (image, mask, numbers) in TUMORS.items():
        for number in numbers:
            add_case(tmp_path / name, f"case{number}", image.format(number), mask.format(number))
        describe(tmp_path / name, {"background": 0, "tumor": 1})
    (tmp_path / "run.yaml").write_text(TRAINING.format(root=tmp_path))
    words = ["reproduce", "diffugts", str(tmp_path / "run.yaml"), "--backbone", str(model)]
    assert main([*words, "--device", "cpu", "-o", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    volumes = [(one["data"], one["volumes"]) for one in results["summaries"]]
    assert volumes == 3 * [("Sarcoma", 1)] + 3 * [("Lung", 1)]
    assert all(case["tumor"] > 0 for case in results["cases"])
