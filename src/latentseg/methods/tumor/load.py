"""How tumor segmentation is built on each kind of backbone. To add a kind, write a builder and list it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from latentseg.backbones.compact import CompactBackbone, phrase_condition
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.image_features import read_feature_network
from latentseg.backbones.weights import read_weights
from latentseg.errors import ModelError
from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.known import read_known
from latentseg.methods.tumor.networks import TumorNetworks
from latentseg.methods.tumor.parts import PartJudge
from latentseg.methods.tumor.picture_network import file_of_picture, read_picture
from latentseg.methods.tumor.queries import queries_of


def on_compact(
    folder: Path, weights: Path | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> TumorNetworks:
    """The networks of DiffuGTS on a compact backbone, which computes in fp32, from a folder of its files.

    Args:
        folder: Of the backbone; it holds the weights where none are given.
        weights: A file, which then answers every prompt, or a folder of files named as the backbone's own.
        device: Where to compute.
        dtype: Not asked for.

    Raises:
        ModelError: Weights are missing, damaged, or made for another backbone.
    """
    del dtype
    place = weights or folder
    path, trained, facts = network.trained_weights(place)
    stages = compact_stages(folder, trained.config, device=device)
    network.check_made_for(facts, looked_at(folder, trained.config), where=path)
    files = [folder / "autoencoder.safetensors", folder / "denoiser.safetensors"]
    files_alone = {part: place / network.file_alone(part) for part in network.ALONE}
    shipped = {part: file for part, file in files_alone.items() if file.exists()}
    queries = queries_of(facts, text_dim=trained.config.text_dim)
    pictures = {part: place / file_of_picture(part) for part in {**shipped, **network.WITHIN}}
    pictures = {part: file for part, file in pictures.items() if file.exists() and stages.photographs}
    identity = fingerprint([path, *files, *shipped.values(), *pictures.values()])
    left_out = network.left_out(facts)
    known = {} if weights else read_known(folder)
    made = TumorNetworks(stages, trained.to(device), queries, phrase_condition, identity, left_out, known)
    alone = {}
    for part, file in shipped.items():
        own, facts = network.load(file)
        network.check_made_for(facts, looked_at(folder, own.config), where=file)
        judge = judge_of(facts, where=file)
        own_without = network.left_out(facts)
        alone[part] = replace(made, network=own.to(device), without=own_without, judge=judge)
    for part, file in pictures.items():
        if stages.photographs:
            picture = read_picture(file, stages.photographs).to(device)
            around = alone.get(network.WITHIN.get(part, ""), made)
            beside = around if around.network.sees(part) else made
            alone[part] = replace(alone.get(part, beside), picture=picture)
    everywhere = (name for name in left_out if all(name in own.without for own in alone.values()))
    return replace(made, alone=alone, without=tuple(everywhere))


def judge_of(facts: Mapping[str, str], *, where: Path) -> PartJudge | None:
    """The judge of parts that was fitted to the maps of a file of weights; None without one.

    Raises:
        ModelError: It judges by other features.
    """
    try:
        return PartJudge.from_json(facts["parts"]) if "parts" in facts else None
    except (KeyError, TypeError, ValueError) as error:
        what = f"unreadable judge of parts ({error})"
        raise ModelError(what, where=str(where), fix=network.AGAIN) from error


def on_maisi(
    folder: Path, weights: Path | None, device: torch.device, dtype: torch.dtype = torch.float32
) -> TumorNetworks:
    """The networks of DiffuGTS on MAISI (:mod:`latentseg.methods.tumor.on_maisi`).

    Raises:
        ModelError: Weights are missing, damaged, or made for another backbone, or monai is not installed.
    """
    from latentseg.methods.tumor import on_maisi as maisi  # monai is an extra

    return maisi.on_maisi(folder, weights, device, dtype)


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


BUILDERS: dict[str, Callable[[Path, Path | None, torch.device, torch.dtype], TumorNetworks]] = {
    "compact": on_compact,
    "maisi": on_maisi,
}
