"""The networks of tumor segmentation on one backbone, and a scan after its pass through the frozen ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.imaging import Volume
from latentseg.imaging.network_input import NetworkInput
from latentseg.methods.diffugts.reconstructions import Reconstructions
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.known import Measured
from latentseg.methods.tumor.lung_field import LungField
from latentseg.methods.tumor.network import ALONE, TumorNetwork
from latentseg.methods.tumor.organs import FIELD_MM
from latentseg.methods.tumor.parts import PartJudge
from latentseg.methods.tumor.picture_network import PictureNetwork
from latentseg.methods.tumor.queries import Queries, Query
from latentseg.methods.tumor.told import Beside, Told


@dataclass(frozen=True, eq=False)
class TumorNetworks:
    """The networks of DiffuGTS on one backbone.

    Attributes:
        stages: Frozen features, of a backbone with a denoiser.
        network: What was trained.
        queries: Reads prompts.
        condition: Tokens of the denoiser for phrases such as ("CT", "abdomen", "healthy").
        fingerprint: Identifies the weights.
        without: Findings that were left out of the training, of those alone as well.
        known: What was measured with these weights, by finding.
        alone: Those of organs and regions that are looked at alone, by name (:data:`network.ALONE`).
        judge: Of the parts that they find in volumes; without one a part is as sure as the slices it lies in.
        picture: What looks for tumors in the picture alone, whose maps count beside theirs.
    """

    stages: FrozenStages
    network: TumorNetwork
    queries: Queries
    condition: Callable[[Sequence[str]], Tensor]
    fingerprint: str
    without: tuple[str, ...] = ()
    known: Mapping[str, Measured] = field(default_factory=dict)
    alone: Mapping[str, TumorNetworks] = field(default_factory=dict)
    judge: PartJudge | None = None
    picture: PictureNetwork | None = None

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.stages.backbone

    def part_of(self, query: Query, modality: str) -> str:
        """The organ or the region of a prompt, whichever has networks of its own; nothing where none has."""
        names = (query.prompt.organ, query.region)
        fitting = [name for name in names if name in self.alone and modality in ALONE[name]]
        return next((name for name in fitting if self.alone[name].network.sees(query.prompt.organ)), "")

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.network.parameters()).device


class Encoded(NamedTuple):
    """What the frozen networks say of a scan.

    Attributes:
        stages: Frozen features, in half precision.
        decoded: Slices through the autoencoder, of those that some prompt had refined.
    """

    stages: list[Tensor]
    decoded: Reconstructions


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan with the part of the work that does not depend on the prompt, done when it is first needed.

    Attributes:
        networks: Those that prepare it, a 3-D backbone for this volume.
        seen: The scan as the networks see it, slices cut to the body or a whole block, and the way back.
        images: Slices ``(S, 1, H, W)``, or a block ``(1, 1, D, H, W)``, in [-1, 1], on the CPU.
        encode: Passes them through the frozen networks.
        look_for_organs: What the networks tell by frozen features, see :attr:`told`.
        lungs: Where they are, of a scan of which the lungs alone are seen.
        alone: What some prompt had networks of its own look at, by their name; None where it is not shown.
    """

    networks: TumorNetworks
    seen: NetworkInput
    images: Tensor
    encode: Callable[[], Encoded] = field(repr=False)
    look_for_organs: Callable[[Sequence[Tensor]], Told | None] = field(repr=False)
    lungs: LungField | None = None
    alone: dict[str, PreparedScan | None] = field(default_factory=dict, repr=False)

    @cached_property
    def encoded(self) -> Encoded:
        """What the frozen networks say of it."""
        return self.encode()

    @property
    def stages(self) -> list[Tensor]:
        """See :class:`Encoded`."""
        return self.encoded.stages

    @cached_property
    def told(self) -> Told | None:
        """Organs that are known and lesions, on the finest grid."""
        return self.look_for_organs(self.stages)

    @property
    def organs(self) -> Tensor | None:
        """Chances ``(S, 1 + organs, ...)`` of organs."""
        return self.told and self.told.organs

    @cached_property
    def pictured(self) -> Tensor | None:
        """Log-odds ``(S, 1, H, W)`` by what sees the picture alone, of all slices; None without it."""
        picture = self.networks.picture
        return None if picture is None else picture.log_odds(self.images)

    @property
    def decoded(self) -> Reconstructions:
        """See :class:`Encoded`."""
        return self.encoded.decoded

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.seen.scan

    @property
    def step_mm(self) -> float:
        """Distance of the slices."""
        return self.seen.spacing_mm[0]

    def away(self, organ: str) -> Tensor | None:
        """How far ``(S, 1, ...)`` an organ is (:meth:`OrganMaps.distances`); None where that is not known."""
        organs = self.networks.network.organs
        if self.lungs is not None:
            return self.lungs.away()
        if self.organs is None or organ not in organs.trusted:
            return None
        return organs.distances(self.organs, organ, field=self.field)

    def others(self, organ: str) -> Tensor | None:
        """Chance ``(S, 1, ...)`` of any other organ; None where organs are not known, or not this one."""
        names = self.networks.network.organs.names
        if self.organs is None or organ not in names:
            return None
        return 1 - self.organs[:, :1] - self.organs[:, [1 + names.index(organ)]]

    def beside(self, organ: str) -> Beside:
        """What is known beside the map of a tumor of an organ."""
        return Beside(self.away(organ), self.told and self.told.lesions_of(organ))

    def inside(self, organ: str) -> NDArray[np.bool_] | None:
        """Where a tumor of an organ is looked for, ``(S, ...)``; None where that is not known."""
        if self.lungs is not None:
            return self.lungs.inside
        organs = self.networks.network.organs
        if self.organs is None or organ not in organs.trusted:
            return None
        return organs.inside(self.organs, organ)

    def found(self, organ: str) -> NDArray[np.bool_] | None:
        """Where a part of a mask has to lie to be kept, by cells, of a block ``(D, ...)``; None as above."""
        if self.lungs is not None:
            cell = self.networks.stages.config.cell
            return self.lungs.around[:, ::cell, ::cell]
        inside = self.inside(organ)
        if inside is None:
            return None
        return inside[0] if self.seen.block else inside

    @property
    def field(self) -> tuple[float, ...] | None:
        """Lengths of a block's axes as shares of :data:`FIELD_MM`; None of slices."""
        sides = zip(self.seen.images.shape, self.seen.spacing_mm, strict=True)
        return tuple(n * mm / FIELD_MM for n, mm in sides) if self.seen.block else None

    @property
    def nbytes(self) -> int:
        """Size in memory, of what was computed so far."""
        apart = [one.nbytes for one in self.alone.values() if one and one.images is not self.images]
        tensors = [self.images]
        if "encoded" in self.__dict__:
            tensors += [*self.stages, self.decoded.decoded]
        pictured = self.__dict__.get("pictured")
        tensors += [pictured] if pictured is not None else []
        told = self.told.nbytes if "told" in self.__dict__ and self.told else 0
        return self.scan.array.nbytes + sum(apart) + sum(tensor.nbytes for tensor in tensors) + told
