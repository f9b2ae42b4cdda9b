"""Weights of the method on disk: the layout of the release, and one safetensors file of our own.

A released checkpoint is a folder with ``unet/`` (a UNet of ``2C`` input channels whose file also holds
``conv_in_ref.*``) and ``image_projector/`` (the MLP of the translator); we may add ``mask_head/``, a light
mask decoder. Our own file holds the same tensors under ``unet.*``, ``condition.*`` and ``mask_head.*``, and
the configuration in its metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from latentseg.errors import ModelError
from latentseg.imaging.files import write_file
from latentseg.methods.sdfsmis.condition import ConditionTranslator
from latentseg.methods.sdfsmis.network import FewShotUNet

FORMAT = "latentseg-fewshot-1"
AGAIN = "download or train the weights again"
State = dict[str, Tensor]


@dataclass(eq=False)
class FewShotWeights:
    """The trained parts of SD-FSMIS.

    Attributes:
        network: The few-shot UNet.
        translator: The condition translator.
        metadata: What else the file says, such as the backbone these weights were trained on.
        mask_head: State of a light decoder of mask latents that was trained along, empty where there is none.
    """

    network: FewShotUNet
    translator: ConditionTranslator
    metadata: dict[str, str] = field(default_factory=dict)
    mask_head: State = field(default_factory=dict)


def load_released(folder: str | Path) -> FewShotWeights:
    """Read a checkpoint folder of the released training code.

    Raises:
        ModelError: When a part is missing, corrupt or does not fit its configuration.
    """
    folder = Path(folder)
    config = _read_json(folder, "unet/config.json")
    network = build_network(config, read_folder(folder / "unet"), where=str(folder / "unet"))
    projector, recipe = folder / "image_projector", folder / "recipe.json"
    translator = build_translator(read_folder(projector), where=str(projector))
    metadata = _read_json(folder, "recipe.json") if recipe.is_file() else {}
    head = read_folder(folder / "mask_head") if (folder / "mask_head").is_dir() else {}
    return FewShotWeights(network, translator, metadata, head)


def load(path: str | Path) -> FewShotWeights:
    """Read a file that :func:`save` wrote; tensors become float32.

    Raises:
        ModelError: When the file is missing, corrupt, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"unreadable weights ({_first_line(error)})", where=str(path), fix=AGAIN) from error
    if metadata.pop("format", None) != FORMAT or "unet_config" not in metadata:
        raise ModelError("not a few-shot checkpoint of latentseg", where=str(path), fix=AGAIN)
    network = build_network(json.loads(metadata.pop("unet_config")), part(state, "unet"), where=str(path))
    translator = build_translator(part(state, "condition"), where=str(path))
    return FewShotWeights(network, translator, metadata, part(state, "mask_head"))


def save(path: str | Path, *, weights: FewShotWeights, dtype: torch.dtype = torch.float16) -> None:
    """Write one file, whole or not at all.

    Args:
        path: Ends in ``.safetensors`` by custom.
        weights: What to write; its metadata goes along.
        dtype: Of the tensors on disk.
    """
    state = {f"unet.{name}": t for name, t in released_state(weights.network).items()}
    state |= {f"condition.{name}": t for name, t in weights.translator.state_dict().items()}
    state |= {f"mask_head.{name}": t for name, t in weights.mask_head.items()}
    config = {k: v for k, v in weights.network.unet.config.items() if not k.startswith("_")}
    metadata = weights.metadata | {"format": FORMAT, "unet_config": json.dumps(config)}
    tensors = {name: t.detach().to("cpu", dtype).contiguous() for name, t in state.items()}
    write_file(Path(path), serialize(tensors, metadata))


def released_state(network: FewShotUNet) -> State:
    """State of the network under the names of the release: ``conv_in_ref.*`` beside those of a UNet."""
    return {name.removeprefix("unet."): t for name, t in network.state_dict().items()}


def build_network(config: Mapping[str, Any], state: State, *, where: str) -> FewShotUNet:
    """A few-shot UNet from a configuration and a state under the names of the release.

    Raises:
        ModelError: When the state lacks a tensor, or has one too many or of another shape.
    """
    entrance = {
        name.split(".")[1]: state.pop(name) for name in list(state) if name.startswith("conv_in_ref.")
    }
    if "weight" not in entrance or "conv_in.weight" not in state:
        raise ModelError("no conv_in and conv_in_ref, so not a few-shot UNet", where=where, fix=AGAIN)
    known = {k: v for k, v in config.items() if not k.startswith("_") and k != "in_channels_ref"}
    with torch.device("meta"):  # the random initialization would be thrown away
        unet = UNet2DConditionModel.from_config(known | {"in_channels": state["conv_in.weight"].shape[1]})
    fill(unet, state, where=where)
    weight = entrance["weight"]
    conv_in_ref = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, device="meta")
    fill(conv_in_ref, entrance, where=where)
    return FewShotUNet(unet, conv_in_ref=conv_in_ref).eval()


def build_translator(state: State, *, where: str) -> ConditionTranslator:
    """A condition translator whose widths are read off its state ``mlp.*``.

    Raises:
        ModelError: When the state is not that of such an MLP.
    """
    linear = [t for name, t in sorted(state.items(), key=_index) if t.ndim == 2]
    if len(linear) < 2:
        raise ModelError("no condition translator (mlp.*)", where=where, fix=AGAIN)
    hidden, input_dim = linear[0].shape
    with torch.device("meta"):
        translator = ConditionTranslator(
            input_dim, linear[-1].shape[0], hidden_dim=hidden, layers=len(linear) - 2
        )
    fill(translator, state, where=where)
    return translator.eval()


def fill(module: nn.Module, state: State, *, where: str) -> None:
    """Load a state that must fit exactly, into a module without memory of its own.

    Raises:
        ModelError: When it does not fit; names the first of the differences.
    """
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"weights do not fit ({lines[-1][:160]})", where=where, fix=AGAIN) from error


def read_folder(folder: Path) -> State:
    """All tensors of the safetensors files of a folder, or of its one pickle (read with ``weights_only``).

    Files in half precision are read where there are no others.

    Raises:
        ModelError: When there are none, or one is corrupt.
    """
    every = sorted(folder.glob("*.safetensors"))
    files = [f for f in every if ".fp16." not in f.name] or every
    pickles = sorted(p for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth"})
    try:
        if files:
            return {name: t.float() for f in files for name, t in load_file(f).items()}
        if len(pickles) == 1:
            return dict(torch.load(pickles[0], map_location="cpu", weights_only=True))
    except Exception as error:  # zip, pickle and safetensors each raise their own
        raise ModelError(
            f"unreadable weights ({_first_line(error)})", where=str(folder), fix=AGAIN
        ) from error
    raise ModelError("no weights", where=str(folder), fix=AGAIN)


def part(state: State, prefix: str) -> State:
    """The tensors below ``prefix.``, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in state.items() if name.startswith(f"{prefix}.")}


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"no readable {name}", where=str(folder), fix=AGAIN) from error


def _index(item: tuple[str, Tensor]) -> int:
    digits = [s for s in item[0].split(".") if s.isdigit()]
    return int(digits[-1]) if digits else -1


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
