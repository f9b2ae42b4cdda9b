"""MAISI's networks as published: configurations of monai's classes, and their checkpoints.

The checkpoints are pickles: ``{"unet_state_dict", "scale_factor"}`` for a denoiser, a plain state dict (or
one under ``"unet_state_dict"``) for the autoencoder. Each is read once, with ``weights_only=True``, and kept
beside itself as safetensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from latentseg.backbones import registry
from latentseg.backbones.maisi.library import AutoencoderKlMaisi, DiffusionModelUNetMaisi
from latentseg.backbones.maisi.tiling import convolved
from latentseg.backbones.weights import reason
from latentseg.errors import LatentsegError, ModelError
from latentseg.imaging.files import write_file

Config = dict[str, Any]
Network = TypeVar("Network", bound=nn.Module)
STATES, SCALE = ("unet_state_dict", "controlnet_state_dict"), "scale_factor"
CONFIG_NAME, PARTS = "config.json", ("autoencoder_def", "diffusion_unet_def", "controlnet_def")

AUTOENCODER: Config = {
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "num_channels": [64, 128, 256],
    "num_res_blocks": [2, 2, 2],
    "norm_num_groups": 32,
    "norm_eps": 1e-6,
    "attention_levels": [False, False, False],
    "with_encoder_nonlocal_attn": False,
    "with_decoder_nonlocal_attn": False,
    "use_checkpointing": False,
    "use_convtranspose": False,
    "norm_float16": True,
    "num_splits": 4,  # 8 beside the ddpm denoiser; how the work is split changes no weight
    "dim_split": 1,
}
_UNET: Config = {
    "spatial_dims": 3,
    "in_channels": 4,
    "out_channels": 4,
    "num_channels": [64, 128, 256, 512],
    "attention_levels": [False, False, True, True],
    "num_head_channels": [0, 0, 32, 32],
    "num_res_blocks": 2,
    "use_flash_attention": True,
    "include_spacing_input": True,
}
UNET_SHAPE = (
    *("spatial_dims", "in_channels", "num_channels", "attention_levels", "num_head_channels"),
    *("num_res_blocks", "resblock_updown", "include_fc", "norm_num_groups"),
)
"""Entries of the denoiser's configuration that its ControlNet shares."""

UNET_RFLOW: Config = _UNET | {
    "include_top_region_index_input": False,
    "include_bottom_region_index_input": False,
    "num_class_embeds": 128,
    "resblock_updown": True,
    "include_fc": True,
}
UNET_DDPM: Config = _UNET | {
    "include_top_region_index_input": True,
    "include_bottom_region_index_input": True,
    "resblock_updown": False,
    "include_fc": False,
}


@dataclass(frozen=True)
class Variant:
    """A published pair of autoencoder and denoiser.

    Attributes:
        unet: Configuration of the denoiser.
        unet_file: Its checkpoint.
        flow: Whether it is a rectified flow; else it is variance-preserving (DDPM).
        modality: What it was made for, an id of MAISI's modality embedding.
        autoencoder_file: The autoencoder's checkpoint, the same for all three.
    """

    unet: Config
    unet_file: str
    flow: bool
    modality: int
    autoencoder_file: str = "autoencoder_v1.pt"


VARIANTS: dict[str, Variant] = {
    "maisi-ct-rflow": Variant(UNET_RFLOW, "diff_unet_3d_rflow-ct.pt", flow=True, modality=1),
    "maisi-ct-ddpm": Variant(UNET_DDPM, "diff_unet_3d_ddpm-ct.pt", flow=False, modality=1),
    "maisi-mr-brain": Variant(UNET_RFLOW, "diff_unet_3d_rflow-mr-brain_v1.pt", flow=True, modality=31),
}


def new_autoencoder(config: Config = AUTOENCODER) -> AutoencoderKlMaisi:
    """An autoencoder with random weights."""
    return AutoencoderKlMaisi(**config)


def new_unet(config: Config) -> DiffusionModelUNetMaisi:
    """A denoiser with random weights; attention through PyTorch's fused kernel on every device.

    monai refuses ``use_flash_attention`` where there is no CUDA device. The flag means
    ``scaled_dot_product_attention``, which runs everywhere, so it is set afterwards.
    """
    return fused_attention(DiffusionModelUNetMaisi(**{**config, "use_flash_attention": False}))


def fused_attention(network: Network) -> Network:
    """Set the flag of a network's attentions, in place."""
    for module in network.modules():
        if hasattr(module, "use_flash_attention"):
            vars(module)["use_flash_attention"] = True
    return network


class SlicedAveragePool(nn.Module):
    """Mean over cells of 2x2x2 voxels as a sum of eight strided slices; PyTorch's own is slow in bf16."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` to ``(B, C, D/2, H/2, W/2)``."""
        parts = [x[:, :, i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
        total = parts[0].float() + parts[1]
        for part in parts[2:]:
            total += part
        return (total / 8).to(x.dtype)


class LeanConv3d(nn.Conv3d):
    """A convolution by :func:`~latentseg.backbones.maisi.tiling.convolved`."""

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, D, H, W)`` to the same with other channels."""
        return convolved(x, self, padding=cast("tuple[int, ...]", self.padding))


def for_inference(unet: nn.Module) -> nn.Module:
    """Exchange slow and wasteful layers of a denoiser in place; weights and results stay what they are."""
    for module in list(unet.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AvgPool3d):
                setattr(module, name, SlicedAveragePool())
            elif type(child) is nn.Conv3d:
                child.__class__ = LeanConv3d
    return unet


def load_networks(folder: Path, variant: str) -> tuple[AutoencoderKlMaisi, DiffusionModelUNetMaisi, float]:
    """Load autoencoder, denoiser and the factor that scales latents, in float32.

    A ``config.json`` in the folder, with ``autoencoder_def`` and ``diffusion_unet_def`` as in the published
    configuration, overrules single entries for models of another width.

    Raises:
        ModelError: A file is missing or damaged, holds more than tensors, or is of another model.
    """
    known = VARIANTS[variant]
    changes = read_changes(folder)
    codec_file = find_checkpoint(folder, known.autoencoder_file, variant=variant)
    unet_file = find_checkpoint(folder, known.unet_file, variant=variant)
    try:
        with torch.device("meta"):  # the random initialization would be thrown away
            autoencoder = new_autoencoder(AUTOENCODER | changes.get("autoencoder_def", {}))
            unet = new_unet(known.unet | changes.get("diffusion_unet_def", {}))
    except (TypeError, ValueError) as error:
        what = f"the configuration does not describe a MAISI model ({reason(error)})"
        fix = "correct or remove it"
        raise ModelError(what, where=str(folder / CONFIG_NAME), fix=fix) from error
    fill(autoencoder, read_tensors(codec_file), where=codec_file)
    fill(unet, read_tensors(unet_file), where=unet_file)
    return autoencoder, unet, read_scale(unet_file)


def find_variant(folder: Path) -> str:
    """The name of the variant whose denoiser is in a folder.

    Raises:
        ModelError: There is none, or more than one.
    """
    found = [name for name, known in VARIANTS.items() if present(folder, known.unet_file)]
    if len(found) == 1:
        return found[0]
    what = f"the denoisers of {' and '.join(found)}" if found else "no MAISI denoiser"
    files = ", ".join(known.unet_file for known in VARIANTS.values())
    raise ModelError(what, where=str(folder), fix=f"name the variant, or keep exactly one of {files} there")


def find_checkpoint(folder: Path, name: str, *, variant: str) -> Path:
    """Find a checkpoint in a folder or its ``models/``, as safetensors; a pickle is converted first.

    Raises:
        ModelError: Neither form of it is there, or the pickle cannot be used.
    """
    there = present(folder, name)
    if there is None:
        fix = f"put it there, or run 'latentseg models pull {variant}'"
        raise ModelError(f"no {name}", where=str(folder), fix=fix)
    return converted(there) if there.suffix == ".pt" else there


def converted(pickle: Path) -> Path:
    """The safetensors of a ``.pt`` checkpoint, beside it, or in the cache where that folder is read-only.

    Made on first use; made again when the size or the time of the pickle changes.

    Raises:
        ModelError: The pickle is damaged, holds more than tensors, or has no state dict.
    """
    stat = pickle.stat()
    stamp = {"source": pickle.name, "source_bytes": str(stat.st_size), "source_mtime": str(stat.st_mtime_ns)}
    cache = registry.home() / "converted" / hashlib.sha256(str(pickle.resolve()).encode()).hexdigest()[:16]
    places = [pickle.with_suffix(".safetensors"), cache / pickle.with_suffix(".safetensors").name]
    for place in places:
        if place.is_file() and stamp.items() <= _metadata(place).items():
            return place
    tensors, scale = read_pickle(pickle)
    content = save(tensors, {"format": "pt", SCALE: repr(scale), **stamp})
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_file(place, content)
        except (OSError, LatentsegError):
            if place is places[-1]:
                raise
        else:
            return place
    raise AssertionError  # the last place returns or raises


def read_pickle(path: Path) -> tuple[dict[str, Tensor], float | None]:
    """The tensors of a published checkpoint, and its ``scale_factor`` if it has one. No code is executed.

    Raises:
        ModelError: The pickle is damaged, holds more than tensors, or has no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, OSError, ValueError, ...
        what = f"the checkpoint cannot be read ({reason(error)})"
        fix = "get the published file again; files that need more than tensors are refused"
        raise ModelError(what, where=str(path), fix=fix) from error
    key = next((key for key in STATES if isinstance(content, Mapping) and key in content), "")
    state = content[key] if key else content
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        keys = (
            ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else type(content).__name__
        )
        what = f"no state dict in the checkpoint (it has {keys})"
        raise ModelError(what, where=str(path), fix=f"give a state dict, plain or under '{STATES[0]}'")
    scale = content.get(SCALE) if key else None
    return {str(k): t.contiguous() for k, t in state.items()}, None if scale is None else float(scale)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read safetensors as they are.

    Raises:
        ModelError: The file is damaged.
    """
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, OSError and ValueError
        raise _damaged(path, error) from error


def read_scale(path: Path) -> float:
    """The ``scale_factor`` of a denoiser's checkpoint.

    Raises:
        ModelError: It has none, or no positive number.
    """
    text = _metadata(path).get(SCALE, "None")
    try:
        scale = float(text)
    except ValueError:
        scale = float("nan")
    if not 0 < scale < float("inf"):
        what = f"the denoiser's checkpoint has no usable {SCALE} ({text})"
        raise ModelError(what, where=str(path), fix="use the published checkpoint, which holds it")
    return scale


def fill(module: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Put tensors into a network that is on the meta device; tensors it does not know are left out.

    Raises:
        ModelError: Tensors are missing or of another shape.
    """
    wanted = module.state_dict()
    missing = sorted(set(wanted) - set(tensors))
    if missing:
        what = f"{len(missing)} of {len(wanted)} tensors are missing, such as {missing[0]}"
        raise ModelError(what, where=str(where), fix="give the published checkpoint of this very variant")
    for name, tensor in wanted.items():
        if tensors[name].shape != tensor.shape:
            what = f"{name} is {tuple(tensors[name].shape)} and should be {tuple(tensor.shape)}"
            fix = f"give the published checkpoint, or say what differs in {CONFIG_NAME}"
            raise ModelError(what, where=str(where), fix=fix)
    module.load_state_dict({name: tensors[name].float() for name in wanted}, assign=True)


def present(folder: Path, name: str) -> Path | None:
    """A checkpoint as pickle, or else as safetensors, in the folder or its ``models/``."""
    places = [
        folder / sub / part for part in (name, name.replace(".pt", ".safetensors")) for sub in ("", "models")
    ]
    return next((place for place in places if place.is_file()), None)


def read_changes(folder: Path) -> dict[str, Config]:
    """What a folder's ``config.json`` says about each network; nothing where there is none.

    Raises:
        ModelError: It cannot be read.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        parts = {key: dict(content.get(key, {})) for key in PARTS}
    except (ValueError, TypeError, AttributeError) as error:
        what = f"unreadable configuration ({reason(error)})"
        raise ModelError(what, where=str(path), fix="correct or remove it") from error
    return {key: {k: v for k, v in part.items() if _is_plain(k, v)} for key, part in parts.items()}


def _is_plain(key: str, value: object) -> bool:
    """Neither a class name (``_target_``) nor a reference (``"@spatial_dims"``) of monai's configurations."""
    return not key.startswith("_") and not (isinstance(value, str) and value.startswith("@"))


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except Exception as error:  # safetensors raises its own, OSError and ValueError
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    what = f"the weights cannot be read ({reason(error)})"
    return ModelError(what, where=str(path), fix="delete this file and load again, or pull the model again")
