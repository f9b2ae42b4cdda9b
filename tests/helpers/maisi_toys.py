"""MAISI a thousandth of its size, in the published key layout; imported by the tests of MAISI."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
from latentseg.backbones.maisi.networks import AUTOENCODER, VARIANTS, new_autoencoder, new_unet
from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import TumorConfig
from latentseg.methods.tumor.on_maisi import maisi_digest, maisi_stages

TINY_AUTOENCODER: dict[str, Any] = {"num_channels": [4, 8, 12], "norm_num_groups": 2}
TINY_UNET: dict[str, Any] = {
    "num_channels": [4, 8, 12, 16],
    "num_head_channels": [0, 0, 4, 4],
    "norm_num_groups": 2,
}
SCALE = 0.9


def lively(make: Callable[[Any], Any], config: dict[str, Any]) -> Any:
    """The same random weights every time, also where the library starts with zeros."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make(config)
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def tiny_autoencoder(**changes: Any) -> Any:
    """As shipped, without half-precision normalization, which CPUs lack."""
    plain = {"norm_float16": False, "num_splits": 1}
    return lively(new_autoencoder, AUTOENCODER | TINY_AUTOENCODER | plain | changes)


def tiny_unet(variant: str) -> Any:
    """The denoiser of a variant."""
    return lively(new_unet, VARIANTS[variant].unet | TINY_UNET)


def tiny(variant: str = "maisi-ct-rflow", **options: Any) -> MaisiBackbone:
    """The backbone of a variant."""
    codec = tiny_autoencoder(norm_float16=True, num_splits=4)
    options = {"memory_gib": 1.0} | options
    return MaisiBackbone(
        codec, tiny_unet(variant), scale_factor=SCALE, variant=variant, options=MaisiOptions(**options)
    )


def volumes(*shape: int, batch: int = 1) -> torch.Tensor:
    """Random volumes ``(B, 1, D, H, W)`` in [-1, 1]."""
    return torch.rand(batch, 1, *shape, generator=torch.Generator().manual_seed(2)) * 2 - 1


def save_tumor_model(folder: Path, config: TumorConfig, variant: str = "maisi-ct-rflow") -> Path:
    """A folder of random networks that says how narrow they are, with random tumor weights."""
    save_published(folder, variant)
    changes = {"autoencoder_def": TINY_AUTOENCODER, "diffusion_unet_def": TINY_UNET}
    (folder / "config.json").write_text(json.dumps(changes))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = network.TumorNetwork.for_stages(maisi_stages(folder, config, device=torch.device("cpu")))
    network.save(folder / "tumor.safetensors", made, {"backbone": maisi_digest(folder)})
    return folder


def save_published(folder: Path, variant: str) -> None:
    """Write the two pickles that a hub repository holds, with the keys and extras of the real ones."""
    folder.mkdir(parents=True, exist_ok=True)
    known = VARIANTS[variant]
    torch.save(dict(tiny_autoencoder().state_dict()), folder / known.autoencoder_file)
    content = {
        "epoch": 3,
        "loss": torch.tensor(0.1),
        "num_train_timesteps": 1000,
        "scale_factor": torch.tensor(SCALE),
        "unet_state_dict": tiny_unet(variant).state_dict(),
    }
    torch.save(content, folder / known.unet_file)
