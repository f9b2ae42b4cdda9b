"""The visual-to-textual condition translator (VTCT), which turns the support into a condition token.

The features of a frozen network are averaged over the support's mask, and an MLP maps the mean to the space
of the denoiser's text condition (SD-FSMIS, "Visual-to-Textual Condition Translator").
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentseg.backbones.base import Backbone
from latentseg.backbones.grids import on_grid
from latentseg.errors import ModelError
from latentseg.methods.sdfsmis.compat import Compat

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
DINO_SIZE = 224  # pixels; 16 x 16 patches of 14


class ConditionTranslator(nn.Module):
    """``Linear, LayerNorm, GELU`` times ``1 + layers``, then ``Linear``; each token is translated alone.

    Args:
        input_dim: Width of the features.
        output_dim: ``D``, width of a condition token.
        hidden_dim: Width of the hidden layers; twice the input when left out.
        layers: Hidden layers after the first. The state-dict keys are those of the release,
            ``mlp.{0,1,3,4,...}``.
    """

    def __init__(
        self, input_dim: int, output_dim: int, *, hidden_dim: int | None = None, layers: int = 2
    ) -> None:
        super().__init__()
        hidden = hidden_dim or 2 * input_dim
        widths = [input_dim, *[hidden] * (1 + layers)]
        steps = [(nn.Linear(a, b), nn.LayerNorm(b), nn.GELU()) for a, b in pairwise(widths)]
        self.mlp = nn.Sequential(*[m for step in steps for m in step], nn.Linear(hidden, output_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Translate ``(G, T, input_dim)`` to condition tokens ``(G, T, D)``."""
        out: Tensor = self.mlp(features)
        return out


class FeatureSource(Protocol):
    """Frozen features for the condition.

    Attributes:
        dim: Number of feature channels.
    """

    dim: int

    def __call__(self, images: Tensor, *, compat: Compat = "fixed") -> Tensor:
        """Features ``(N, dim, g, g)`` of images ``(N, 1, H, W)`` in [-1, 1]."""


class DinoFeatures:
    """Patch tokens of DINOv2, of the central crop (``official``) or of the whole image (``fixed``).

    Args:
        model: A ``Dinov2Model`` of transformers.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.dim = int(model.config.hidden_size)

    @classmethod
    def from_folder(cls, path: str | Path) -> DinoFeatures:
        """Load a folder of ``save_pretrained``; the library renames the keys of its older versions.

        Raises:
            ModelError: When the folder holds no complete DINOv2.
        """
        from transformers import Dinov2Model

        if not Path(path).is_dir():
            fix = "give the folder of DINOv2, or run `latentseg models pull dinov2-base`"
            raise ModelError("there is no such folder of DINOv2", where=str(path), fix=fix)
        try:
            model, info = Dinov2Model.from_pretrained(path, local_files_only=True, output_loading_info=True)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"cannot load DINOv2 ({reason})", where=str(path), fix="download it again"
            ) from error
        if info["missing_keys"]:
            raise ModelError(f"{len(info['missing_keys'])} tensors of DINOv2 are missing", where=str(path))
        return cls(model)

    def to(self, device: torch.device) -> DinoFeatures:
        """Move the network to a device; images are moved along when they are used."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor, *, compat: Compat = "fixed") -> Tensor:
        """Features ``(N, dim, 16, 16)`` of images ``(N, 1, H, W)`` in [-1, 1]."""
        x = preprocess_for_dino(images, compat=compat)
        parameter = next(self.model.parameters())
        tokens: Tensor = self.model(x.to(parameter)).last_hidden_state[:, 1:].float()
        side = DINO_SIZE // int(self.model.config.patch_size)
        grid: Tensor = tokens.transpose(1, 2).unflatten(2, (side, side))
        return grid


class BackboneFeatures:
    """The features of the backbone itself, all stages on one grid; no further network is needed.

    Args:
        backbone: Any 2-D backbone.
        stages: Which of its feature stages are used, finest first; all when left out.
        grid: Edge of the common grid.
    """

    def __init__(self, backbone: Backbone, *, stages: Sequence[int] | None = None, grid: int = 32) -> None:
        self.backbone, self.stages, self.grid = backbone, stages, grid
        probe = torch.zeros(1, 1, backbone.image_size, backbone.image_size)
        self.dim = self(probe).shape[1]

    @torch.no_grad()
    def __call__(self, images: Tensor, *, compat: Compat = "fixed") -> Tensor:  # noqa: ARG002 - one way only
        """Features ``(N, dim, grid, grid)``: finer stages pooled by area, coarser ones interpolated."""
        return self.joined(self.backbone.features(images))

    def joined(self, stages: Sequence[Tensor]) -> Tensor:
        """The chosen stages of the backbone's features, on one grid."""
        chosen = stages if self.stages is None else [stages[i] for i in self.stages]
        return torch.cat([on_grid(f, self.grid) for f in chosen], 1)


def latents_and_features(
    backbone: Backbone, source: FeatureSource, images: Tensor, *, compat: Compat
) -> tuple[Tensor, Tensor]:
    """Latents ``(N, C, h, w)`` and condition features ``(N, dim, g, g)`` of images ``(N, 1, H, W)``.

    Where the features are the backbone's own, one pass through its encoder gives both.
    """
    if isinstance(source, BackboneFeatures) and source.backbone is backbone:
        latents, stages = backbone.encode_with_features(images)
        return latents, source.joined(stages)
    latents = backbone.encode(images)
    return latents, source(images, compat=compat).to(latents.device)


def preprocess_for_dino(images: Tensor, *, compat: Compat) -> Tensor:
    """Images ``(N, 1, H, W)`` in [-1, 1] to normalized RGB ``(N, 3, 224, 224)``.

    ``official``: eight-bit truncation, then the centre 224 pixels of 256 (what the processor of the release
    amounts to at 256 pixels); ``fixed``: the whole image, resized.
    """
    x = (images + 1) / 2
    if compat == "official":
        x = (x * 255).clamp(0, 255).floor() / 255
        top, left = (x.shape[-2] - DINO_SIZE) // 2, (x.shape[-1] - DINO_SIZE) // 2
        x = x[..., top : top + DINO_SIZE, left : left + DINO_SIZE]
    else:
        x = functional.interpolate(x, size=(DINO_SIZE, DINO_SIZE), mode="bilinear", antialias=True)
    mean, std = (x.new_tensor(s).view(1, 3, 1, 1) for s in (IMAGENET_MEAN, IMAGENET_STD))
    return (x.expand(-1, 3, -1, -1) - mean) / std


def masked_features(features: Tensor, masks: Tensor, *, shots: int = 1, compat: Compat = "fixed") -> Tensor:
    """Mean features of the foreground of the supports, the input of the translator.

    Args:
        features: ``(G * n, dim, g, g)``.
        masks: ``(G * n, H, W)`` in {0, 1}.
        shots: ``n``; means over the shots of a group are taken after the means over pixels.
        compat: How masks reach the feature grid.

    Returns:
        ``(G, 1, dim)``, one token for each group.
    """
    weight = region_weight(masks, features.shape[-1], compat=compat)[:, None].to(features.dtype)
    mean = (features * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-6)
    grouped: Tensor = mean.unflatten(0, (-1, shots)).mean(1, keepdim=True)
    return grouped


def region_weight(masks: Tensor, grid: int, *, compat: Compat) -> Tensor:
    """Weights ``(N, g, g)`` of a region ``(N, H, W)`` on the feature grid.

    ``official``: cells whose bilinear sample is above one half, possibly none. ``fixed``: cells of which the
    region covers at least half; where no cell is, as for a small organ, each cell by the area that is
    covered.
    """
    m = masks.float()[:, None]
    if compat == "official":
        return (functional.interpolate(m, size=(grid, grid), mode="bilinear") > 0.5).float()[:, 0]
    area = functional.adaptive_avg_pool2d(m, grid)[:, 0]
    half = (area >= 0.5).float()
    return torch.where(half.any(2).any(1)[:, None, None], half, area)
