"""Training of the organs: where they are, from data sets that know some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.tumor import network as files
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.organ_network import Run
from latentseg.methods.tumor.organs import OrganMaps
from latentseg.training.loop import Task
from latentseg.training.tumor.kept_stages import MIRRORED, KeptStages
from latentseg.training.tumor.losses import lesion_loss, organ_loss
from latentseg.training.tumor.organ_samples import OrganSample, OrganSamples

ALONE = 0.25  # of the batches, in which no slice sees its neighbors
STRETCH = 0.2  # by which a step along a scan is taken for another, as logarithm
MEASURED = 400  # samples by which the quality of the organs is measured


class OrganBatch(NamedTuple):
    """Frozen stages ``[(B, C_l, h_l, w_l)]``, organs ``(B, h, w)``, what is labelled ``(B, 1 + organs)``.

    And which of them are neighbors, the shares ``(B, h, w)`` of cells that are lesions, and in which slices
    ``(B,)`` there are no others; none in blocks.
    """

    stages: list[Tensor]
    organs: Tensor
    known: Tensor
    runs: Sequence[Run] = ()
    lesions: Tensor | None = None
    sure: Tensor | None = None


class OrganTraining(Task[OrganMaps]):
    """Trains the classifier of organs, on slices or on volumes.

    Attributes:
        network: Whose organs are trained.
        metadata: Facts for the file of the weights.
    """

    counted = "organs"
    network: TumorNetwork
    metadata: Mapping[str, str] = MappingProxyType({})

    def loss(self, batch: OrganBatch) -> tuple[Tensor, dict[str, float]]:
        """Of organs, and of lesions; for the log the share of labelled positions that get their organ."""
        logits, lesions = self.model.with_lesions(batch.stages, batch.runs)
        inside = batch.organs > 0
        found = ((logits.argmax(1) == batch.organs) & inside).sum() / inside.sum().clamp(min=1)
        loss, log = organ_loss(logits, batch.organs, batch.known), {"recall": float(found)}
        if lesions is None or batch.lesions is None or batch.sure is None:
            return loss, log
        beside = lesion_loss(
            lesions[:, 0], batch.lesions, batch.sure, sizes=[run.slices for run in batch.runs]
        )
        return loss + beside, log | {"lesions": float(beside)}

    @torch.no_grad()
    def measure_on(self, samples: Iterable[OrganBatch]) -> None:
        """Set the quality of the organs by their Dice over samples, given one by one."""
        both, sizes = (torch.zeros(len(self.model.names)) for _ in range(2))
        numbers = torch.arange(1, 1 + len(self.model.names))[:, None]
        place = self.model.quality.device
        for one in samples:
            logits = self.model([stage.to(place) for stage in one.stages], one.runs)
            found = logits.argmax(1).flatten().cpu() == numbers
            truth = one.organs.flatten() == numbers
            both += one.known[0, 1:] * 2 * (found & truth).sum(1)
            sizes += one.known[0, 1:] * (found.sum(1) + truth.sum(1))
        self.model.quality.copy_(both / sizes.clamp(min=1))

    def export(self, model: OrganMaps, folder: Path) -> None:
        """Write ``tumor.safetensors`` with the organs."""
        self.network.organs.load_state_dict(model.state_dict())
        files.save(folder / files.FILE, self.network, dict(self.metadata))


class OrganTask(OrganTraining):
    """Trains the classifier of organs on slices, whose frozen features are kept.

    Args:
        samples: What is learned from.
        frozen: Of a backbone, which does not change.
        network: Whose organs are trained.
        count: Samples whose features are kept, each a run of slices.
        batch: Samples per step.
        seed: Of the samples.
    """

    def __init__(
        self,
        samples: OrganSamples,
        frozen: FrozenStages,
        network: TumorNetwork,
        *,
        count: int,
        batch: int,
        seed: int,
    ) -> None:
        self.samples, self.network, self.count, self.size, self.seed = samples, network, count, batch, seed
        self.model: OrganMaps = network.organs
        self.run = samples.options.run
        self.kept = KeptStages(frozen, count * self.run)
        self.organs = np.zeros((count * self.run, *self.kept.grid), np.uint8)
        self.lesions = np.zeros(self.organs.shape, np.float16)
        self.sure = np.zeros(count, bool)
        self.known = np.zeros((count, 1 + len(self.model.names)), bool)
        self.steps = np.zeros(count)

    def batch(self, rng: np.random.Generator, progress: float) -> OrganBatch:
        """Draw samples, and encode those that are drawn for the first time."""
        del progress
        one = self._kept(rng.integers(0, self.count, self.size))
        alone = rng.random() < ALONE
        stretch = np.exp(rng.uniform(-STRETCH, STRETCH, len(one.runs))) * (not alone)
        runs = [run._replace(step_mm=run.step_mm * by) for run, by in zip(one.runs, stretch, strict=True)]
        one = one._replace(runs=runs)
        return mirrored(one) if rng.random() < MIRRORED else one

    def _kept(self, rows: NDArray[np.integer]) -> OrganBatch:
        slices = (rows[:, None] * self.run + np.arange(self.run)).ravel()
        for row in dict.fromkeys(one // self.run for one in self.kept.missing(slices)):
            sample = self.sample(row)
            for at, image in enumerate(sample.images, row * self.run):
                self.kept.fill(at, image)
                self.organs[at] = on_grid(sample.organs[at - row * self.run], self.kept.grid)
                self.lesions[at] = shares_on_grid(sample.lesions[at - row * self.run], self.kept.grid)
            self.known[row], self.steps[row], self.sure[row] = sample.known, sample.step_mm, sample.sure
        return OrganBatch(
            self.kept[slices],
            torch.from_numpy(self.organs[slices].astype(np.int64)),
            torch.from_numpy(self.known[rows].repeat(self.run, 0)),
            [Run(self.run, float(step_mm)) for step_mm in self.steps[rows]],
            torch.from_numpy(self.lesions[slices].astype(np.float32)),
            torch.from_numpy(self.sure[rows].repeat(self.run)),
        )

    def sample(self, row: int) -> OrganSample:
        """The sample of a row; a function of the seed and the row alone."""
        return self.samples.draw(np.random.default_rng((self.seed, 9, row)))

    def measure(self) -> None:
        """Set the quality of the organs by their Dice over samples of the training."""
        self.measure_on(self._kept(np.array([row])) for row in range(min(self.count, MEASURED)))


def on_grid(organs: NDArray[np.int64], grid: Sequence[int]) -> NDArray[np.int64]:
    """The number that most pixels of each cell have, from ``(H, W)`` to a coarser grid."""
    classes = F.one_hot(torch.from_numpy(organs))[None].movedim(-1, 1).float()
    shares = F.adaptive_avg_pool2d(classes, (grid[0], grid[1]))
    return np.asarray(shares.argmax(1)[0].numpy())


def shares_on_grid(lesions: NDArray[np.bool_], grid: Sequence[int]) -> NDArray[np.float32]:
    """The share of each cell of a coarser grid that is marked in ``(H, W)``."""
    marks = torch.from_numpy(lesions).float()[None, None]
    return np.asarray(F.adaptive_avg_pool2d(marks, (grid[0], grid[1]))[0, 0].numpy())


def mirrored(batch: OrganBatch) -> OrganBatch:
    """Left and right in each other's place."""
    lesions = None if batch.lesions is None else batch.lesions.flip(-1)
    stages = [stage.flip(-1) for stage in batch.stages]
    return batch._replace(stages=stages, organs=batch.organs.flip(-1), lesions=lesions)
