"""Training DiffuGTS on a frozen backbone: attention maps, organs, then the fusion of the residuals.

Frozen features are computed once for a fixed number of samples and kept in half precision, so that a step
costs what the trained parts cost and the backbone is run once per sample and not once per step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from latentseg.backbones.weights import read_weights
from latentseg.imaging.files import write_file
from latentseg.methods.diffugts.attention_maps import ABNORMAL, AnomalyAttention, AttentionMaps, resized
from latentseg.methods.diffugts.refinement import RefinementOptions, Refiner, dilated
from latentseg.methods.diffugts.residuals import Fusion, Residuals
from latentseg.methods.log_odds import log_odds, probability
from latentseg.methods.tumor import network as files
from latentseg.methods.tumor.body_crop import denoised
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.queries import Queries
from latentseg.training.growth import grow_from
from latentseg.training.loop import LoopOptions, Task, trained
from latentseg.training.pack import Pack
from latentseg.training.tumor.calibration import Alarms, Judges, calibrate_organs
from latentseg.training.tumor.kept_stages import MIRRORED, KeptStages
from latentseg.training.tumor.losses import dice, image_loss, pixel_loss, text_loss
from latentseg.training.tumor.organ_samples import OrganSampleOptions, OrganSamples
from latentseg.training.tumor.organs import OrganTask
from latentseg.training.tumor.samples import Sample, SampleOptions, Samples

DRAWN = 8  # slices drawn for each that is scored, as parts of the body come up unequally often
FEWEST_HEALTHY = 20  # slices of a part of the body without which those of all parts are taken
VIEWED = 1000  # samples on which the parts of the body are learned
Condition = Callable[[Sequence[str]], Tensor]


class TumorTrainingOptions(BaseModel):
    """A training of the tumor networks, as read from YAML.

    Attributes:
        loop: Of the attention maps.
        organ_loop: Of the organs.
        fusion_loop: Of the fusion.
        network: What they look at.
        samples: What the maps and the fusion are trained on.
        organs: What the organs are learned from; nothing where no organ is named.
        count: Samples whose features are kept.
        organ_count: The same for the organs, of which each may be a run of slices.
        fusion_count: Samples that are refined for the training of the fusion.
        batch: Samples per step.
        pixel: Weight of Dice plus focal loss.
        image: Weight of the cross-entropy of the anomaly score.
        text: Weight of the contrastive loss.
        unmasked: Share of the samples of which only is known whether something is there.
        at_organs: Share of the whole slices in which a tumor is looked for at its organ, if that is found, as
            in a scan.
        healthy_count: Healthy slices of scans, not augmented, by which the score is calibrated in each part
            of the body.
        false_alarms: Share of them, and of single slices of ``healthy``, that may still be suspected.
        scan_alarms: Share of the scans of ``healthy`` in which some slice may.
        healthy: Data sets in which nobody has a tumor, on whose scans it is calibrated for each organ.
        views: Part of the body that the scans of a data set show, such as "head" and "trunk".
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    loop: LoopOptions
    organ_loop: LoopOptions
    fusion_loop: LoopOptions
    network: TumorConfig = TumorConfig()
    samples: SampleOptions = SampleOptions()
    organs: OrganSampleOptions = OrganSampleOptions()
    count: int = Field(4000, gt=0)
    organ_count: int = Field(3000, gt=0)
    fusion_count: int = Field(400, gt=0)
    batch: int = Field(16, gt=0)
    pixel: float = 1.0
    image: float = 0.5
    text: float = 0.2
    unmasked: float = 0.1
    at_organs: float = Field(0.0, ge=0, le=1)
    healthy_count: int = Field(200, gt=0)
    false_alarms: float = Field(0.08, ge=0, lt=1)
    scan_alarms: float = Field(0.2, ge=0, lt=1)
    healthy: tuple[str, ...] = ()
    views: dict[str, str] = {}


class AttentionBatch(NamedTuple):
    """Frozen stages ``[(B, C_l, h_l, w_l)]``, masks ``(B, 1, h, w)``, texts ``(B, 2, D)``, what is masked.

    And the distance ``(B, 1, ...)`` from the organs of the texts on the finest grid, where some are known.
    """

    stages: list[Tensor]
    masks: Tensor
    texts: Tensor
    masked: Tensor
    away: Tensor | None = None


class AttentionTask(Task[AnomalyAttention]):
    """Trains the adapters, the attention and the image-level score.

    Args:
        options: See :class:`TumorTrainingOptions`.
        packed: Slices with labels and supervoxels.
        stages: Of a frozen backbone, which does not change.
        queries: Reads prompts.
    """

    def __init__(
        self, options: TumorTrainingOptions, packed: Pack, stages: FrozenStages, *, queries: Queries
    ) -> None:
        self.options, self.frozen, self.queries = options, stages, queries
        self.samples = Samples(options.samples, packed)
        organs, views = (sorted(set(names.values())) for names in (options.organs.names, options.views))
        self.network = TumorNetwork.for_stages(stages, views=views, organs=organs)
        self.model: AnomalyAttention = self.network.attention
        edge = stages.backbone.image_size
        self.kept = KeptStages(stages, options.count)
        self.masks = np.zeros((options.count, edge // 2, edge // 2), bool)
        self.texts = np.zeros((options.count, 2, options.network.text_dim), np.float32)
        self.sources = np.zeros(options.count, object)
        self.away = np.zeros((options.count, 1, *self.kept.grid), np.float16)
        self.whole = np.zeros(options.count, bool)

    def batch(self, rng: np.random.Generator, progress: float) -> AttentionBatch:
        """Draw samples, and encode those that are drawn for the first time."""
        del progress
        rows = rng.integers(0, self.options.count, self.options.batch)
        self._encode(self.kept.missing(rows))
        stages = self.kept[rows]
        masks = torch.from_numpy(self.masks[rows][:, None].astype(np.float32))
        masked = torch.from_numpy(rng.random(len(rows)) >= self.options.unmasked)
        near = rng.random((len(rows), 1, 1, 1)) < self.options.at_organs
        away = torch.from_numpy(self.away[rows].astype(np.float32) * near)
        if rng.random() < MIRRORED:
            stages, masks, away = [stage.flip(-1) for stage in stages], masks.flip(-1), away.flip(-1)
        return AttentionBatch(stages, masks, torch.from_numpy(self.texts[rows]), masked, away)

    def sample(self, row: int) -> Sample:
        """The sample of a row; a function of the seed and the row alone."""
        return self.samples.draw(np.random.default_rng((self.options.loop.seed, 7, row)))

    @torch.no_grad()
    def calibrate(self) -> None:
        """Lower the anomaly score so that few healthy slices of scans pass 0, in each part of the body."""
        options, views = self.options, self.network.views
        scores: dict[str, list[Tensor]] = {part: [] for part in views.names or ("",)}
        for row in range(DRAWN * options.healthy_count):
            rng = np.random.default_rng((options.loop.seed, 8, row))
            sample = self.samples.draw_healthy(rng, plain=True)
            found = scores.get(options.views.get(sample.source, ""))
            if found is not None and len(found) < options.healthy_count:
                found.append(self._score(sample))
        every = [score for found in scores.values() for score in found]
        known = [scores[part] for part in views.names]
        for number, found in enumerate([*known, every]):
            enough = found if len(found) >= FEWEST_HEALTHY else every
            views.offset[number] = torch.cat(enough).quantile(1 - options.false_alarms)

    def _score(self, sample: Sample) -> Tensor:
        """The anomaly score ``(1,)`` of a sample, as a logit."""
        image = denoised(sample.image[None]) if sample.modality == "CT" else sample.image[None]
        query = self.queries(sample.finding, sample.modality)
        stages = self.frozen(torch.from_numpy(image)[None])
        away = self.network.distances(stages, query.prompt.organ)
        maps: AttentionMaps = self.model(stages, query.texts, away=away)
        return maps.score

    @torch.no_grad()
    def learn_views(self) -> None:
        """Fit what tells the parts of the body apart, on whole slices of the training."""
        rows = np.arange(min(self.options.count, VIEWED))
        self._encode(self.kept.missing(rows))
        rows = rows[self.whole[rows]]
        parts = [self.options.views.get(self.sources[row], "") for row in rows]
        known = [row for row, part in zip(rows, parts, strict=True) if part]
        if known:
            pooled = self.kept[np.array(known)][-1].flatten(2).mean(2)
            self.network.views.fit(pooled, [part for part in parts if part])

    def _encode(self, rows: list[int]) -> None:
        for row in rows:
            sample = self.sample(row)
            self.kept.fill(row, sample.image)
            self.masks[row] = halved(sample.mask)
            self.sources[row], self.whole[row] = sample.source, sample.whole
            query = self.queries(sample.finding, sample.modality)
            self.texts[row] = query.texts[0].numpy()
            if sample.whole and self.options.at_organs:
                self.away[row] = self._away(row, query.prompt.organ)

    @torch.no_grad()
    def _away(self, row: int, organ: str) -> NDArray[np.float32] | float:
        """Distance ``(1, h, w)`` of a sample's positions from an organ, none at its lesion."""
        away = self.network.distances(self.kept[np.array([row])], organ)
        if away is None:
            return 0.0
        lesion = F.adaptive_max_pool2d(torch.from_numpy(self.masks[row])[None].float(), away.shape[2:]) > 0
        return np.asarray(away[0].masked_fill(lesion, 0.0))

    def loss(self, batch: AttentionBatch) -> tuple[Tensor, dict[str, float]]:
        """Weighted sum of the losses; Dice of the map's mask where there is a lesion, for the log."""
        options = self.options
        return attention_loss(self.model, batch, (options.pixel, options.image, options.text))

    def export(self, model: AnomalyAttention, folder: Path) -> None:
        """Write ``tumor.safetensors`` with an untrained fusion."""
        self.network.attention.load_state_dict(model.state_dict())
        files.save(folder / files.FILE, self.network, {})


def attention_loss(
    model: AnomalyAttention, batch: AttentionBatch, weights: tuple[float, float, float]
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the losses of masks, image labels and texts, in 2-D or 3-D; and figures for the log."""
    maps: AttentionMaps = model(batch.stages, batch.texts, away=batch.away)
    abnormal = batch.masks.flatten(1).amax(1)
    parts = {
        "pixel": pixel_loss(maps, batch.masks, batch.masked),
        "image": image_loss(maps, abnormal),
        "text": text_loss(maps, batch.texts),
    }
    total = torch.stack([weight * part for weight, part in zip(weights, parts.values(), strict=True)]).sum()
    with torch.no_grad():
        chance = resized(maps.logits, batch.masks.shape[2:]).softmax(1)[:, ABNORMAL]
        overlap = 1 - dice((chance > 0.5).float(), batch.masks[:, 0])
        found = float(overlap[abnormal > 0].mean()) if bool(abnormal.any()) else 0.0
        right = float(((maps.score > 0) == (abnormal > 0)).float().mean())
    figures = {name: float(part.detach()) for name, part in parts.items()}
    return total, figures | {"dice": found, "accuracy": right}


class FusionBatch(NamedTuple):
    """Maps, residuals and masks, all ``(B, 1, H, W)``; the holes that were filled."""

    attention: Tensor
    pixel: Tensor
    feature: Tensor
    masks: Tensor
    holes: Tensor


class FusionTask(Task[Fusion]):
    """Trains the fusion on residuals of samples that the trained attention maps have not seen.

    Args:
        options: See :class:`TumorTrainingOptions`.
        source: Where samples come from, its model trained.
        condition: Tokens of the denoiser for phrases.
        network: With the trained attention.
        metadata: Facts for the file.
    """

    def __init__(
        self,
        options: TumorTrainingOptions,
        source: AttentionTask,
        condition: Condition,
        *,
        network: TumorNetwork,
        metadata: dict[str, str],
    ) -> None:
        self.options, self.source, self.condition = options, source, condition
        self.network, self.metadata = network, metadata
        self.model: Fusion = network.fusion
        self.kept: dict[int, FusionBatch] = {}

    def batch(self, rng: np.random.Generator, progress: float) -> FusionBatch:
        """Draw samples, and refine those that are drawn for the first time."""
        del progress
        rows = rng.integers(0, self.options.fusion_count, self.options.batch)
        drawn = [self._refined(int(row)) for row in rows]
        return FusionBatch(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))

    @torch.no_grad()
    def _refined(self, row: int) -> FusionBatch:
        if row not in self.kept:
            sample = self.source.sample(self.options.count + row)
            query = self.source.queries(sample.finding, sample.modality)
            image = torch.from_numpy(sample.image)[None, None]

            away = self.network.distances(self.source.frozen(image), query.prompt.organ)

            def attend(images: Tensor) -> Tensor:
                stages = self.source.frozen(images)
                maps: AttentionMaps = self.network.attention(stages, query.texts, away=away)
                return maps.chance(images.shape[2:])

            options = RECOMMENDED.refinement or RefinementOptions()
            attention = probability(leveled(log_odds(attend(image)), np.array([0]), level=RECOMMENDED.level))
            refiner = Refiner(
                self.source.frozen.backbone, self.model, attend, self.condition(query.healthy), options
            )
            found = refiner.residuals(image, attention, keys=[f"training/{row}"])
            mask = torch.from_numpy(sample.mask)[None, None].float()
            holes = dilated(attention >= options.threshold, options.dilate)
            self.kept[row] = FusionBatch(attention, found.pixel, found.feature, mask, holes)
        return self.kept[row]

    def loss(self, batch: FusionBatch) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy and Dice inside the holes of samples with a lesion there.

        What is outside of the holes the map has decided, and whether anything is there the anomaly score.
        """
        logits = self.model(batch.attention, Residuals(batch.pixel, batch.feature))
        truth = batch.masks * batch.holes
        errors = F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * batch.holes
        wrong = errors.flatten(1).sum(1) / batch.holes.flatten(1).sum(1).clamp(min=1)
        missed = dice(logits.sigmoid() * batch.holes, truth)
        ill = (truth.flatten(1).amax(1) > 0).float()
        total = (ill * (wrong + missed)).sum() / ill.sum().clamp(min=1)
        overlap = 1 - (ill * missed).sum() / ill.sum().clamp(min=1)
        return total, {"dice": float(overlap.detach())}

    def export(self, model: Fusion, folder: Path) -> None:
        """Write ``tumor.safetensors``."""
        self.network.fusion.load_state_dict(model.state_dict())
        files.save(folder / files.FILE, self.network, self.metadata)


def halved(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask ``(H, W)`` on half the grid: set where half of the four pixels are."""
    height, width = mask.shape
    return np.asarray(mask.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) >= 0.5)


@dataclass(frozen=True, eq=False)
class TumorTraining:
    """All trainings, one after the other.

    Attributes:
        options: See :class:`TumorTrainingOptions`.
        packed: Slices with labels and supervoxels.
        stages: Of a frozen backbone with a denoiser, which does not change.
        queries: Reads prompts.
        condition: Tokens of the denoiser for phrases.
        metadata: Facts for the file of the weights.
        start: A ``tumor.safetensors`` to start from instead of random weights.
    """

    options: TumorTrainingOptions
    packed: Pack
    stages: FrozenStages
    queries: Queries
    condition: Condition
    metadata: dict[str, str]
    start: Path | None = None

    def run(self, folder: Path, *, resume: bool = False) -> None:
        """Train; ``tumor.safetensors`` lies in the folder when all is done.

        Raises:
            ModelError: The folder holds a run and ``resume`` is not set, the backbone has no denoiser, or the
                weights to start from do not fit.
            KeyboardInterrupt: The run was stopped, with a checkpoint.
        """
        torch.manual_seed(self.options.loop.seed)
        task = AttentionTask(self.options, self.packed, self.stages, queries=self.queries)
        if self.start:
            asked = {"organs.": self.options.organs.names, "attention.judge.": self.options.network.judged}
            left = ("views.", *(name for name, wanted in asked.items() if not wanted))
            known = {n: w for n, w in read_weights(self.start).items() if not n.startswith(left)}
            grow_from(task.network, known, where=self.start)
        if self.options.organs.names:
            organ_task = self._organ_task(task)
            trained(organ_task, self.options.organ_loop, folder / "organs", resume=resume)
            organ_task.measure()
        trained(task, self.options.loop, folder / "attention", resume=resume)
        task.learn_views()
        task.calibrate()
        healthy = {name: part for name, part in self.options.views.items() if name in self.options.healthy}
        alarms = Alarms(self.options.false_alarms, self.options.scan_alarms)
        judges = Judges(task.network, self.stages, self.queries)
        calibrate_organs(judges, task.samples, views=healthy, alarms=alarms)
        fusion = FusionTask(self.options, task, self.condition, network=task.network, metadata=self.metadata)
        trained(fusion, self.options.fusion_loop, folder / "fusion", resume=resume)
        write_file(folder / files.FILE, (folder / "fusion" / files.FILE).read_bytes())

    def _organ_task(self, task: AttentionTask) -> OrganTask:
        options, own = self.options, task.samples
        samples = OrganSamples(options.organs, self.packed, hosts=own.hosts, unused=own.unused)
        seed, batch = options.organ_loop.seed, -(-options.batch // options.organs.run)
        count = options.organ_count
        return OrganTask(samples, self.stages, task.network, count=count, batch=batch, seed=seed)
