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
from latentseg.training.tumor.losses import organ_loss
from latentseg.training.tumor.organ_samples import OrganSample, OrganSamples

ALONE = 0.25  # of the batches, in which no slice sees its neighbors
STRETCH = 0.2  # by which a step along a scan is taken for another, as logarithm
MEASURED = 400  # samples by which the quality of the organs is measured


class OrganBatch(NamedTuple):
    """Frozen stages ``[(B, C_l, h_l, w_l)]``, organs ``(B, h, w)``, what is labelled ``(B, 1 + organs)``.

    And which of them are neighbors; none in blocks.
    """

    stages: list[Tensor]
    organs: Tensor
    known: Tensor
    runs: Sequence[Run] = ()


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
        """Cross-entropy and Dice; for the log the share of labelled positions that get their organ."""
        logits = self.model(batch.stages, batch.runs)
        inside = batch.organs > 0
        found = ((logits.argmax(1) == batch.organs) & inside).sum() / inside.sum().clamp(min=1)
        return organ_loss(logits, batch.organs, batch.known), {"recall": float(found)}

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
        self.known = np.zeros((count, 1 + len(self.model.names)), bool)
        self.steps = np.zeros(count)

    def batch(self, rng: np.random.Generator, progress: float) -> OrganBatch:
        """Draw samples, and encode those that are drawn for the first time."""
        del progress
        one = self._kept(rng.integers(0, self.count, self.size))
        alone = rng.random() < ALONE
        stretch = np.exp(rng.uniform(-STRETCH, STRETCH, len(one.runs))) * (not alone)
        runs = [run._replace(step_mm=run.step_mm * by) for run, by in zip(one.runs, stretch, strict=True)]
        stages, organs = one.stages, one.organs
        if rng.random() < MIRRORED:
            stages, organs = [stage.flip(-1) for stage in stages], organs.flip(-1)
        return OrganBatch(stages, organs, one.known, runs)

    def _kept(self, rows: NDArray[np.integer]) -> OrganBatch:
        slices = (rows[:, None] * self.run + np.arange(self.run)).ravel()
        for row in dict.fromkeys(one // self.run for one in self.kept.missing(slices)):
            sample = self.sample(row)
            for at, image in enumerate(sample.images, row * self.run):
                self.kept.fill(at, image)
                self.organs[at] = on_grid(sample.organs[at - row * self.run], self.kept.grid)
            self.known[row], self.steps[row] = sample.known, sample.step_mm
        return OrganBatch(
            self.kept[slices],
            torch.from_numpy(self.organs[slices].astype(np.int64)),
            torch.from_numpy(self.known[rows].repeat(self.run, 0)),
            [Run(self.run, float(step_mm)) for step_mm in self.steps[rows]],
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
