"""Training the adapter of the matching features on episodes, by the very prior that they serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from latentseg.backbones.image_features import load_feature_network
from latentseg.methods.fewshot import matching as prior
from latentseg.methods.fewshot import matching_features
from latentseg.methods.fewshot.matching_features import MatchingAdapter, MatchingFeatures
from latentseg.training.fewshot.episodes import EpisodeBatch, EpisodeOptions, Episodes
from latentseg.training.fewshot.losses import dice_where_present, entropy, soft_dice
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.pack import Pack

DOWNSCALE = 8  # edge of a cell in pixels


class MatchingOptions(BaseModel, extra="forbid", frozen=True):
    """A training of the matching adapter, as read from YAML.

    Attributes:
        width: Of the adapter's hidden layers.
        foreground: How much more cells of the target weigh than those beside it.
        dice: Weight of the Dice loss beside the cross-entropy.
    """

    loop: LoopOptions
    episodes: EpisodeOptions = EpisodeOptions()
    width: int = 128
    foreground: float = 3.0
    dice: float = 0.3


class MatchingTask(Task[MatchingAdapter]):
    """What the loop trains."""

    counted = "query_masks"

    def __init__(self, options: MatchingOptions, packed: Pack) -> None:
        torch.manual_seed(options.loop.seed)
        self.options = options
        self.episodes = Episodes(packed, options.episodes)
        network = load_feature_network()
        self.model = MatchingAdapter(matching_features.width_of(network), options.width)
        self.features = MatchingFeatures(network, self.model, grid=packed.images.shape[1] // DOWNSCALE)
        self.frozen_networks = [self.features]

    def batch(self, rng: np.random.Generator, progress: float) -> EpisodeBatch:  # noqa: ARG002
        """Draw one batch of episodes."""
        return self.episodes.draw(rng)

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy and Dice of the margins with and without distance, each as if it were the answer."""
        margins = episode_prior(self.features, batch)[:, :2]
        truth = F.adaptive_avg_pool2d(batch.query_masks[:, None], margins.shape[-1])[:, 0]
        present = (truth.sum((1, 2)) > 2).float()
        losses = []
        for margin in margins.unbind(1):
            logits = prior.VOTE * margin
            overlap = soft_dice(logits.sigmoid(), truth)
            missed = present * (1 - overlap)
            losses.append(
                entropy(logits, truth, foreground=self.options.foreground) + self.options.dice * missed
            )
        return torch.stack(losses).mean(), {
            "dice": dice_where_present(margins[:, 1] > 0, truth > 0.5, present)
        }

    def export(self, model: MatchingAdapter, folder: Path) -> None:
        """Write ``matching.safetensors``."""
        trained = MatchingFeatures(self.features.network, model)
        matching_features.save(trained, folder / "matching.safetensors")


def episode_prior(features: MatchingFeatures, batch: EpisodeBatch) -> Tensor:
    """The matching prior ``(P * T * Q, 3, h, w)`` of every query for each of its scene's targets."""
    scenes = len(batch.support_images)
    targets, queries = len(batch.support_masks) // scenes, len(batch.query_images) // scenes
    shown, asked = features(torch.cat([batch.support_images, batch.query_images])).split(
        [scenes, scenes * queries]
    )
    support = prior.MatchingSupport.of(shown.repeat_interleave(targets, 0), batch.support_masks)
    per_target = asked.unflatten(0, (-1, 1, queries)).expand(-1, targets, -1, -1, -1, -1).flatten(0, 2)
    group = torch.arange(scenes * targets, device=asked.device).repeat_interleave(queries)
    return prior.matching_prior(per_target, support, group=group)
