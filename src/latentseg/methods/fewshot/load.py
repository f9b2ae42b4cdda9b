"""How few-shot segmentation is built on each kind of backbone. To add a kind, write a builder and list it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from latentseg.backbones import registry
from latentseg.backbones.compact import CompactBackbone, MaskHead
from latentseg.backbones.device import Precision, RunOptions, pick_dtype
from latentseg.backbones.identity import fingerprint
from latentseg.backbones.stable_diffusion import Diffusers2D, place
from latentseg.errors import ModelError
from latentseg.methods.fewshot import matching_features
from latentseg.methods.fewshot.parts import FewShotNetworks
from latentseg.methods.sdfsmis import checkpoint
from latentseg.methods.sdfsmis.condition import BackboneFeatures, DinoFeatures
from latentseg.methods.sdfsmis.method import SDFSMIS
from latentseg.methods.sdfsmis.query_enhancement import Rule


@dataclass(frozen=True)
class Request:
    """What is to be built.

    Attributes:
        folder: Of the backbone.
        weights: Of the method, where the backbone brings none.
        device: Where it shall run.
        dtype: Of the backbones that compute in several.
        offline: Only changes the advice of the error when weights are missing.
    """

    folder: Path
    weights: Path | None
    device: torch.device
    dtype: Precision = "auto"
    offline: bool | None = None


def on_compact(asked: Request) -> FewShotNetworks:
    """The networks of the embedded default, from a folder of its files."""
    backbone = CompactBackbone.from_folder(asked.folder).to(asked.device)
    path = asked.weights or asked.folder / "fewshot.safetensors"
    trained = checkpoint.load(path)
    head = MaskHead()
    checkpoint.fill(head, trained.mask_head, where=str(path))
    network, translator = trained.network.to(asked.device), trained.translator.to(asked.device)
    features = BackboneFeatures(backbone, stages=[-1])
    files, matching = [path, asked.folder / "autoencoder.safetensors"], None
    if trained.network.prior_channels:
        files.append(path.parent / "matching.safetensors")
        grid = backbone.image_size // backbone.downscale
        matching = matching_features.load(files[-1], grid=grid).to(asked.device)
    rule = rule_of(trained, where=path)
    sdfsmis = SDFSMIS(backbone, network, translator, features, head.eval().to(asked.device), rule)
    whole_range = whole_range_of(trained, where=path)
    return FewShotNetworks(sdfsmis, fingerprint(files), matching, whole_range)


def on_stable_diffusion(asked: Request) -> FewShotNetworks:
    """The networks as published, on Stable Diffusion's autoencoder and DINOv2."""
    if asked.weights is None:
        raise ModelError(
            "this backbone has no few-shot weights of its own",
            where=str(asked.folder),
            fix="give weights=, a checkpoint folder with unet/ and image_projector/",
        )
    run = RunOptions(dtype=pick_dtype(asked.dtype, asked.device), device=str(asked.device))
    backbone = Diffusers2D.from_folder(asked.folder, options=run)
    path = asked.weights
    trained = checkpoint.load_released(path) if path.is_dir() else checkpoint.load(path)
    network = place(trained.network, run)
    beside = path / "dinov2"
    dino = beside if beside.is_dir() else registry.resolve("dinov2-base", offline=asked.offline)
    features = DinoFeatures.from_folder(dino).to(asked.device)
    translator = trained.translator.to(asked.device)
    head = None
    if trained.mask_head:
        head = MaskHead(backbone.latent_channels, downscale=backbone.downscale)
        checkpoint.fill(head, trained.mask_head, where=str(path / "mask_head"))
        head.eval().to(asked.device)
    sdfsmis = SDFSMIS(backbone, network, translator, features, head, rule_of(trained, where=path))
    whole_range = whole_range_of(trained, where=path)
    return FewShotNetworks(sdfsmis, fingerprint([path, asked.folder]), whole_range=whole_range)


def rule_of(weights: checkpoint.FewShotWeights, *, where: Path) -> Rule:
    """The rule of query enhancement that weights were trained with; the released one where nothing is said.

    Raises:
        ModelError: A rule that is not known.
    """
    said = weights.metadata.get("query_enhancement", "probability")
    if said == "probability":
        return "probability"
    if said == "cosine":
        return "cosine"
    raise ModelError(f"unknown query enhancement {said!r}", where=str(where), fix=checkpoint.AGAIN)


def whole_range_of(weights: checkpoint.FewShotWeights, *, where: Path) -> bool:
    """Whether weights were trained on scans from their smallest to their largest value.

    Raises:
        ModelError: Intensities that are not known, or that a matching prior was not trained with.
    """
    said = weights.metadata.get("intensities", "percentiles")
    if said not in ("range", "percentiles"):
        raise ModelError(f"unknown intensities {said!r}", where=str(where), fix=checkpoint.AGAIN)
    if said == "range" and weights.network.prior_channels:
        what = "the weights say `intensities: range`, and their matching prior knows percentiles alone"
        raise ModelError(what, where=str(where), fix="train them with `intensities: percentiles`")
    return said == "range"


BUILDERS: dict[str, Callable[[Request], FewShotNetworks]] = {
    "compact": on_compact,
    "stable-diffusion": on_stable_diffusion,
}
