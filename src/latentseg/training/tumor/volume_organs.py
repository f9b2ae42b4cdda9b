"""Training of the organs on volumes: the classifier of positions that 2-D backbones have, on blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.last_used import LastUsed
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.organs import OrganMaps
from latentseg.training.tumor.blocks import (
    KEPT,
    TISSUE,
    Block,
    BlockOptions,
    cut_out,
    on_network_grid,
    organ_of,
)
from latentseg.training.tumor.organs import OrganBatch, OrganTraining
from latentseg.training.tumor.volumes import TumorFolder, VolumeFiles

MEASURED = 40  # blocks by which the quality of the organs is measured
AROUND = 0.7  # of the blocks, cut around an organ

Encode = Callable[[Block], list[Tensor]]


class OrganBlock(NamedTuple):
    """A block whose mask is the numbers of organs, and which of them are labelled, ``(1 + organs,)``."""

    block: Block
    known: NDArray[np.bool_]


def organ_data(data: Sequence[TumorFolder], without: Sequence[str]) -> list[TumorFolder]:
    """Data sets that organs are learned from: none that hold a finding which is left out."""
    closed = {organ_of(name) for name in without}
    return [one for one in data if one.organs and not (one.labels and organ_of(one.finding) in closed)]


class OrganBlocks:
    """Draws blocks of scans whose organs are labelled.

    Args:
        options: Edges, voxels, and what is left out.
        data: Data sets; those of :func:`organ_data` are used.
        window_hu: Of CT, that the backbone was trained with.

    Attributes:
        names: Organs, sorted; none where no data set has labels of one.
    """

    def __init__(
        self, options: BlockOptions, data: Sequence[TumorFolder], *, window_hu: tuple[float, float]
    ) -> None:
        self.options, self.window_hu = options, window_hu
        used = organ_data(data, options.without)
        self.names = sorted({organ for one in used for organ in one.organs.values()})
        found = [VolumeFiles(one) for one in used]
        self.places = [(one, number) for one in found for number in one.training]
        self._volumes: LastUsed[Block] = LastUsed(KEPT)

    def draw(self, rng: np.random.Generator) -> OrganBlock:
        """Draw one block."""
        place = int(rng.integers(len(self.places)))
        labelled = set(self.places[place][0].data.organs.values())
        whole = self._volume(place)
        around = whole.mask > 0 if rng.random() < AROUND and whole.mask.any() else whole.image > TISSUE
        known = np.array([True, *(name in labelled for name in self.names)])
        return OrganBlock(cut_out(whole, rng, around, self.options.edges), known)

    def _volume(self, place: int) -> Block:
        def read() -> Block:
            found, number = self.places[place]
            return on_network_grid(*found.organs(number, self.names), "", self.options, self.window_hu)

        return self._volumes.of(place, read)


class VolumeOrganTask(OrganTraining):
    """Trains the classifier of organs on blocks of volumes.

    Args:
        blocks: What is learned from.
        encode: Frozen stages of a block.
        network: Whose organs are trained.
        batch: Blocks per step.
        metadata: Facts for the file of the weights.
    """

    def __init__(
        self,
        blocks: OrganBlocks,
        encode: Encode,
        network: TumorNetwork,
        *,
        batch: int,
        metadata: dict[str, str],
    ) -> None:
        self.blocks, self.encode, self.network, self.size = blocks, encode, network, batch
        self.metadata = metadata
        self.model: OrganMaps = network.organs

    def batch(self, rng: np.random.Generator, progress: float) -> OrganBatch:
        """Draw blocks and encode them."""
        del progress
        drawn = [self._encoded(rng) for _ in range(self.size)]
        stages = [torch.cat(level) for level in zip(*(one.stages for one in drawn), strict=True)]
        organs, known = torch.cat([one.organs for one in drawn]), torch.cat([one.known for one in drawn])
        return OrganBatch(stages, organs, known)

    def _encoded(self, rng: np.random.Generator) -> OrganBatch:
        block, known = self.blocks.draw(rng)
        stages = self.encode(block)
        classes = F.one_hot(torch.from_numpy(block.mask), len(known)).movedim(-1, 0)[None].float()
        depth, height, width = stages[0].shape[2:]
        organs = F.adaptive_avg_pool3d(classes, (depth, height, width)).argmax(1)
        return OrganBatch(stages, organs, torch.from_numpy(known)[None])

    def measure(self, seed: int) -> None:
        """Set the quality of the organs by their Dice over blocks of the training."""
        self.measure_on(self._encoded(np.random.default_rng((seed, 9, row))) for row in range(MEASURED))
