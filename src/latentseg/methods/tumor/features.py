"""What the trained parts look at: frozen features, from fine to coarse.

Secondhand of the paper are three stages of the autoencoder's encoder. Beside them, each an option of ours:
stages of the denoiser's decoder, which sees the whole slice; stages of a small network for photographs,
which knows textures; and the slice itself, folded to half its size, which knows where a border runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from latentseg.backbones.base import Backbone, TakesVolumes
from latentseg.errors import ModelError
from latentseg.methods.diffugts.adapters import stages_of

if TYPE_CHECKING:
    from latentseg.backbones.image_features import FeatureNetwork


class TumorConfig(BaseModel):
    """What the trained parts look at, and how wide they are.

    Attributes:
        stages: Indices of the backbone's features (:meth:`Backbone.features`).
        timestep: At which the denoiser's features are read, without which there are the encoder's alone. The
            encoder sees 11 to 65 voxels and no organ.
        photographs: Indices of the maps of the network for photographs
            (:meth:`~latentseg.backbones.image_features.FeatureNetwork.maps`); none of a 3-D backbone.
        fold: Whether the slice itself is a stage, at half its size.
        cell: Pixels along the edge of a cell of the finest grid; finer stages are pooled to it.
        ratio: Share of the adapters in the features.
        pyramid: Channels in which levels are merged from coarse to fine before they attend; 0 lets every
            stage attend by itself, as the paper is known to.
        beside: Share of the image's edge, beside an organ, in which a tumor of it may lie as well, by organ;
            of others :data:`~latentseg.methods.tumor.organs.BESIDE`.
        around: Whether organs are told by the slices above and below as well, of 2-D backbones.
        lesions: Share that lesions told with the organs have in the map of a tumor, by organ; of other
            organs none. Left empty, lesions are not told.
        judged: Whether more than the map makes the anomaly score of a slice.
        text_dim: Length of the text embeddings.
        projected: Channels of the latents, whose change is projected for the feature residual; 0 leaves the
            projector out.
        soft: Factor and shift of the log-odds by which the cut of highest expected Dice is found; without it
            maps are cut at a share of their peak.
        level: That share, where another was chosen for these weights than that of
            :class:`~latentseg.methods.tumor.options.TumorOptions`.
        negative: Whether tumors of soft tissue are looked for in the negative of a CT
            (:mod:`latentseg.methods.tumor.negative`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: tuple[int, ...] = (1, 2, 4)
    timestep: int | None = None
    photographs: tuple[int, ...] = (1, 2, 3, 4)
    fold: bool = True
    cell: int = 4
    ratio: float = 0.5
    pyramid: int = 32
    beside: dict[str, float] = {}
    around: bool = False
    lesions: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    judged: bool = True
    text_dim: int = 384
    projected: int = 0
    soft: tuple[float, float] | None = None
    level: Annotated[float, Field(ge=0.1, le=0.5)] | None = None
    negative: bool = False


PAPER_NETWORK = TumorConfig(
    stages=(0, 1, 2), photographs=(), fold=False, cell=2, ratio=0.1, pyramid=0, projected=4
)
"""As known secondhand: three stages of MAISI's encoder, adapters, attention by levels, a projector."""


@dataclass(frozen=True, eq=False)
class FrozenStages:
    """The stages of images, finest first.

    Attributes:
        backbone: Frozen; with a denoiser where its features are asked for.
        config: Which stages.
        photographs: Frozen, where its maps are asked for.
    """

    backbone: Backbone
    config: TumorConfig
    photographs: FeatureNetwork | None = None

    def __post_init__(self) -> None:
        if self.config.photographs and self.photographs is None:
            fix = "put the matching.safetensors of the compact model beside it"
            raise ModelError("the features of photographs are missing", where=self.backbone.name, fix=fix)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """``[(B, C_l, ...)]`` of images ``(B, 1, ...)`` in [-1, 1]."""
        return self.with_latents(images)[0]

    @torch.no_grad()
    def with_latents(self, images: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The same, and of volumes the latents, which come along without the denoiser's features."""
        config, images, latents = self.config, images.to(self.backbone.device), None
        stages = [folded(images)] if config.fold else []
        if config.stages and config.timestep is None and isinstance(self.backbone, TakesVolumes):
            latents, found = self.backbone.encode_with_features(images)
        else:
            found = self.backbone.features(images, timestep=config.timestep) if config.stages else []
        stages += [found[index] for index in config.stages]
        if self.photographs is not None and config.photographs:
            maps = self.photographs.maps(images)
            stages += [maps[index] for index in config.photographs]
        grid = [edge // config.cell for edge in images.shape[2:]]
        pooled = stages_of(stages, range(len(stages)), grid=grid)
        return sorted(pooled, key=lambda stage: -stage.shape[2]), latents

    def channels(self) -> tuple[tuple[int, ...], ...]:
        """Widths of the stages by level, finest first: for a pyramid those of one grid, else each alone."""
        edge = 8 * self.backbone.downscale
        stages = self(torch.zeros(1, 1, *[edge] * self.backbone.dims))
        levels = levels_of(stages) if self.config.pyramid else [[stage] for stage in stages]
        return tuple(tuple(stage.shape[1] for stage in level) for level in levels)


def folded(images: Tensor) -> Tensor:
    """Images ``(B, 1, ...)`` at half their size, the pixels of a cell as channels."""
    if images.ndim == 4:
        return F.pixel_unshuffle(images, 2)
    cells = images.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2)  # (B, 1, d, h, w, 2, 2, 2)
    return cells[:, 0].flatten(4).movedim(-1, 1)


def levels_of(stages: Sequence[Tensor]) -> list[list[Tensor]]:
    """Stages, finest first, by grid."""
    levels: list[list[Tensor]] = []
    for stage in stages:
        if levels and levels[-1][0].shape[2:] == stage.shape[2:]:
            levels[-1].append(stage)
        else:
            levels.append([stage])
    return levels
