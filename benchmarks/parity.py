"""How far SD-FSMIS here is from the released classes, tensor by tensor.

Usage: ``python benchmarks/parity.py [FOLDER]``; the folder (default ``$LATENTSEG_PARITY``, else
``../shared/parity``) holds ``sdfsmis_tiny.safetensors``: random weights of a tiny configuration, inputs,
and what the released classes computed with them. Prints the table of ``docs/explanation/parity.md`` and
writes ``benchmarks/results/parity.json``.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import Dinov2Config

from latentseg.backbones.device import RunOptions
from latentseg.backbones.stable_diffusion import Diffusers2D
from latentseg.imaging.components import largest_per_slice
from latentseg.methods.sdfsmis.checkpoint import build_network, build_translator, part
from latentseg.methods.sdfsmis.condition import DinoFeatures, masked_features
from latentseg.methods.sdfsmis.mask_decoding import decoded_0_255, decoded_uint8, mask_images, official_masks
from latentseg.methods.sdfsmis.query_enhancement import enhance, prototypes


def models(tensors: dict[str, Tensor], configs: dict[str, dict[str, object]]) -> tuple[object, ...]:
    """Backbone, network, translator and DINOv2 of the reference."""
    vae = AutoencoderKL.from_config(configs["vae_config"])
    vae.load_state_dict(part(tensors, "weights.vae"))
    unet = UNet2DConditionModel.from_config(configs["unet_config"])
    backbone = Diffusers2D(vae, unet, options=RunOptions(channels_last=False))
    network = build_network(configs["unet_config"], part(tensors, "weights.unet"), where="parity")
    translator = build_translator(part(tensors, "weights.vtct"), where="parity")
    with tempfile.TemporaryDirectory() as folder:
        Dinov2Config(**configs["dinov2_config"], architectures=["Dinov2Model"]).save_pretrained(folder)
        save_file(part(tensors, "weights.dinov2"), Path(folder) / "model.safetensors", {"format": "pt"})
        dino = DinoFeatures.from_folder(folder)
    return backbone, network, translator, dino


@torch.no_grad()
def compare(
    tensors: dict[str, Tensor], parts: tuple[object, ...], *, shots: int, batch: int
) -> dict[str, float]:
    """Largest differences of one setting; shares of pixels for eight-bit values and masks."""
    backbone, network, translator, dino = parts
    expected = part(tensors, f"expected.shots{shots}")
    images, masks = tensors["input.support_images"][:shots], tensors["input.support_masks"][:shots]
    z = backbone.encode(images)
    support = torch.cat([z, backbone.encode(mask_images(masks))], 1)
    fg, bg = prototypes(z, masks, compat="official").over_shots(shots)
    query = enhance(backbone.encode(tensors["input.query_images"]), fg, bg, compat="official")
    features = masked_features(dino(images, compat="official"), masks, shots=shots, compat="official")
    token = translator(features)
    cache = network.encode_support(support, token, shots=shots)
    latents = torch.cat([network.segment(q, cache) for q in query.split(batch)])
    rgb = backbone.decode_rgb(latents)
    eight = decoded_uint8(rgb)
    mask = official_masks(eight)
    off = {
        "support input of the UNet": support - expected["support_unet_input"],
        "query input of the UNet": query - expected["query_unet_input"],
        "condition token": token - expected["condition_token"],
        "UNet output": -latents - expected["query_unet_output"],
        "decoded image, 0 to 255": decoded_0_255(rgb[:1]) - expected["decoded_0_255_first_query"],
    }
    figures = {name: float(difference.abs().max()) for name, difference in off.items()}
    figures["UNet output, root mean square"] = float(off["UNet output"].square().mean().sqrt())
    figures["eight-bit values that differ"] = float((eight != expected["decoded_uint8"].numpy()).mean())
    final = largest_per_slice(mask)
    figures["mask pixels that differ"] = float((final != expected["mask_final"].numpy().astype(bool)).mean())
    return figures


def main() -> None:
    """Compare, print, write."""
    default = os.environ.get("LATENTSEG_PARITY", "../shared/parity")
    path = Path(sys.argv[1] if len(sys.argv) > 1 else default) / "sdfsmis_tiny.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        configs = {k: json.loads(v) for k, v in file.metadata().items() if k.endswith("_config")}
    parts = models(tensors, configs)
    runs = [compare(tensors, parts, shots=shots, batch=batch) for shots in (1, 3) for batch in (1, 4)]
    worst = {name: max(run[name] for run in runs) for name in runs[0]}
    for name, value in worst.items():
        sys.stdout.write(f"| {name} | {value:.2g} |\n")
    out = Path("benchmarks/results/parity.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"date": datetime.now(UTC).date().isoformat(), "worst": worst}, indent=1) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
