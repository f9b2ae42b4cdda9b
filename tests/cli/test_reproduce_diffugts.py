"""`reproduce diffugts` on a tiny random MAISI and two small data sets, end to end and resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("monai")
pytest.importorskip("accelerate")

from helpers.maisi_toys import TINY_AUTOENCODER, TINY_UNET, save_published
from latentseg.cli import main
from latentseg.cli.zero_shot import volume_folders
from latentseg.errors import InputError, UsageError
from latentseg.evaluation.tumor_volumes import summarize_volumes, volume_row, volume_table
from latentseg.evaluation.zero_shot import Found
from latentseg.imaging import Volume, write_like
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import abdomen
from latentseg.training.loop import Loop
from latentseg.training.tumor.volumes import TumorFolder, VolumeCase, VolumeFiles

Capture = pytest.CaptureFixture[str]
CONFIG = """
loop: {{steps: 2, log_every: 1, learning_rate: 1.0e-3, warmup: 1, precision: fp32}}
residual_loop: {{steps: 1, log_every: 1, learning_rate: 1.0e-3, warmup: 1, precision: fp32}}
network: {{stages: [0, 1, 2], photographs: [], fold: false, cell: 4, ratio: 0.1, pyramid: 0, projected: 4}}
data:
  - {{folder: {root}/Liver, prompt: liver tumor, labels: [cancer], share: 0.5}}
  - {{folder: {root}/Kidney, prompt: kidney tumor, labels: [tumor], share: 0.5}}
blocks: {{edges: [32, 32, 32], voxel_mm: 10.0}}
healthy_count: 1
residual_count: 1
inpainting_steps: 1
"""


def data_set(root: Path, name: str, label: str) -> None:
    """Two small scans with a ball of a tumor in each."""
    (root / name / "imagesTr").mkdir(parents=True)
    (root / name / "labelsTr").mkdir()
    about = {"channel_names": {"0": "CT"}, "labels": {"background": 0, label: 1}, "file_ending": ".nii.gz"}
    (root / name / "dataset.json").write_text(json.dumps(about))
    for number in range(2):
        image = abdomen(seed=number, modality="CT", shape=(36, 36, 6)).image
        mask = np.zeros(image.shape, np.uint8)
        mask[14:20, 14:20, 2:4] = 1
        folder = root / name
        write_like(image.array, like=image, path=folder / "imagesTr" / f"s{number}_0000.nii.gz", kind="image")
        write_like(mask, like=image, path=folder / "labelsTr" / f"s{number}.nii.gz")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save_published(tmp_path / "maisi", "maisi-ct-rflow")
    changes = {"autoencoder_def": TINY_AUTOENCODER, "diffusion_unet_def": TINY_UNET}
    (tmp_path / "maisi" / "config.json").write_text(json.dumps(changes))
    data_set(tmp_path, "Liver", "cancer")
    data_set(tmp_path, "Kidney", "tumor")
    (tmp_path / "run.yaml").write_text(CONFIG.format(root=tmp_path))
    return tmp_path


def words(root: Path, *more: str) -> list[str]:
    start = ["reproduce", "diffugts", str(root / "run.yaml"), "--backbone", str(root / "maisi")]
    return [*start, "-o", str(root / "run"), "--device", "cpu", *more]


def test_end_to_end_and_again(root: Path, capsys: Capture) -> None:
    assert main(words(root)) == 0
    table = (root / "run" / "table.md").read_text(encoding="utf-8")
    assert "DiffuGTS, reported by its authors" in table
    for dice in ("43.6", "42.9", "63.2", "38.7", "62.8", "59.8", "48.8"):
        assert dice in table
    assert "MAISI's denoiser was trained on scans of MSD" in table
    results = json.loads((root / "run" / "results.json").read_text(encoding="utf-8"))
    names = ["DiffuGTS (maisi-ct-rflow, paper)", "its attention map alone", "intensity outlier"]
    assert [one["method"] for one in results["summaries"]] == 2 * names
    assert [one["volumes"] for one in results["summaries"]] == [1] * 6
    assert all(0 <= one["dice"]["mean"] <= 1 for one in results["summaries"])
    page = (root / "run" / "page.html").read_text(encoding="utf-8")
    assert "Worst cases" in page
    assert page.count("data:image/png;base64,") == 2 + 2  # each held-out scan, each loss of two steps
    capsys.readouterr()
    assert main(words(root)) == 0
    said = capsys.readouterr().err
    assert "trained without liver" in said
    assert "evaluated Liver" in said
    assert main(words(root, "--steps", "trian")) == 2
    text = (root / "run.yaml").read_text(encoding="utf-8").replace("share: 0.5", "share: 0.4")
    (root / "run.yaml").write_text(text, encoding="utf-8")
    assert main(words(root)) == 2
    assert "begun with another training" in capsys.readouterr().err


def test_a_run_that_is_killed_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed in the second training, and again in the evaluation of the second data set."""
    taken: list[Path] = []
    really = Loop._train_step

    def step(loop: Loop[Any], batches: Any) -> dict[str, float]:
        taken.append(loop.folder)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return really(loop, batches)

    monkeypatch.setattr(Loop, "_train_step", step)
    assert main(words(root)) == 130
    first = root / "run" / "liver-tumor" / "tumor.safetensors"
    stamp = first.stat().st_mtime_ns
    assert not (root / "run" / "kidney-tumor" / "tumor.safetensors").exists()
    looked: list[str] = []
    prepare = TumorSegmenter.prepare

    def look(segmenter: TumorSegmenter, scan: Volume) -> PreparedScan:
        looked.append(str(scan.source))
        if len(looked) == 2:
            raise KeyboardInterrupt
        return prepare(segmenter, scan)

    monkeypatch.setattr(TumorSegmenter, "prepare", look)
    assert main(words(root)) == 130
    assert first.stat().st_mtime_ns == stamp
    assert main(words(root)) == 0
    folders = [Path(one).parts[-3] for one in looked]
    assert folders == ["Liver", "Kidney", "Kidney"]  # the first was not looked at again


def test_models_are_read_before_the_folder_is_begun(
    root: Path, tiny_tumor_model: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSEG_OFFLINE", "1")
    start = ["reproduce", "diffugts", str(root / "run.yaml"), "-o", str(root / "run"), "--device", "cpu"]
    assert main([*start, "--backbone", str(tiny_tumor_model)]) == 4
    assert "volumes train MAISI, and this is compact" in capsys.readouterr().err
    text = (root / "run.yaml").read_text(encoding="utf-8")
    (root / "run.yaml").write_text(f"{text}text_encoder: nobody/nobert\n", encoding="utf-8")
    assert main([*start, "--backbone", str(root / "maisi")]) == 4
    assert "nobert" in capsys.readouterr().err
    (root / "run.yaml").write_text(text, encoding="utf-8")
    next((root / "maisi").glob("diff*")).unlink()
    assert main([*start, "--backbone", str(root / "maisi")]) == 4
    assert not (root / "run" / "recipe.json").exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (("/Kidney,", "/Kidneys,"), "no data set that is known here"),
        (("labels: [tumor]", "labels: [lesion]"), "no label 'lesion'"),
        (("prompt: kidney tumor", "prompt: liver tumor"), "nothing to train on without liver"),
    ],
)
def test_wrong_data_begin_no_folder(root: Path, capsys: Capture, wrong: tuple[str, str], says: str) -> None:
    config = root / "run.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(*wrong), encoding="utf-8")
    assert main(words(root)) in (2, 3)
    assert says in capsys.readouterr().err
    assert not (root / "run" / "recipe.json").exists()


def test_data_sets_that_cannot_be_used(root: Path) -> None:
    good = TumorFolder(folder=root / "Liver", prompt="liver tumor", labels=("cancer",))
    files = VolumeFiles(good)
    assert (list(files.training), list(files.held_out)) == ([0], [1])
    with pytest.raises(UsageError, match="no label 'other'"):
        VolumeFiles(good.model_copy(update={"labels": ("other",)}))
    with pytest.raises(InputError, match="no data set that is known here"):
        VolumeFiles(good.model_copy(update={"folder": root / "maisi"}))
    (root / "Liver" / "imagesTr" / "s1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 2 label maps have no image"):
        VolumeFiles(good)


def test_folders_of_evaluate_tumor(root: Path) -> None:
    with pytest.raises(UsageError, match="no prompt"):
        volume_folders([root / "Liver"], prompt="", labels=["cancer"])
    with pytest.raises(UsageError, match="no label"):
        volume_folders([root / "Liver"], prompt="liver tumor", labels=[])
    one = volume_folders([root / "Liver"], prompt="liver tumor", labels=["cancer"])[0]
    assert len(VolumeFiles(one).training) == 2


def test_volumes_are_summed_up_by_lesion_and_by_healthy_scan(tmp_path: Path) -> None:
    scan = abdomen(seed=1, modality="CT", shape=(20, 20, 6)).image
    mask = np.zeros(scan.shape, bool)
    mask[4:8, 4:8, 2:4] = True

    cases = [VolumeCase("ill", scan, mask), VolumeCase("healthy", scan, np.zeros_like(mask))]
    found = Found(mask, np.array([0.9]))
    rows = [volume_row(case, found, method="perfect", data="toy", prompt="liver tumor") for case in cases]
    (summary,) = summarize_volumes(rows)
    assert (summary.dice.mean, summary.nsd.mean, summary.lesion_f1) == (1.0, 1.0, 1.0)
    assert (summary.false_positives, summary.auroc) == (1.0, 0.5)
    assert (summary.volumes, summary.controls) == (1, 1)
    table = volume_table([summary])
    assert all(len(row) == len(table.header) for row in table.body)
    assert sum("reported by its authors" in row[2] for row in table.body) == 6
    with pytest.raises(InputError, match="no volume with tumor"):
        summarize_volumes(rows[1:])
