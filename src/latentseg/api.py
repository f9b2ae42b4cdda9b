"""`latentseg.load`: a method on a backbone, ready to segment."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from latentseg.errors import ModelError, UsageError

if TYPE_CHECKING:
    import torch

    from latentseg.methods.fewshot.segmenter import FewShotParts, FewShotSegmenter, SegmentOptions
    from latentseg.methods.tumor.features import FrozenStages, TumorConfig
    from latentseg.methods.tumor.options import TumorOptions
    from latentseg.methods.tumor.segmenter import TumorParts, TumorSegmenter

Precision = Literal["auto", "fp32", "bf16"]
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
PRECISIONS = ("auto", "fp32", "bf16")
METHODS = ("fewshot", "tumor")


@overload
def load(
    method: Literal["fewshot"] = "fewshot",
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: SegmentOptions | None = None,
    precision: Precision = "auto",
    offline: bool | None = None,
) -> FewShotSegmenter: ...


@overload
def load(
    method: Literal["tumor"],
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: TumorOptions | None = None,
    precision: Precision = "auto",
    offline: bool | None = None,
) -> TumorSegmenter: ...


def load(
    method: str = "fewshot",
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: SegmentOptions | TumorOptions | None = None,
    precision: Precision = "auto",
    offline: bool | None = None,
) -> FewShotSegmenter | TumorSegmenter:
    """Load a method on a backbone; nothing is downloaded.

    Args:
        method: ``"fewshot"``, segmentation from examples (SD-FSMIS), or ``"tumor"``, from a text prompt
            (DiffuGTS).
        backbone: A name of ``latentseg models list``, or a folder in that model's layout.
        weights: Trained weights of the method where the backbone brings none: for SD-FSMIS on Stable
            Diffusion a checkpoint folder in the released layout (``unet/`` and ``image_projector/``), else a
            file that ``latentseg train`` wrote.
        options: See :class:`latentseg.methods.fewshot.segmenter.SegmentOptions` and
            :class:`latentseg.methods.tumor.options.TumorOptions`.
        precision: Of Stable Diffusion: ``auto`` takes bf16 where the processor computes it in hardware.
        offline: Only changes the advice of the error when weights are missing.

    Raises:
        UsageError: An unknown method or precision.
        ModelError: Unknown backbone, or weights that are missing, corrupt or do not fit.
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", fix=f"choose from {', '.join(METHODS)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}", fix=f"choose from {', '.join(PRECISIONS)}")
    from latentseg.backbones import registry
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter
    from latentseg.methods.tumor.segmenter import TumorSegmenter

    folder = registry.resolve(backbone, offline=offline)
    if method == "tumor":
        return TumorSegmenter(tumor_parts(folder, weights), options=options)  # type: ignore[arg-type]  # overloads
    if (folder / "autoencoder.json").exists():
        parts = compact_parts(folder, weights)
    elif not (folder / "vae").is_dir():
        fix = "give a folder with autoencoder.json, or with the vae/ of Stable Diffusion"
        raise ModelError("not a folder of a model that is known here", where=str(folder), fix=fix)
    else:
        parts = diffusers_parts(folder, weights, precision=precision, offline=offline)
    return FewShotSegmenter(parts, options=options)  # type: ignore[arg-type]  # overloads


def tumor_parts(folder: Path, weights: str | Path | None = None) -> TumorParts:
    """The networks of DiffuGTS on a compact backbone, from a folder of its files.

    Raises:
        ModelError: The folder is no compact backbone, or weights are missing, damaged, or made for another.
    """
    from latentseg.backbones.compact import phrase_condition
    from latentseg.methods.tumor import network
    from latentseg.methods.tumor.queries import Queries
    from latentseg.methods.tumor.segmenter import TumorParts
    from latentseg.text import embed

    if not (folder / "autoencoder.json").exists():
        fix = "choose compact, or a folder with autoencoder.json"
        raise ModelError("tumors are not segmented on this backbone yet", where=str(folder), fix=fix)
    path = Path(weights) if weights else folder / "tumor.safetensors"
    if not path.exists():
        fix = "give weights=, a file that `latentseg train tumor` wrote"
        raise ModelError("this backbone has no tumor weights", where=str(path), fix=fix)
    trained, facts = network.load(path)
    stages = tumor_stages(folder, trained.config)
    made_for = facts.get("backbone", "")
    if made_for and made_for != looked_at(folder, trained.config):
        what = f"these tumor weights were made for another backbone ({made_for})"
        raise ModelError(what, where=str(path), fix="train them again, or take the backbone they came with")
    files = [folder / "autoencoder.safetensors", folder / "denoiser.safetensors"]
    left_out = tuple(name for name in facts.get("without", "").split(", ") if name)
    queries, identity = Queries(embed), fingerprint([path, *files])
    return TumorParts(stages, trained, queries, phrase_condition, identity, left_out)


def tumor_stages(folder: Path, config: TumorConfig) -> FrozenStages:
    """The frozen features that the tumor networks look at, from the folder of a compact model.

    Raises:
        ModelError: A file is missing or damaged.
    """
    from latentseg.backbones.compact import CompactBackbone
    from latentseg.backbones.image_features import read_feature_network
    from latentseg.methods.tumor.features import FrozenStages

    photographs = read_feature_network(folder / "matching.safetensors") if config.photographs else None
    return FrozenStages(CompactBackbone.from_folder(folder), config, photographs)


def looked_at(folder: Path, config: TumorConfig) -> str:
    """Twelve hexadecimal digits of what the attention maps look at: the encoder, the denoiser if asked for.

    Raises:
        ModelError: The autoencoder is missing or damaged.
    """
    from latentseg.backbones.weights import read_weights

    tensors = read_weights(folder / "autoencoder.safetensors")
    digest = hashlib.sha256()
    for name in sorted(name for name in tensors if name.startswith(("vae.encoder.", "vae.quant_conv."))):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    if config.timestep is not None:
        digest.update(fingerprint([folder / "denoiser.safetensors"]).encode())
    return digest.hexdigest()[:12]


def compact_parts(folder: Path, weights: str | Path | None = None) -> FewShotParts:
    """The networks of the embedded default, from a folder of its files."""
    from latentseg.backbones.compact import CompactBackbone, MaskHead
    from latentseg.methods.fewshot import matching_features
    from latentseg.methods.fewshot.segmenter import FewShotParts
    from latentseg.methods.sdfsmis import checkpoint
    from latentseg.methods.sdfsmis.condition import BackboneFeatures

    backbone = CompactBackbone.from_folder(folder)
    path = Path(weights) if weights else folder / "fewshot.safetensors"
    trained = checkpoint.load(path)
    head = MaskHead()
    checkpoint.fill(head, trained.mask_head, where=str(path))
    features = BackboneFeatures(backbone, stages=[-1])
    files, matching = [path, folder / "autoencoder.safetensors"], None
    if trained.network.prior_channels:
        files.append(path.parent / "matching.safetensors")
        grid = backbone.image_size // backbone.downscale
        matching = matching_features.load(files[-1], grid=grid)
    return FewShotParts(
        backbone,
        trained.network,
        trained.translator,
        features,
        head.eval(),
        fingerprint(files),
        matching,
    )


def diffusers_parts(
    folder: Path, weights: str | Path | None, *, precision: Precision = "auto", offline: bool | None = None
) -> FewShotParts:
    """The networks as published, on Stable Diffusion's autoencoder and DINOv2."""
    from latentseg.backbones import registry
    from latentseg.backbones.stable_diffusion import Diffusers2D, RunOptions, place
    from latentseg.methods.fewshot.segmenter import FewShotParts
    from latentseg.methods.sdfsmis import checkpoint
    from latentseg.methods.sdfsmis.condition import DinoFeatures

    if weights is None:
        raise ModelError(
            "this backbone has no few-shot weights of its own",
            where=str(folder),
            fix="give weights=, a checkpoint folder with unet/ and image_projector/",
        )
    run = RunOptions(dtype=pick_dtype(precision))
    backbone = Diffusers2D.from_folder(folder, options=run)
    path = Path(weights)
    trained = checkpoint.load_released(path) if path.is_dir() else checkpoint.load(path)
    network = place(trained.network, run)
    beside = path / "dinov2"
    dino = beside if beside.is_dir() else registry.resolve("dinov2-base", offline=offline)
    features = DinoFeatures.from_folder(dino)
    return FewShotParts(backbone, network, trained.translator, features, None, fingerprint([path, folder]))


def pick_dtype(precision: Precision) -> torch.dtype:
    """The type to compute in; ``auto`` asks the processor, as emulated bf16 is slower than fp32."""
    import torch

    from latentseg.backbones.stable_diffusion import fastest_dtype

    return (
        fastest_dtype() if precision == "auto" else {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
    )


def fingerprint(paths: list[Path]) -> str:
    """Twelve hexadecimal digits that change with the weights: sizes and first megabyte of every file."""
    digest = hashlib.sha256()
    for path in paths:
        inside = (p for p in sorted(path.rglob("*")) if p.suffix in WEIGHTS) if path.is_dir() else [path]
        for file in inside:
            with file.open("rb") as stream:
                digest.update(file.name.encode() + str(file.stat().st_size).encode() + stream.read(1 << 20))
    return digest.hexdigest()[:12]
