"""Settings and fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hypothesis
import pytest

if TYPE_CHECKING:
    from latentseg.phantom.bodies import Phantom

hypothesis.settings.register_profile("latentseg", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("latentseg")

# A shell's background jobs ignore Ctrl-C, and so would everything that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test away from the user's cache and settings."""
    monkeypatch.setenv("LATENTSEG_HOME", str(tmp_path_factory.mktemp("latentseg_home")))
    monkeypatch.delenv("LATENTSEG_OFFLINE", raising=False)


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder of an ordinary user, who is who we are meanwhile: root may read and write everywhere."""
    if os.name != "posix":
        pytest.skip("permissions of POSIX")
    folder, root, nobody = Path(tempfile.mkdtemp()), os.geteuid() == 0, 65534
    try:
        if root:
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        yield folder
    except PermissionError:
        pytest.skip("root may not become another user here")
    finally:
        if root:
            os.seteuid(0)
        shutil.rmtree(folder)


@pytest.fixture
def phantom_files(tmp_path: Path) -> Path:
    """A folder with what the README reads: `ct.nii.gz`, `support.nii.gz`, `support_mask.nii.gz` (liver)."""
    from latentseg.imaging import write_like
    from latentseg.phantom.bodies import abdomen

    for name, seed in (("ct", 1), ("support", 2)):
        phantom = abdomen(seed=seed, modality="CT", shape=(96, 96, 12))
        write_like(phantom.image.array, like=phantom.image, path=tmp_path / f"{name}.nii.gz", kind="image")
        liver = next(value for value, organ in phantom.names.items() if organ == "liver")
        if name == "support":
            mask = phantom.labels.array == liver
            write_like(mask, like=phantom.image, path=tmp_path / "support_mask.nii.gz")
    return tmp_path


TINY_AUTOENCODER = {
    "in_channels": 1,
    "out_channels": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [4, 4, 8, 8],
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": 256,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
TINY_UNET = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
}


def save_tiny_model(folder: Path, *, seed: int) -> Path:
    """Write a model folder in the layout of ``compact``, with random weights a thousandth of its size.

    Like the shipped model it has matching features, so that everything that rests on them is tested: the
    prior, the place along the body and the closer look.
    """
    import json

    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from safetensors.torch import save_file

    from helpers.tiny_features import tiny_state
    from latentseg.backbones.compact import MaskHead
    from latentseg.backbones.image_features import FeatureNetwork
    from latentseg.methods.fewshot import matching, matching_features
    from latentseg.methods.sdfsmis import checkpoint
    from latentseg.methods.sdfsmis.condition import ConditionTranslator
    from latentseg.methods.sdfsmis.network import FewShotUNet

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vae, head = AutoencoderKL(**TINY_AUTOENCODER), MaskHead()
        network = FewShotUNet.from_denoiser(UNet2DConditionModel(**TINY_UNET), prior=matching.CHANNELS)
        torch.nn.init.normal_(network.conv_in.weight[:, -matching.CHANNELS :], std=0.1)  # else without effect
        translator = ConditionTranslator(8, 8)
        photographs = FeatureNetwork(tiny_state())
        adapter = matching_features.MatchingAdapter(matching_features.width_of(photographs), 8)
        torch.nn.init.normal_(adapter.out.weight, std=0.1)
        for name, weight in head.named_parameters():
            weight.data.mul_(8.0 if name.endswith("weight") else 1.0)  # so that probabilities differ
    (folder / "autoencoder.json").write_text(json.dumps(TINY_AUTOENCODER), encoding="utf-8")
    tensors = {f"vae.{name}": t for name, t in vae.state_dict().items()}
    tensors |= {f"mask_head.{name}": t for name, t in head.state_dict().items()}
    save_file(tensors, folder / "autoencoder.safetensors")
    weights = checkpoint.FewShotWeights(network, translator, {"backbone": "compact"}, dict(head.state_dict()))
    checkpoint.save(folder / "fewshot.safetensors", weights=weights, dtype=torch.float32)
    features = matching_features.MatchingFeatures(photographs, adapter)
    matching_features.save(features, folder / "matching.safetensors")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``latentseg.load(backbone=folder)``: random weights, fast, meaningless masks."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny_model"), seed=0)


@pytest.fixture(scope="session")
def other_tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same networks with other weights."""
    return save_tiny_model(tmp_path_factory.mktemp("other_tiny_model"), seed=1)


@pytest.fixture(scope="session")
def shown() -> Phantom:
    """A small CT phantom to take supports from: label 1 is the liver, 4 the spleen."""
    from latentseg.phantom.bodies import abdomen

    return abdomen(seed=0, shape=(64, 64, 8))


@pytest.fixture(scope="session")
def searched() -> Phantom:
    """Another small CT phantom, to be segmented."""
    from latentseg.phantom.bodies import abdomen

    return abdomen(seed=1, shape=(60, 64, 6))


@pytest.fixture(scope="session")
def tiny_tumor_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``latentseg.load("tumor", backbone=folder)``: random weights, meaningless masks."""
    import shutil

    import torch
    from diffusers import UNet2DConditionModel

    from latentseg.backbones.compact import TEXT_CONFIG, CompactBackbone, save_denoiser
    from latentseg.methods.tumor import network
    from latentseg.methods.tumor.features import FrozenStages

    folder = tmp_path_factory.mktemp("tiny_tumor_model")
    for file in tiny_model.iterdir():
        shutil.copy(file, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_denoiser(UNet2DConditionModel(**(TINY_UNET | TEXT_CONFIG)), folder)
        config = network.TumorConfig(stages=(1, 2, 5), timestep=100, photographs=(), cell=4, pyramid=8)
        stages = FrozenStages(CompactBackbone.from_folder(folder), config)
        made = network.TumorNetwork.for_stages(stages)
        torch.nn.init.normal_(made.fusion.layers[2].weight)  # a new fusion adds nothing to the map
    network.save(folder / "tumor.safetensors", made, {})
    return folder
