"""Write trained weights in the layout of the release, so that its code can read them.

The folder has ``unet/config.json``, ``unet/diffusion_pytorch_model.safetensors`` (with ``conv_in_ref.*``),
``image_projector/`` with ``mlp.*``, and ``dinov2/`` as transformers saves it. Two parts are ours, and the
released code ignores them: ``recipe.json``, the training options, and ``mask_head/``, a light mask decoder.
:func:`~latentseg.methods.sdfsmis.checkpoint.load_released` reads all of it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from latentseg.errors import InputError
from latentseg.imaging.files import remove_leftovers, temporary_beside, write_json
from latentseg.methods.sdfsmis.checkpoint import FewShotWeights, State, released_state

CLASS_NAME = "MyUNet2DConditionModel"  # of the release
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


def save_released(
    folder: Path, *, weights: FewShotWeights, dino: Any = None, dtype: torch.dtype = torch.float32
) -> None:
    """Write a checkpoint folder, whole or not at all; one of the same name is replaced.

    Args:
        folder: Of the checkpoint.
        weights: Without further channels of input, which the release knows nothing of.
        dino: The ``Dinov2Model`` that the condition was made with, to go along; None leaves it out.
        dtype: Of the tensors on disk.

    Raises:
        InputError: The weights have a prior, or the folder cannot be written.
    """
    if weights.network.prior_channels:
        what = "weights with a matching prior have no place in the released layout"
        raise InputError(what, where=str(folder), fix="train with `prior: false`")
    remove_leftovers(folder)
    temporary = temporary_beside(folder)
    try:
        _write(temporary, weights, dtype)
        if dino is not None:
            dino.save_pretrained(temporary / "dinov2")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.replace(folder)
    except (OSError, SafetensorError) as error:  # the second is what a full disk is to the library
        reason = " ".join(str(error).split())[:160]
        fix = "make room, or choose a folder you may write to; the trained weights are still there"
        raise InputError(f"cannot write the weights ({reason})", where=str(folder), fix=fix) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, weights: FewShotWeights, dtype: torch.dtype) -> None:
    network = weights.network
    known = {k: v for k, v in network.unet.config.items() if not k.startswith("_")}
    channels = network.conv_in.in_channels
    config = known | {"_class_name": CLASS_NAME, "in_channels": channels, "in_channels_ref": channels}
    parts = {"unet": released_state(network), "image_projector": weights.translator.state_dict()}
    if weights.mask_head:
        parts["mask_head"] = weights.mask_head
    for name, state in parts.items():
        (folder / name).mkdir(parents=True)
        save_file(_on_disk(state, dtype), folder / name / WEIGHTS_FILE, {"format": "pt"})
    write_json(folder / "unet" / "config.json", config)
    write_json(folder / "recipe.json", weights.metadata)


def _on_disk(state: State, dtype: torch.dtype) -> State:
    return {name: t.detach().to("cpu", dtype).contiguous() for name, t in state.items()}
