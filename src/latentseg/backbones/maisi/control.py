"""MAISI's ControlNet: a label map of the anatomy that the denoiser is to draw, where the checkpoint is there.

A map without tumors says "healthy" more clearly than anything else that MAISI listens to: it was trained with
maps with tumors and the same maps without. The label ids are MAISI's own (132 structures; 200 is the body).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latentseg.backbones.maisi.library import ControlNetMaisi
from latentseg.backbones.maisi.networks import (
    UNET_SHAPE,
    fill,
    find_checkpoint,
    for_inference,
    fused_attention,
    present,
    read_tensors,
)
from latentseg.errors import UsageError

FILES = {
    "maisi-ct-rflow": "controlnet_3d_rflow-ct.pt",
    "maisi-ct-ddpm": "controlnet_3d_ddpm-ct.pt",
}
BITS = 8
CONTROLNET = {
    "conditioning_embedding_in_channels": BITS,
    "conditioning_embedding_num_channels": [8, 32, 64],
    "use_checkpointing": False,
}


def load_controlnet(
    folder: Path, variant: str, unet: nn.Module, unet_config: Mapping[str, Any], changes: Mapping[str, Any]
) -> nn.Module | None:
    """The ControlNet of a variant from its folder; None where there is none.

    Args:
        folder: Of the published files.
        variant: Of the denoiser.
        unet: What the checkpoint leaves out is that of the denoiser.
        unet_config: Of the denoiser, which the ControlNet shares.
        changes: ``controlnet_def`` of the folder's ``config.json``.

    Raises:
        ModelError: The file is damaged or of another model.
    """
    name = FILES.get(variant, "")
    if not name or present(folder, name) is None:
        return None
    file = find_checkpoint(folder, name, variant=variant)
    tensors = read_tensors(file)
    shared = {key: unet_config[key] for key in UNET_SHAPE if key in unet_config}
    classes = tensors.get("class_embedding.weight")
    own = {"num_class_embeds": None if classes is None else len(classes)}
    with torch.device("meta"):
        made = ControlNetMaisi(**shared | CONTROLNET | own | dict(changes))
    wanted = {key: tensor.shape for key, tensor in made.state_dict().items()}
    same = {key: tensor for key, tensor in unet.state_dict().items() if wanted.get(key) == tensor.shape}
    fill(made, same | tensors, where=file)
    return for_inference(fused_attention(made))


def label_bits(labels: Tensor) -> Tensor:
    """A label map ``(B, 1, ...)`` of whole numbers below 256 as bits ``(B, 8, ...)``, the lowest first.

    Raises:
        UsageError: Other numbers.
    """
    ids = labels.long()
    if not torch.equal(ids.to(labels.dtype), labels) or int(ids.min()) < 0 or int(ids.max()) >= 2**BITS:
        what = f"label ids from {float(labels.min()):g} to {float(labels.max()):g}"
        raise UsageError(what, fix="give MAISI's label ids, whole numbers from 0 to 255")
    return torch.cat([(ids >> bit) & 1 for bit in range(BITS)], 1).float()
