"""Training DiffuGTS on a frozen 3-D backbone: attention maps, organs, calibration, projector.

Features are computed on the fly, block by block: kept for all blocks they would fill a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from latentseg.backbones.base import TakesVolumes
from latentseg.errors import InputError, ModelError
from latentseg.imaging.files import write_file
from latentseg.methods.diffugts.attention_maps import AnomalyAttention, AttentionMaps
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.methods.tumor import network as files
from latentseg.methods.tumor.features import PAPER_NETWORK, FrozenStages, TumorConfig
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.organs import FIELD_MM
from latentseg.methods.tumor.queries import Queries
from latentseg.training.loop import LoopOptions, Task, trained
from latentseg.training.tumor.blocks import Block, BlockOptions, Blocks, backbone_for, organ_of
from latentseg.training.tumor.diffugts import AttentionBatch, attention_loss
from latentseg.training.tumor.residual_learning import ResidualTask
from latentseg.training.tumor.volume_organs import OrganBlocks, VolumeOrganTask
from latentseg.training.tumor.volumes import TumorFolder

Condition = Callable[[Sequence[str]], Tensor]
MIRRORED = 0.5  # of the blocks


class VolumeTrainingOptions(BaseModel):
    """A training of the tumor networks on volumes, as read from YAML.

    Attributes:
        loop: Of the attention maps.
        residual_loop: Of the projector.
        organ_loop: Of the organs, where a data set has labels of some.
        network: What they look at.
        data: Data sets, each a folder in the layout of nnU-Net.
        blocks: What is cut from them.
        batch: Blocks per step.
        pixel: Weight of L_dice (and focal loss).
        image: Weight of L_ano.
        text: Weight of L_sim.
        unmasked: Share of the blocks of which only is known whether something is there.
        healthy_count: Healthy blocks by which the anomaly score is calibrated; 0 leaves it as trained.
        false_alarms: Share of them that may still be suspected.
        residual_count: Blocks that are inpainted for the training of the projector.
        inpainting_steps: Of each of them.
        text_encoder: A folder or hub name of transformers, such as ``emilyalsentzer/Bio_ClinicalBERT``; the
            embedded MiniLM where it is left out.
        text_pooling: ``mean`` of the tokens, or the ``first`` (Bio_ClinicalBERT secondhand, SapBERT).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopOptions
    residual_loop: LoopOptions
    organ_loop: LoopOptions | None = None
    network: TumorConfig = PAPER_NETWORK
    data: tuple[TumorFolder, ...] = ()
    blocks: BlockOptions = BlockOptions()
    batch: int = Field(1, gt=0)
    pixel: float = 1.0
    image: float = 1.0
    text: float = 1.0
    unmasked: float = Field(0.0, ge=0, le=1)
    healthy_count: int = Field(50, ge=0)
    false_alarms: float = Field(0.08, ge=0, lt=1)
    residual_count: int = Field(40, gt=0)
    inpainting_steps: int = Field(30, gt=0)
    text_encoder: str = ""
    text_pooling: Literal["mean", "first"] = "mean"


class VolumeTask(Task[AnomalyAttention]):
    """Trains the adapters, the attention and the anomaly score on blocks.

    Args:
        options: See :class:`VolumeTrainingOptions`.
        stages: Of a frozen 3-D backbone.
        queries: Reads prompts.
        metadata: Facts for the file of the weights.

    Raises:
        InputError: Nothing to train on.
        ModelError: A 2-D backbone, or one without the features that are asked for.
    """

    def __init__(
        self,
        options: VolumeTrainingOptions,
        stages: FrozenStages,
        *,
        queries: Queries,
        metadata: dict[str, str],
    ) -> None:
        backbone = stages.backbone
        if not isinstance(backbone, TakesVolumes):
            raise ModelError("volumes train a 3-D backbone", where=stages.backbone.name, fix="take MAISI")
        self.options, self.stages, self.queries, self.metadata = options, stages, queries, metadata
        self.blocks = Blocks(options.blocks, options.data, window_hu=backbone.window_hu)
        self.organs = OrganBlocks(options.blocks, options.data, window_hu=backbone.window_hu)
        if self.organs.names and options.organ_loop is None:
            what = f"there are labels of {', '.join(self.organs.names)}, and no organ_loop to learn them in"
            raise InputError(
                what, where="the configuration", fix="add organ_loop:, or take organs: from data:"
            )
        self.network = TumorNetwork.for_stages(stages, organs=self.organs.names)
        self.model: AnomalyAttention = self.network.attention

    def batch(self, rng: np.random.Generator, progress: float) -> AttentionBatch:
        """Draw blocks and encode them."""
        del progress
        drawn = [self.blocks.draw(rng) for _ in range(self.options.batch)]
        stages = [torch.cat(level) for level in zip(*map(self.encoded, drawn), strict=True)]
        masks = torch.stack([torch.from_numpy(one.mask)[None].float() for one in drawn])
        masks = (F.avg_pool3d(masks, 2) >= 0.5).float()
        if rng.random() < MIRRORED:
            stages, masks = [stage.flip(-1) for stage in stages], masks.flip(-1)
        masked = torch.from_numpy(rng.random(len(drawn)) >= self.options.unmasked)
        texts = torch.cat([self.queries(one.finding, one.modality).texts for one in drawn])
        return AttentionBatch(stages, masks, texts, masked)

    def encoded(self, block: Block) -> list[Tensor]:
        """The frozen stages of a block."""
        own = FrozenStages(backbone_for(self.stages.backbone, block), self.stages.config)
        return own(torch.from_numpy(block.image)[None, None])

    def loss(self, batch: AttentionBatch) -> tuple[Tensor, dict[str, float]]:
        """L_dice, L_ano and L_sim, weighted; Dice of the map's mask for the log."""
        options = self.options
        return attention_loss(self.model, batch, (options.pixel, options.image, options.text))

    @torch.no_grad()
    def calibrate(self) -> None:
        """Lower the anomaly score so that few healthy blocks pass 0."""
        scores = []
        for row in range(self.options.healthy_count):
            rng = np.random.default_rng((self.options.loop.seed, 8, row))
            block = self.blocks.draw(rng, healthy=True)
            texts = self.queries(block.finding, block.modality).texts
            place = next(self.model.parameters()).device
            stages = [stage.to(place) for stage in self.encoded(block)]
            sides = zip(block.image.shape, block.spacing_mm, strict=True)
            field = [n * mm / FIELD_MM for n, mm in sides]
            away = self.network.distances(stages, organ_of(block.finding), field=field)
            near = None if away is None else away.to(place)
            maps: AttentionMaps = self.model(stages, texts.to(place), away=near)
            scores.append(maps.score.cpu())
        if scores:
            self.network.views.offset[-1] = torch.cat(scores).quantile(1 - self.options.false_alarms)

    def ill(self, row: int) -> Block:
        """The block of a row, with a lesion wherever one is drawn."""
        for again in range(20):
            rng = np.random.default_rng((self.options.loop.seed, 9, row, again))
            block = self.blocks.draw(rng)
            if block.mask.any():
                break
        return block

    def export(self, model: AnomalyAttention, folder: Path) -> None:
        """Write ``tumor.safetensors`` with an untrained projector."""
        self.network.attention.load_state_dict(model.state_dict())
        files.save(folder / files.FILE, self.network, self.metadata)


@dataclass(frozen=True, eq=False)
class VolumeTraining:
    """Both trainings, one after the other.

    Attributes:
        options: See :class:`VolumeTrainingOptions`.
        stages: Of a frozen 3-D backbone with a denoiser.
        queries: Reads prompts.
        condition: Tokens of the denoiser for phrases.
        metadata: Facts for the file of the weights.
    """

    options: VolumeTrainingOptions
    stages: FrozenStages
    queries: Queries
    condition: Condition
    metadata: dict[str, str]

    def run(self, folder: Path, *, resume: bool = False) -> None:
        """Train; ``tumor.safetensors`` lies in the folder when all is done.

        Raises:
            ModelError: The folder holds a run and ``resume`` is not set.
            KeyboardInterrupt: The run was stopped, with a checkpoint.
        """
        torch.manual_seed(self.options.loop.seed)
        task = VolumeTask(self.options, self.stages, queries=self.queries, metadata=self.metadata)
        last = folder / "attention"
        trained(task, self.options.loop, last, resume=resume)
        if task.organs.names and self.options.organ_loop is not None:
            self._learn_organs(task, self.options.organ_loop, folder / "organs", resume=resume)
        task.calibrate()
        files.save(last / files.FILE, task.network, self.metadata)
        if task.network.projector is not None:
            last = folder / "residuals"
            trained(self._residuals(task), self.options.residual_loop, last, resume=resume)
        write_file(folder / files.FILE, (last / files.FILE).read_bytes())

    def _learn_organs(self, task: VolumeTask, loop: LoopOptions, folder: Path, *, resume: bool) -> None:
        options, metadata = self.options, self.metadata
        learning = VolumeOrganTask(
            task.organs, task.encoded, task.network, batch=options.batch, metadata=metadata
        )
        trained(learning, loop, folder, resume=resume)
        learning.measure(loop.seed)

    def _residuals(self, task: VolumeTask) -> ResidualTask:
        return ResidualTask(
            task.ill,
            count=self.options.residual_count,
            stages=self.stages,
            network=task.network,
            condition=self.condition,
            queries=self.queries,
            metadata=self.metadata,
            inpainting=InpaintingOptions(steps=self.options.inpainting_steps),
        )
