"""How tumor segmentation is built on each kind of backbone. To add a kind, write a builder and list it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch

from latentseg.backbones.compact import CompactBackbone, phrase_condition
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import read_feature_network
from latentseg.backbones.weights import read_weights
from latentseg.errors import ModelError
from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.queries import Queries
from latentseg.text import embed


def on_compact(folder: Path, weights: Path | None, device: torch.device) -> TumorNetworks:
    """The networks of DiffuGTS on a compact backbone, from a folder of its files.

    Raises:
        ModelError: Weights are missing, damaged, or made for another backbone.
    """
    path = weights or folder / network.FILE
    if not path.exists():
        fix = "give weights=, a file that `latentseg train tumor` wrote"
        raise ModelError("this backbone has no tumor weights", where=str(path), fix=fix)
    trained, facts = network.load(path)
    stages = compact_stages(folder, trained.config, device=device)
    made_for = facts.get("backbone", "")
    if made_for and made_for != looked_at(folder, trained.config):
        what = f"these tumor weights were made for another backbone ({made_for})"
        raise ModelError(what, where=str(path), fix="train them again, or take the backbone they came with")
    files = [folder / "autoencoder.safetensors", folder / "denoiser.safetensors"]
    left_out = tuple(name for name in facts.get("without", "").split(", ") if name)
    queries, identity = Queries(embed), fingerprint([path, *files])
    return TumorNetworks(stages, trained.to(device), queries, phrase_condition, identity, left_out)


def compact_stages(folder: Path, config: TumorConfig, *, device: torch.device | None = None) -> FrozenStages:
    """The frozen features that the tumor networks look at, from the folder of a compact model.

    Raises:
        ModelError: A file is missing or damaged.
    """
    where = device or torch.device("cpu")
    photographs = None
    if config.photographs:
        photographs = read_feature_network(folder / "matching.safetensors").to(where)
    return FrozenStages(CompactBackbone.from_folder(folder).to(where), config, photographs)


def looked_at(folder: Path, config: TumorConfig) -> str:
    """Twelve hexadecimal digits of what the attention maps look at: the encoder, the denoiser if asked for.

    Raises:
        ModelError: The autoencoder is missing or damaged.
    """
    tensors = read_weights(folder / "autoencoder.safetensors")
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(("vae.encoder.", "vae.quant_conv."))):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    if config.timestep is not None:
        digest.update(fingerprint([folder / "denoiser.safetensors"]).encode())
    return digest.hexdigest()[:12]


BUILDERS: dict[str, Callable[[Path, Path | None, torch.device], TumorNetworks]] = {"compact": on_compact}
