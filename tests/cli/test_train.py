"""`latentseg train`: a real kill, mistakes on the command line, and what `--help` may import."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import packs
from latentseg.cli import main
from latentseg.training.log import read_log
from latentseg.training.pack import Pack

PACKS = Path(packs.__file__)
Capture = pytest.CaptureFixture[str]

AUTOENCODER = """
loop: {steps: 8, learning_rate: 1.0e-3, warmup: 2, log_every: 1, threads: 1, checkpoint_minutes: 1.0e-3}
batch: 4
crop: 32
"""
FEWSHOT = """
loop: {steps: 2, learning_rate: 1.0e-3, warmup: 1, log_every: 1, threads: 1}
episodes: {scenes: 1, targets: 2, queries: 1, min_area: 12}
"""
DENOISER = """
loop: {steps: 2, learning_rate: 1.0e-3, warmup: 1, log_every: 1, threads: 1}
batch: 2
phrases: {phantom: [abdomen]}
"""
# The command line with networks of a few thousand parameters.
SMALL = f"""
import runpy, sys
import pytest
patch = pytest.MonkeyPatch()
runpy.run_path({str(PACKS)!r})["shrink_networks"](patch)
from latentseg.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def _plots() -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `train`")


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    out: Pack = packs.small_pack(tmp_path / "data")
    return out


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    (tmp_path / "autoencoder.yaml").write_text(AUTOENCODER, encoding="utf-8")
    (tmp_path / "fewshot.yaml").write_text(FEWSHOT, encoding="utf-8")
    (tmp_path / "denoiser.yaml").write_text(DENOISER, encoding="utf-8")
    return tmp_path


def train(*words: object) -> int:
    return main(["train", *map(str, words)])


@pytest.mark.usefixtures("_plots")
def test_a_run_survives_sigkill(packed: Pack, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = configs / "calm.yaml"  # the clock decides on checkpoints and on nothing else
    calm.write_text(AUTOENCODER.replace("1.0e-3}", "60}"), encoding="utf-8")
    run, whole, rest = configs / "run", configs / "whole", ["--pack", str(packed.folder), "--out"]
    words = ["train", "autoencoder", str(configs / "autoencoder.yaml"), *rest, str(run)]
    command = [sys.executable, "-c", SMALL, *words]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 0 < torch.load(run / "checkpoint.pt", weights_only=True)["step"] < 8

    packs.shrink_networks(monkeypatch)
    monkeypatch.setattr("latentseg.training.loop.plot_log", lambda log: None)
    assert train("autoencoder", calm, *rest, run) == 4  # a run is there
    assert train("autoencoder", calm, *rest, run, "--resume") == 0
    assert train("autoencoder", calm, *rest, whole) == 0
    for name in ("autoencoder.safetensors", "autoencoder.json"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert [row["step"] for row in read_log(run / "log.jsonl")] == list(range(1, 9))


@pytest.mark.usefixtures("_plots")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_from_scans_to_weights(
    precision: str, tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba", reason="needs the extra `train`")
    packs.shrink_networks(monkeypatch)
    for config, text in (("autoencoder", AUTOENCODER), ("denoiser", DENOISER), ("fewshot", FEWSHOT)):
        shorter = text.replace("steps: 8", "steps: 2").replace("{steps", f"{{precision: {precision}, steps")
        (configs / f"{config}.yaml").write_text(shorter, encoding="utf-8")
    monkeypatch.setattr("latentseg.training.loop.plot_log", lambda log: None)
    monkeypatch.setattr("latentseg.training.fewshot.supervoxels.SLICE_SIZE", 60)
    scans = tmp_path / "scans"
    scans.mkdir()
    packs.write_phantoms(scans)
    (configs / "pack.yaml").write_text(
        "size: 64\nsources:\n"
        "  - {name: phantom, images: image_*.nii.gz, labels: [image_, label_], modality: CT,\n"
        "     keep_labels: {1: liver}}\n",
        encoding="utf-8",
    )
    folder = tmp_path / "pack"
    assert train("pack", configs / "pack.yaml", "--out", folder, "--data", scans) == 0
    assert train("supervoxels", folder) == 0
    assert set(np.unique(Pack(folder).labels)) == {0, 1}
    autoencoder = tmp_path / "autoencoder"
    assert train("autoencoder", configs / "autoencoder.yaml", "--pack", folder, "--out", autoencoder) == 0
    words = ("--pack", folder, "--backbone", autoencoder)
    denoiser = tmp_path / "denoiser"
    assert train("denoiser", configs / "denoiser.yaml", *words, "--out", denoiser) == 0
    for file in denoiser.glob("denoiser.*"):
        file.rename(autoencoder / file.name)
    assert train("fewshot", configs / "fewshot.yaml", *words, "--out", tmp_path / "fewshot") == 0
    assert (tmp_path / "fewshot" / "fewshot.safetensors").is_file()
    for run in ("autoencoder", "denoiser", "fewshot"):
        assert np.isfinite([row["gradient_norm"] for row in read_log(tmp_path / run / "log.jsonl")]).all()


def test_mistakes_are_one_sentence(packed: Pack, configs: Path, capsys: Capture) -> None:
    (configs / "typo.yaml").write_text(AUTOENCODER + "corp: 3\n", encoding="utf-8")
    (configs / "short.yaml").write_text("loop: {steps: 3}\n", encoding="utf-8")
    pack, out = ("--pack", packed.folder), ("--out", configs / "run")
    good = configs / "autoencoder.yaml"
    cases = [
        (("autoencoder", configs / "none.yaml", *pack, *out), 2, "none.yaml"),
        (("autoencoder", configs / "typo.yaml", *pack, *out), 2, "corp"),
        (("autoencoder", configs / "short.yaml", *pack, *out), 2, "loop.learning_rate"),
        (("autoencoder", good, "--pack", configs / "nowhere", *out), 3, "latentseg train pack"),
        (("autoencoder", good, *out), 2, "--pack"),
        (("supervoxels", configs / "nowhere"), 3, "latentseg train pack"),
        (("pack", good, "--out", configs / "p"), 2, "sources"),
        (("picture", good, *pack, "--backbone", "compact", *out), 2, "crop"),
        (("fewshot", configs / "fewshot.yaml", *pack, "--backbone", configs / "no", *out), 4, "no"),
        (
            ("fewshot", configs / "fewshot.yaml", *pack, "--backbone", configs, *out),
            4,
            "autoencoder.safetensors",
        ),
    ]
    for words, code, seen in cases:
        assert train(*words) == code, words
        message = capsys.readouterr().err.strip()
        assert seen in message
        assert "\n" not in message
    assert not (configs / "run").exists()


def test_missing_supervoxels(configs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from latentseg.backbones.compact import CompactAutoencoder, save_autoencoder

    packs.shrink_networks(monkeypatch)
    save_autoencoder(CompactAutoencoder(), configs / "autoencoder")
    bare = packs.small_pack(configs / "bare", supervoxels=False)
    words = ("--pack", bare.folder, "--backbone", configs / "autoencoder", "--out", configs / "run")
    assert train("fewshot", configs / "fewshot.yaml", *words) == 3
    assert "latentseg train supervoxels" in capsys.readouterr().err
    assert not (configs / "run").exists()


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("numba", ("supervoxels",)),
        ("matplotlib", ("autoencoder", "autoencoder.yaml", "--out", "run", "--pack")),
    ],
)
def test_missing_extras(
    package: str,
    words: tuple[str, ...],
    packed: Pack,
    configs: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packs.shrink_networks(monkeypatch)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(configs)
    assert train(*words, packed.folder) == 2
    message = capsys.readouterr().err.strip()
    assert package in message
    assert "pip install 'latentseg[train]'" in message
    assert "\n" not in message
    assert not (configs / "run").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom latentseg.cli import main\n"
        "codes = [main(['train', *w, '--help']) for w in ([], ['supervoxels'], ['fewshot'])]\n"
        "heavy = {'torch', 'numba', 'numpy', 'matplotlib', 'diffusers', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'{codes} {heavy}' if any(codes) or heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "100"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "supervoxels" in done.stdout
    assert "--resume" in done.stdout
