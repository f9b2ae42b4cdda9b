"""Checkpoints: the released layout, our own file, and files that are broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.sd_folders import tiny_unet
from latentseg.errors import ModelError
from latentseg.methods.sdfsmis.checkpoint import FewShotWeights, load, load_released, released_state, save
from latentseg.methods.sdfsmis.condition import ConditionTranslator
from latentseg.methods.sdfsmis.network import FewShotUNet


@pytest.fixture
def weights() -> FewShotWeights:
    network = FewShotUNet.from_denoiser(tiny_unet())
    torch.nn.init.normal_(network.conv_in_ref.weight)
    translator = ConditionTranslator(6, 12, hidden_dim=10)
    return FewShotWeights(network.eval(), translator.eval(), {"backbone": "tiny"})


@pytest.fixture
def released(weights: FewShotWeights, tmp_path: Path) -> Path:
    for name in ("unet", "image_projector"):
        (tmp_path / name).mkdir()
    config = {k: v for k, v in weights.network.unet.config.items() if not k.startswith("_")}
    config |= {"_class_name": "MyUNet2DConditionModel", "_diffusers_version": "0.25.0", "in_channels_ref": 8}
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    state = {k: t.contiguous() for k, t in released_state(weights.network).items()}
    save_file(state, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    save_file(weights.translator.state_dict(), tmp_path / "image_projector" / "model.safetensors")
    return tmp_path


@torch.no_grad()
def outputs(weights: FewShotWeights) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    support, query = torch.randn(2, 2, 8, 8, 8, generator=draw)
    token = weights.translator(torch.randn(1, 1, 6, generator=draw))
    return weights.network.segment(query, weights.network.encode_support(support, token, shots=2))


def test_released_layout(weights: FewShotWeights, released: Path) -> None:
    torch.testing.assert_close(outputs(load_released(released)), outputs(weights))
    state = load_file(released / "unet" / "diffusion_pytorch_model.safetensors")
    assert {"conv_in.weight", "conv_in_ref.weight", "conv_out.weight"} <= state.keys()


def test_half_precision_alone_is_read(weights: FewShotWeights, released: Path) -> None:
    for file in list(released.rglob("*.safetensors")):
        half = {name: tensor.half() for name, tensor in load_file(file).items()}
        save_file(half, file.with_suffix(".fp16.safetensors"))
        file.unlink()
    read = load_released(released)
    assert all(p.dtype == torch.float32 for p in read.network.parameters())
    torch.testing.assert_close(outputs(read), outputs(weights), atol=1e-2, rtol=1e-2)


def test_released_projector_as_a_pickle(weights: FewShotWeights, released: Path) -> None:
    (released / "image_projector" / "model.safetensors").unlink()
    torch.save(weights.translator.state_dict(), released / "image_projector" / "pytorch_model.bin")
    torch.testing.assert_close(outputs(load_released(released)), outputs(weights))


def test_own_file(weights: FewShotWeights, tmp_path: Path) -> None:
    path = tmp_path / "fewshot.safetensors"
    save(path, weights=weights, dtype=torch.float32)
    again = load(path)
    assert again.metadata == {"backbone": "tiny"}
    torch.testing.assert_close(outputs(again), outputs(weights))
    save(path, weights=weights)
    assert all(p.dtype == torch.float32 for p in load(path).network.parameters())
    assert [p.name for p in tmp_path.iterdir()] == ["fewshot.safetensors"]


def no_unet(folder: Path) -> None:
    (folder / "unet" / "config.json").unlink()


def no_projector(folder: Path) -> None:
    (folder / "image_projector" / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def not_few_shot(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if not k.startswith("conv_in_ref")}, file)


def tensor_missing(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({k: t for k, t in load_file(file).items() if k != "conv_out.weight"}, file)


def recipe_torn(folder: Path) -> None:
    (folder / "recipe.json").write_text('{"intensities": "ran', encoding="utf-8")


@pytest.mark.parametrize(
    "spoil", [no_unet, no_projector, truncated, not_few_shot, tensor_missing, recipe_torn]
)
def test_broken_checkpoints_are_one_sentence(released: Path, spoil: Callable[[Path], None]) -> None:
    spoil(released)
    with pytest.raises(ModelError) as caught:
        load_released(released)
    assert "\n" not in str(caught.value)
    assert str(released) in str(caught.value)


def test_broken_own_files(tmp_path: Path) -> None:
    path = tmp_path / "fewshot.safetensors"
    with pytest.raises(ModelError, match="unreadable"):
        load(path)
    path.write_bytes(b"garbage")
    with pytest.raises(ModelError, match="unreadable"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="not a few-shot checkpoint"):
        load(path)
