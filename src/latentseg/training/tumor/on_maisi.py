"""The training of the tumor networks on a folder of MAISI, its text encoder chosen and remembered."""

from __future__ import annotations

from pathlib import Path

from latentseg.backbones.device import Precision, pick_device, pick_dtype
from latentseg.backbones.maisi.conditions import phrase_condition
from latentseg.backbones.registry import is_offline
from latentseg.methods.tumor.on_maisi import maisi_digest, maisi_stages
from latentseg.methods.tumor.queries import ENCODER, POOLING, Embed, Queries
from latentseg.text import embed, load_encoder
from latentseg.training.tumor.volume_training import VolumeTraining, VolumeTrainingOptions


def maisi_training(
    options: VolumeTrainingOptions, folder: Path, *, device: str = "auto", precision: Precision = "auto"
) -> VolumeTraining:
    """A training on the published files in a folder.

    Args:
        options: Of the training; the length of the texts is that of the encoder's vectors.
        folder: Of the backbone.
        device: Where the frozen networks are.
        precision: They compute in: ``auto``, ``fp32`` or ``bf16``.

    Raises:
        UsageError: An unknown device.
        ModelError: Files of the backbone or of the text encoder are missing or damaged.
    """
    place = pick_device(device)
    config, said = options.network, dict[str, str]()
    encode: Embed = embed
    if options.text_encoder:
        encoder = load_encoder(options.text_encoder, pooling=options.text_pooling, offline=is_offline())
        encode = encoder.encode
        config = config.model_copy(update={"text_dim": encoder.dim})
        said = {ENCODER: options.text_encoder, POOLING: options.text_pooling}
    facts = {
        "backbone": maisi_digest(folder),
        "without": ", ".join(options.blocks.without),
        "data": ", ".join(data.title for data in options.data),
    }
    stages = maisi_stages(folder, config, device=place, dtype=pick_dtype(precision, place))
    chosen = options.model_copy(update={"network": config})
    return VolumeTraining(chosen, stages, Queries(encode), phrase_condition, facts | said)
