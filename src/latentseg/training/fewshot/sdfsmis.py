"""Training SD-FSMIS on a frozen backbone: batched episodes, the paper's latent loss and a loss on the mask.

The latent loss alone weighs all channels and cells alike, so that an empty mask costs little where the organ
is small. Cross-entropy and Dice on the mask, through the light mask head, make a small organ count as much as
a large one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from pydantic import BaseModel
from torch import Tensor, nn

from latentseg.backbones.compact import UNET_CONFIG, CompactBackbone, MaskHead
from latentseg.backbones.image_features import load_feature_network
from latentseg.backbones.weights import start_from
from latentseg.methods.fewshot import matching as prior
from latentseg.methods.fewshot import matching_features
from latentseg.methods.fewshot.matching_features import MatchingFeatures
from latentseg.methods.sdfsmis import checkpoint
from latentseg.methods.sdfsmis.condition import ConditionTranslator, masked_features
from latentseg.methods.sdfsmis.mask_decoding import mask_images
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import enhance, prototypes
from latentseg.training.fewshot.episodes import EpisodeBatch, EpisodeOptions, Episodes
from latentseg.training.fewshot.losses import dice_where_present, entropy, matching, soft_dice
from latentseg.training.fewshot.matching import episode_prior
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.pack import Pack


class FewShotOptions(BaseModel, extra="forbid", frozen=True):
    """A training of the few-shot network, as read from YAML.

    Attributes:
        latent: Weight of the paper's loss, the squared error of the mask latent; cells that the target
            touches weigh ``foreground`` times as much as others.
        mask: Weight of cross-entropy plus Dice of the mask.
        matching: Weight of the cross-entropy of what attention alone carries over, see :mod:`losses`.
        foreground: How much more the target weighs than what is beside it, in both losses; without it the
            first thing that is learned is to answer nothing.
        start: From the backbone's pretrained ``denoiser``, as published; or by ``matching`` alone, see
            :func:`start_by_matching`.
        prior: Whether queries come with a matching prior, see :mod:`prior`.
        easy: Share of the steps over which episodes grow from the support's own slice to full difficulty.
    """

    loop: LoopOptions
    episodes: EpisodeOptions = EpisodeOptions()
    latent: float = 1.0
    mask: float = 0.5
    matching: float = 1.0
    foreground: float = 6.0
    start: Literal["denoiser", "matching"] = "denoiser"
    prior: bool = True
    easy: float = 0.25


class FewShotModel(nn.Module):
    """Everything that is trained: the two-entrance UNet, the condition translator and the mask head."""

    def __init__(self, unet: FewShotUNet, head: MaskHead, *, condition_features: int) -> None:
        super().__init__()
        self.unet = unet
        self.translator = ConditionTranslator(condition_features, unet.condition_dim)
        self.mask_head = MaskHead()
        self.mask_head.load_state_dict(head.state_dict())

    def forward(self, inputs: Inputs, matches: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Mask latents of all queries, ``(G * Q, C, h, w)``."""
        groups = torch.arange(len(inputs.support), device=inputs.support.device)
        group = groups.repeat_interleave(len(inputs.query) // len(inputs.support))
        condition = self.translator(inputs.condition)
        cache = self.unet.encode_support(torch.cat([inputs.support, inputs.support_mask], 1), condition)
        x = torch.cat([enhance(inputs.query, inputs.fg, inputs.bg, group=group), inputs.prior], 1)
        return self.unet.segment(x, cache, group=group, matches=matches)


def initial_unet(options: FewShotOptions, backbone: CompactBackbone) -> FewShotUNet:
    """The network before training.

    Raises:
        ModelError: The backbone has no denoiser to start from.
    """
    channels = prior.CHANNELS if options.prior else 0
    if options.start == "denoiser":
        return FewShotUNet.from_denoiser(backbone.unet, prior=channels).requires_grad_(requires_grad=True)
    network = FewShotUNet.from_denoiser(UNet2DConditionModel(**UNET_CONFIG), prior=channels)
    start_by_matching(network)
    return network


@torch.no_grad()
def start_by_matching(network: FewShotUNet, *, gain: float = 1.6) -> None:
    """Initial weights for a network without a pretrained denoiser, whose attention cannot match anything yet.

    Keys start equal to queries, so that attention begins as similarity of content; ``gain`` makes it
    selective. Both entrances see images alike, and masks and prototypes through filters of their own.
    """
    for module in network.unet.modules():
        if isinstance(module, Attention) and module.to_q.weight.shape == module.to_k.weight.shape:
            module.to_q.weight.mul_(gain)
            module.to_k.weight.copy_(module.to_q.weight)
    channels = network.conv_in_ref.in_channels // 2
    nn.init.kaiming_uniform_(network.conv_in.weight, a=5**0.5)
    nn.init.kaiming_uniform_(network.conv_in_ref.weight, a=5**0.5)
    network.conv_in_ref.weight[:, :channels] = network.conv_in.weight[:, :channels]


class Inputs(NamedTuple):
    """A batch in latent space: ``G`` supports and ``G * Q`` queries."""

    support: Tensor  # (G, C, h, w)
    support_mask: Tensor  # (G, C, h, w)
    query: Tensor  # (G * Q, C, h, w)
    fg: Tensor  # (G, C)
    bg: Tensor  # (G, C)
    condition: Tensor  # (G, 1, features)
    query_mask: Tensor  # (G * Q, C, h, w)
    prior: Tensor  # (G * Q, 3, h, w), or without channels


class FewShotTask(Task[FewShotModel]):
    """What the loop trains."""

    counted = "query_masks"

    def __init__(
        self,
        options: FewShotOptions,
        packed: Pack,
        backbone: CompactBackbone,
        matching: MatchingFeatures | None = None,
    ) -> None:
        self.options, self.backbone = options, backbone
        self.episodes = Episodes(packed, options.episodes)
        self.matching = matching
        self.frozen_networks = [backbone, matching] if matching else [backbone]
        unet = initial_unet(options, backbone)
        self.model = FewShotModel(
            unet, backbone.mask_head, condition_features=int(backbone.vae.config["block_out_channels"][-1])
        )

    def batch(self, rng: np.random.Generator, progress: float) -> EpisodeBatch:
        """Draw one batch of episodes."""
        return self.episodes.draw(rng, ease=max(0.0, 1 - progress / self.options.easy))

    def loss(self, batch: EpisodeBatch) -> tuple[Tensor, dict[str, float]]:
        """Latent, mask and matching loss, and the Dice of targets that are there."""
        inputs, foreground = self.encode(batch), self.options.foreground
        matches: list[tuple[Tensor, Tensor]] = []
        latents = self.model(inputs, matches)
        logits = self.model.mask_head(latents)[:, 0]
        if self.matching:
            logits = logits + prior.prior_logits(inputs.prior, logits.shape[-1])[:, 0]
        truth = batch.query_masks
        cells = F.adaptive_max_pool2d(truth[:, None], latents.shape[-2:])
        error = (latents - inputs.query_mask).square() * (1 + (foreground - 1) * cells)
        latent = error.mean()
        overlap = soft_dice(logits.sigmoid(), truth)
        present = (truth.sum((1, 2)) >= 20).float()
        mask = (2 * entropy(logits, truth, foreground=foreground) + present * (1 - overlap)).mean()
        shown = batch.support_masks.repeat_interleave(len(truth) // len(batch.support_masks), 0)
        match = matching(matches, shown, truth, foreground=foreground)
        dice = dice_where_present(logits > 0, truth, present)
        total = self.options.latent * latent + self.options.mask * mask + self.options.matching * match
        figures = {"latent": latent, "mask": mask, "matching": match}
        return total, {name: float(value.detach()) for name, value in figures.items()} | {"dice": dice}

    @torch.no_grad()
    def encode(self, batch: EpisodeBatch) -> Inputs:
        """Frozen part of a step: latents, prototypes and condition features."""
        targets = len(batch.support_masks) // len(batch.support_images)
        queries = len(batch.query_images) // len(batch.support_images)
        images = torch.cat([batch.support_images, batch.query_images])
        latents, stages = self.backbone.encode_with_features(images)
        support, query = latents.split([len(batch.support_images), len(batch.query_images)])
        support = support.repeat_interleave(targets, 0)
        stage = stages[-1][: len(batch.support_images)].repeat_interleave(targets, 0)
        mask_latents = self.backbone.encode(mask_images(torch.cat([batch.support_masks, batch.query_masks])))
        per_target = query.unflatten(0, (-1, 1, queries)).expand(-1, targets, -1, -1, -1, -1).flatten(0, 2)
        fg, bg = prototypes(support, batch.support_masks)
        return Inputs(
            support,
            mask_latents[: len(support)],
            per_target,
            fg,
            bg,
            masked_features(stage, batch.support_masks),
            mask_latents[len(support) :],
            self._prior(batch),
        )

    def _prior(self, batch: EpisodeBatch) -> Tensor:
        """The matching prior of every query for each of its targets."""
        if self.matching is None:
            grid = batch.query_images.shape[-1] // self.backbone.downscale
            return batch.query_images.new_zeros(len(batch.query_masks), 0, grid, grid)
        return episode_prior(self.matching, batch)

    def export(self, model: FewShotModel, folder: Path) -> None:
        """Write ``fewshot.safetensors``."""
        weights = checkpoint.FewShotWeights(
            model.unet, model.translator, {"backbone": self.backbone.name}, dict(model.mask_head.state_dict())
        )
        checkpoint.save(folder / "fewshot.safetensors", weights=weights)
        if self.matching:
            matching_features.save(self.matching, folder / "matching.safetensors")


def build(
    options: FewShotOptions,
    packed: Pack,
    backbone: CompactBackbone,
    *,
    weights: Path | None = None,
    matching: Path | None = None,
) -> FewShotTask:
    """The task of a configuration; the seed of the loop also seeds the initial weights.

    Args:
        options: See :class:`FewShotOptions`.
        packed: Slices with labels and supervoxels.
        backbone: Frozen.
        weights: Few-shot weights to start from instead, trained on the same backbone.
        matching: Features of the prior, from ``latentseg train matching``; None takes them untrained.

    Raises:
        ModelError: The weights, or the backbone's denoiser, are missing, damaged or do not fit.
    """
    torch.manual_seed(options.loop.seed)
    grid = packed.images.shape[1] // backbone.downscale
    features = matching_features.load(matching, grid=grid) if matching else None
    if options.prior and features is None:
        features = MatchingFeatures(load_feature_network(), grid=grid)
    task = FewShotTask(options, packed, backbone, features if options.prior else None)
    if weights:
        go_on_from(task.model, weights)
    return task


def go_on_from(model: FewShotModel, path: Path) -> None:
    """Take over trained weights; an entrance for a prior that they lack starts without effect.

    Raises:
        ModelError: They are missing, damaged or do not fit.
    """
    trained = checkpoint.load(path)
    state = trained.network.state_dict()
    missing = model.unet.conv_in.in_channels - trained.network.conv_in.in_channels
    state["conv_in.weight"] = F.pad(state["conv_in.weight"], (0, 0, 0, 0, 0, max(missing, 0)))
    parts = {
        model.unet: state,
        model.translator: trained.translator.state_dict(),
        model.mask_head: trained.mask_head,
    }
    for module, tensors in parts.items():
        start_from(module, tensors, where=path)
