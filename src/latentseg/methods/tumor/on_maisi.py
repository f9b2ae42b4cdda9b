"""Tumor segmentation on MAISI, in 3-D; without monai, importing this says what to install."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from latentseg.backbones.maisi.conditions import phrase_condition
from latentseg.backbones.maisi.model import MaisiBackbone, MaisiOptions
from latentseg.backbones.maisi.networks import VARIANTS, find_checkpoint, find_variant, read_tensors
from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.queries import queries_of

SAMPLED = 256  # numbers of a tensor that identify it


def on_maisi(
    folder: Path, weights: Path | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> TumorNetworks:
    """The networks of DiffuGTS on MAISI, from a folder of the published files.

    Raises:
        ModelError: Weights are missing, damaged, or made for another backbone.
    """
    path, trained, facts = network.trained_weights(weights or folder)
    stages = maisi_stages(folder, trained.config, device=device, dtype=dtype)
    own = maisi_digest(folder)
    network.check_made_for(facts, own, where=path)
    identity = hashlib.sha256(path.read_bytes() + own.encode()).hexdigest()[:12]
    queries = queries_of(facts, text_dim=trained.config.text_dim)
    return TumorNetworks(
        stages, trained.to(device), queries, phrase_condition, identity, network.left_out(facts)
    )


def maisi_stages(
    folder: Path, config: TumorConfig, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> FrozenStages:
    """The frozen features of MAISI that the tumor networks look at.

    Raises:
        ModelError: A file is missing or damaged.
    """
    finest = max(width for width in (1, 2, 4) if width <= config.cell)
    options = MaisiOptions(dtype=dtype, device=str(device), feature_downscale=finest)
    return FrozenStages(MaisiBackbone.from_folder(folder, options=options), config)


def maisi_digest(folder: Path) -> str:
    """Twelve hexadecimal digits of the networks in a folder, whatever the format of their files.

    Raises:
        ModelError: A file is missing or damaged.
    """
    variant, digest = find_variant(folder), hashlib.sha256()
    for name in (VARIANTS[variant].autoencoder_file, VARIANTS[variant].unet_file):
        tensors = read_tensors(find_checkpoint(folder, name, variant=variant))
        for key in sorted(tensors):
            values = tensors[key].flatten()[:SAMPLED].float().numpy()
            digest.update(f"{key}{tuple(tensors[key].shape)}".encode() + values.tobytes())
    return digest.hexdigest()[:12]
