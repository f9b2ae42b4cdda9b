"""The reference tensors, and the tiny models whose weights come with them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from latentseg.backbones.device import RunOptions
from latentseg.backbones.stable_diffusion import Diffusers2D
from latentseg.methods.sdfsmis.checkpoint import FewShotWeights, build_network, build_translator, part
from latentseg.methods.sdfsmis.condition import DinoFeatures

DEFAULT = Path(__file__).parents[3] / "shared" / "parity"


@dataclass(frozen=True)
class Reference:
    tensors: dict[str, Tensor]
    configs: dict[str, dict[str, object]]

    def weights(self, name: str) -> dict[str, Tensor]:
        return part(self.tensors, f"weights.{name}")

    def expected(self, shots: int) -> dict[str, Tensor]:
        return part(self.tensors, f"expected.shots{shots}")


@pytest.fixture(scope="session")
def reference() -> Reference:
    path = Path(os.environ.get("LATENTSEG_PARITY", DEFAULT)) / "sdfsmis_tiny.safetensors"
    if not path.is_file():
        pytest.skip(f"no reference tensors at {path}; name their folder with LATENTSEG_PARITY")
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        configs = {k: json.loads(v) for k, v in file.metadata().items() if k.endswith("_config")}
    return Reference(tensors, configs)


@pytest.fixture(scope="session")
def backbone(reference: Reference) -> Diffusers2D:
    vae = AutoencoderKL.from_config(reference.configs["vae_config"])
    vae.load_state_dict(reference.weights("vae"))
    unet = UNet2DConditionModel.from_config(reference.configs["unet_config"])
    return Diffusers2D(vae, unet, options=RunOptions(channels_last=False))


@pytest.fixture(scope="session")
def weights(reference: Reference) -> FewShotWeights:
    network = build_network(reference.configs["unet_config"], reference.weights("unet"), where="parity")
    return FewShotWeights(network, build_translator(reference.weights("vtct"), where="parity"))


@pytest.fixture(scope="session")
def dino(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> DinoFeatures:
    """Through a saved folder: ``from_pretrained`` renames the keys of transformers 4."""
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Config(**reference.configs["dinov2_config"], architectures=["Dinov2Model"]).save_pretrained(folder)
    save_file(reference.weights("dinov2"), folder / "model.safetensors", {"format": "pt"})
    return DinoFeatures.from_folder(folder)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
