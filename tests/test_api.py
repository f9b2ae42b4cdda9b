"""`latentseg.load`: what it takes, and what it says when it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import latentseg as ls
from latentseg.backbones import registry
from latentseg.errors import ModelError, UsageError


def test_a_folder_of_weights(tiny_model: Path, other_tiny_model: Path) -> None:
    first, again = ls.load(backbone=tiny_model), ls.load("fewshot", backbone=str(tiny_model))
    assert first.fingerprint == again.fingerprint
    assert first.networks.backbone.name == "compact"
    other = ls.load(backbone=tiny_model, weights=other_tiny_model / "fewshot.safetensors")
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"method": "magic"}, "unknown method 'magic'.*fewshot"),
        ({"precision": "fp64"}, "unknown precision 'fp64'.*auto, fp32, bf16"),
    ],
)
def test_unknown_choices(arguments: dict[str, str], text: str, tiny_model: Path) -> None:
    with pytest.raises(UsageError, match=text):
        ls.load(**{"backbone": tiny_model} | arguments)  # type: ignore[arg-type]


def test_unknown_backbones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"unknown model 'compct'.*'compact'"):
        ls.load(backbone="compct")
    with pytest.raises(ModelError, match=r"no such model folder.*nowhere"):
        ls.load(backbone=tmp_path / "nowhere")
    with pytest.raises(ModelError, match=rf"not a folder of a model.*{tmp_path.name}.*autoencoder.json"):
        ls.load(backbone=tmp_path)


@pytest.mark.parametrize("file", ["fewshot.safetensors", "autoencoder.safetensors", "autoencoder.json"])
@pytest.mark.parametrize("harm", ["cut", "missing", "text"])
def test_damaged_weights_name_their_file(file: str, harm: str, tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    if harm == "missing":
        (folder / file).unlink()
    else:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2] if harm == "cut" else b"weights")
    with pytest.raises(ModelError, match=r"model") as error:
        ls.load(backbone=folder)
    assert "\n" not in str(error.value)
    assert error.value.fix


def test_a_wrong_hash_is_refused(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped weights are compared with their manifest whenever they are loaded."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "compact"))
    registry.write_manifest(folder)
    monkeypatch.setattr(registry, "_embedded_folder", lambda name: folder)
    ls.load()
    content = bytearray((folder / "fewshot.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "fewshot.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"corrupt file, sha256.*fewshot\.safetensors"):
        ls.load()


def test_stable_diffusion_needs_weights(tmp_path: Path) -> None:
    (tmp_path / "vae").mkdir()
    with pytest.raises(ModelError, match=r"no few-shot weights of its own.*weights="):
        ls.load(backbone=tmp_path)
