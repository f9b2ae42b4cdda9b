"""Everything of DiffuGTS that is trained, and its file: a few MB beside a frozen backbone."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from latentseg.backbones.base import Backbone
from latentseg.backbones.weights import reason
from latentseg.errors import ModelError
from latentseg.imaging.files import written_whole
from latentseg.tumor.adapters import stages_of
from latentseg.tumor.attention_maps import AnomalyAttention
from latentseg.tumor.residuals import Fusion

FORMAT = "latentseg-tumor-1"
AGAIN = "download or train the weights again"


class TumorConfig(BaseModel):
    """What the trained parts look at, and how wide they are.

    Attributes:
        stages: Indices of the backbone's features (:meth:`Backbone.features`), finest first.
        timestep: At which the denoiser's features are read; without it the encoder's stages are all there
            is, as stated for the paper. The encoder sees 11 to 65 voxels and no organ.
        finest: Largest edge of the grid on which attention is computed; finer stages are pooled to it.
        ratio: Share of the adapters in the features.
        text_dim: Length of the text embeddings.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[int, ...] = (0, 1, 4, 5, 6)
    timestep: int | None = 100
    finest: int = 64
    ratio: float = 0.5
    text_dim: int = 384


class TumorNetwork(nn.Module):
    """The attention maps and the fusion of residuals, for the stages of one backbone.

    Args:
        config: What they look at.
        channels: Widths of the stages.
    """

    def __init__(self, config: TumorConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.config, self.channels = config, channels
        self.attention = AnomalyAttention(channels, text_dim=config.text_dim, ratio=config.ratio)
        self.fusion = Fusion()

    @classmethod
    def for_backbone(cls, config: TumorConfig, backbone: Backbone) -> TumorNetwork:
        """A network with random weights whose widths fit a backbone.

        Raises:
            ModelError: Denoiser features are asked for and the backbone has no denoiser.
        """
        probe = torch.zeros(1, 1, *[8 * backbone.downscale] * backbone.dims)
        return cls(config, tuple(stage.shape[1] for stage in frozen_stages(backbone, probe, config)))


def frozen_stages(backbone: Backbone, images: Tensor, config: TumorConfig) -> list[Tensor]:
    """The stages ``[(B, C_l, ...)]`` of images ``(B, 1, ...)`` that a network looks at, finest first."""
    features = backbone.features(images, timestep=config.timestep)
    grid = [min(config.finest, edge) for edge in images.shape[2:]]
    return stages_of(features, config.stages, grid=grid)


def save(path: Path, network: TumorNetwork, metadata: dict[str, str]) -> None:
    """Write ``tumor.safetensors``: half precision, the configuration in the metadata; whole or not at all."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in network.state_dict().items()}
    facts = {
        "format": FORMAT,
        "config": network.config.model_dump_json(),
        "channels": json.dumps(network.channels),
    }
    with written_whole(path) as temporary:
        temporary.write_bytes(serialize(tensors, metadata | facts))


def load(path: Path) -> tuple[TumorNetwork, dict[str, str]]:
    """Read what :func:`save` wrote, frozen and in single precision, with the metadata.

    Raises:
        ModelError: The file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"unreadable weights ({reason(error)})", where=str(path), fix=AGAIN) from error
    if metadata.get("format") != FORMAT:
        raise ModelError("not tumor weights of latentseg", where=str(path), fix=AGAIN)
    try:
        config = TumorConfig.model_validate_json(metadata["config"])
        network = TumorNetwork(config, tuple(json.loads(metadata["channels"])))
        network.load_state_dict(state)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        what = f"the tumor weights do not fit their configuration ({reason(error)})"
        raise ModelError(what, where=str(path), fix=AGAIN) from error
    return network.eval().requires_grad_(False), metadata
