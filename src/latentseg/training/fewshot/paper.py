"""Training SD-FSMIS as published: one loss, the squared error of the mask's latent, on adjacent pairs.

    target = sample E(query mask);  loss = mean (UNet(...) + target)^2

All of the denoiser and the condition translator are trained, at two learning rates; the autoencoder and the
features are frozen. Everything is by the released rules (``official``), so that trained weights mean the same
to the released code. The compact training with further losses is :mod:`.sdfsmis`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D
from pydantic import BaseModel, Field
from torch import Tensor, nn

from latentseg.backbones.device import free_bytes
from latentseg.errors import MemoryLimitError, ModelError
from latentseg.methods.sdfsmis import checkpoint
from latentseg.methods.sdfsmis.condition import ConditionTranslator, DinoFeatures, masked_features
from latentseg.methods.sdfsmis.interaction import SupportQueryInteraction
from latentseg.methods.sdfsmis.mask_decoding import mask_images
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.query_enhancement import Rule, enhance, prototypes
from latentseg.methods.sdfsmis.released_layout import save_released
from latentseg.training.fewshot.frozen import FrozenParts
from latentseg.training.fewshot.pairs import PairBatch, PairOptions, Pairs, Supervision
from latentseg.training.loop import LoopOptions, Task
from latentseg.training.optimizer import Group
from latentseg.training.pack import Pack

GIB = 1024**3
BYTES_OF = {"adamw": 16, "adamw8bit": 10}  # of a trained parameter: weight, gradient, two moments


class PaperOptions(BaseModel, extra="forbid", frozen=True):
    """A training as published, as read from YAML; the defaults are those of the release.

    Attributes:
        translator_factor: Learning rate of the condition translator, in units of the UNet's.
        batch: Episodes of a piece of a step, see ``loop.pieces``.
        supervision: ``labels`` as the released code has it, ``supervoxels`` as the paper says.
        unseen: Labelled structures that are never shown.
        min_area: Fewest pixels of a class in the larger of two adjacent slices.
        augment: Whether pairs are augmented as released.
        intensities: Of scans, in training and evaluation: ``range`` takes the smallest and the largest value
            to -1 and 1, as released; ``percentiles`` is what is done everywhere else here.
        query_enhancement: ``probability`` as released, ``cosine`` as the paper says.
        supports: At evaluation each chunk is shown ``one`` support slice, or ``all`` three as released.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
        mask_head: How a light decoder of mask latents is trained beside, distilled from the autoencoder's,
            for faster masks; nothing trains none. The rules of the release never use it.
        compile: Compile the convolutions and feed-forward layers (``torch.compile``); pays off on a GPU.
    """

    loop: LoopOptions
    translator_factor: float = Field(5.0, gt=0)
    batch: int = Field(1, gt=0)
    supervision: Supervision = "labels"
    unseen: tuple[str, ...] = ("liver", "spleen")
    min_area: int = Field(200, gt=0)
    augment: bool = True
    intensities: Literal["range", "percentiles"] = "range"
    query_enhancement: Rule = "probability"
    supports: Literal["one", "all"] = "all"
    mask_head: LoopOptions | None = None
    checkpointing: bool = False
    compile: bool = False

    @property
    def pairs(self) -> PairOptions:
        """How episodes are drawn."""
        return PairOptions(self.supervision, self.unseen, self.min_area, self.augment)


class PaperModel(nn.Module):
    """What is trained: the UNet with two entrances and the condition translator.

    Args:
        parts: The denoiser is copied, and the translator is made for its features.
    """

    def __init__(self, parts: FrozenParts) -> None:
        super().__init__()
        self.unet = FewShotUNet.from_denoiser(parts.denoiser).requires_grad_(requires_grad=True)
        self.translator = ConditionTranslator(parts.features.dim, self.unet.condition_dim)

    def save_memory(self) -> None:
        """Compute activations again in the backward pass.

        The support pass then runs to its end: the signal that cuts it short must not leave a block whose
        activations are computed again.
        """
        self.unet.unet.enable_gradient_checkpointing()
        for processor in self.unet.unet.attn_processors.values():
            if isinstance(processor, SupportQueryInteraction):
                processor.last = False

    def compile_blocks(self) -> None:
        """Compile what lies between the attentions; names of the state stay."""
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D | FeedForward):
                module.compile()


class PaperTask(Task[PaperModel]):
    """What the loop trains.

    Args:
        options: See :class:`PaperOptions`.
        packed: All scans of a data set.
        usable: By case, the slices that may be shown.
        parts: The frozen side.

    Raises:
        InputError: The pack has no pairs of the kind that is asked for.
    """

    counted = "query_masks"

    def __init__(
        self,
        options: PaperOptions,
        packed: Pack,
        usable: Mapping[str, Collection[int]],
        parts: FrozenParts,
    ) -> None:
        torch.manual_seed(options.loop.seed)
        self.options, self.parts = options, parts
        self.frozen_networks = [parts]
        self.pairs = Pairs(packed, usable, options.pairs)
        self.model = PaperModel(parts)
        if options.checkpointing:
            self.model.save_memory()
        if options.compile:
            self.model.compile_blocks()

    def groups(self) -> list[Group]:
        """The UNet at the loop's rate, the translator at its own."""
        translator = Group(list(self.model.translator.parameters()), self.options.translator_factor)
        return [Group(list(self.model.unet.parameters())), translator]

    def to(self, device: torch.device) -> None:
        """Move the trained and the frozen networks.

        Raises:
            MemoryLimitError: They do not fit.
        """
        check_memory(self.model, self.options, device=device)
        super().to(device)

    def batch(self, rng: np.random.Generator, progress: float) -> PairBatch:  # noqa: ARG002
        """Draw the episodes of one piece of a step."""
        return self.pairs.draw(rng, self.options.batch)

    def loss(self, batch: PairBatch) -> tuple[Tensor, dict[str, float]]:
        """The squared error of the mask's latent."""
        support, support_mask, query, target = self._latents(batch)
        features = self.parts.features(batch.support_images, compat="official").to(support.device)
        tokens = self.model.translator(masked_features(features, batch.support_masks, compat="official"))
        cache = self.model.unet.encode_support(torch.cat([support, support_mask], 1), tokens)
        known = prototypes(support, batch.support_masks, compat="official")
        rule = self.options.query_enhancement
        x = enhance(query, *known, compat="official", rule=rule)
        return F.mse_loss(self.model.unet.segment(x, cache), target), {}

    def _latents(self, batch: PairBatch) -> list[Tensor]:
        """Samples of support, its mask, query and its mask, each ``(B, C, h, w)``, from one pass."""
        images = [
            batch.support_images,
            mask_images(batch.support_masks),
            batch.query_images,
            mask_images(batch.query_masks),
        ]
        return list(self.parts.sample(torch.cat(images)).chunk(4))

    def export(self, model: PaperModel, folder: Path) -> None:
        """Write what users load: the released layout, or one file for ``compact``."""
        rule = {"query_enhancement": self.options.query_enhancement, "intensities": self.options.intensities}
        metadata = {"backbone": self.parts.name, **rule, "supervision": self.options.supervision}
        weights = checkpoint.FewShotWeights(model.unet, model.translator, metadata, self.parts.mask_head)
        if isinstance(self.parts.features, DinoFeatures):
            save_released(folder / "released", weights=weights, dino=self.parts.features.model)
        else:
            checkpoint.save(folder / "fewshot.safetensors", weights=weights, dtype=torch.float32)


def exported(folder: Path) -> Path:
    """Where :meth:`PaperTask.export` has put weights: a file or a folder.

    Raises:
        ModelError: Nowhere.
    """
    for name in ("released", "fewshot.safetensors"):
        if (folder / name).exists():
            return folder / name
    raise ModelError("no exported weights", where=str(folder), fix="run the step `export` first")


def load_trained(model: PaperModel, path: Path, *, steps: int) -> int:
    """Take over the weights of a checkpoint; returns the step it was taken at.

    Raises:
        ModelError: There is none, it is damaged or does not fit, or it is of an unfinished training.
    """
    if not path.is_file():
        raise ModelError("no checkpoint", where=str(path), fix="run the step `train` first")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        model.load_state_dict(state["average"] or state["model"])
        step = int(state["step"])
    except Exception as error:  # zip, pickle, key and shape errors alike
        what = f"the checkpoint is damaged or does not fit ({str(error).splitlines()[0][:120]})"
        raise ModelError(what, where=str(path), fix="train again in another folder") from error
    if step < steps:
        what = f"the training has taken {step} of {steps} steps"
        raise ModelError(what, where=str(path), fix="run the step `train` to its end first")
    return step


def check_memory(model: nn.Module, options: PaperOptions, *, device: torch.device) -> None:
    """Notice before the start that weights, gradients and moments do not fit, activations aside.

    Raises:
        MemoryLimitError: They do not.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    needed = trained * BYTES_OF[options.loop.optimizer] + (4 * trained if options.loop.ema else 0)
    free = free_bytes(str(device))
    if needed > free:
        what = f"the training takes {math.ceil(needed / GIB)} GiB before the first slice"
        fix = "set loop.optimizer to adamw8bit and loop.ema to 0, or take a larger machine"
        raise MemoryLimitError(f"{what}, and {free / GIB:.1f} GiB are free", where=str(device), fix=fix)
