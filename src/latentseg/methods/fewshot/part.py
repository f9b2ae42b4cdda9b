"""Few-shot segmentation as a list of parts, each one idea in one file.

A part says what it needs to know of the examples and of the scan, both computed once, and what it adds to the
search for one target. To add one, write a :class:`Part` and name it in
:func:`latentseg.methods.fewshot.parts.parts_of`: saved supports, digests, caches and ablations follow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.fewshot.alignment import Alignment
from latentseg.methods.fewshot.cells import described_slices
from latentseg.methods.fewshot.support_scan import SupportScan

Tensors = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Examples:
    """A support as its parts see it.

    Attributes:
        images: ``(G * n, 1, H, W)`` in [-1, 1], the shots of a group next to each other.
        masks: ``(G * n, H, W)`` in {0, 1}.
        shots: ``n``: 1 where each query slice gets one example, all of them where it gets all.
        scans: The whole scans that the slices come from, where they are known.
    """

    images: Tensor
    masks: Tensor
    shots: int
    scans: tuple[SupportScan, ...] = ()


@dataclass(frozen=True, eq=False)
class EncodedScan:
    """A scan as its parts see it: everything that does not depend on the target.

    Attributes:
        images: ``(S, 1, H, W)`` in [-1, 1], on the CPU.
        spacing_mm: Distance of slices, rows and columns.
        tensors: What each part keeps of the slices, under ``part/name``; rows are slices.
    """

    images: Tensor
    spacing_mm: tuple[float, float, float]
    tensors: Tensors = field(default_factory=dict)

    def of(self, part: str) -> Tensors:
        """What a part keeps of the slices."""
        return named(self.tensors, part)

    def __len__(self) -> int:
        """``S``, the number of slices."""
        return len(self.images)

    def __getitem__(self, at: Tensor | slice) -> EncodedScan:
        """Some of the slices."""

        def some(tensor: Tensor) -> Tensor:
            return tensor[at if isinstance(at, slice) else at.to(tensor.device)]

        chosen = {name: some(tensor) for name, tensor in self.tensors.items()}
        return replace(self, images=some(self.images), tensors=chosen)

    @classmethod
    def join(cls, parts: Sequence[EncodedScan], spacing_mm: tuple[float, float, float]) -> EncodedScan:
        """The slices of several, in order."""
        names = parts[0].tensors
        tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in names}
        return cls(torch.cat([part.images for part in parts]), spacing_mm, tensors)

    def described(self) -> tuple[Tensor, Tensor, float]:
        """Which slices are described as cells, where they lie along the body, and the edge of a slice."""
        at = described_slices(len(self), self.spacing_mm[0])
        return at, at * self.spacing_mm[0], self.spacing_mm[1] * self.images.shape[-1]

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(tensor.nbytes for tensor in (self.images, *self.tensors.values()))


class Placement(NamedTuple):
    """How a scan lies on one of the examples, the target on what was found of it.

    Attributes:
        number: Of the example.
        alignment: From the scan to the example.
        weight: How much the example counts, by how well the scan fits it; those of all examples add up to 1.
    """

    number: int
    alignment: Alignment
    weight: float


@dataclass(frozen=True, eq=False)
class Search:
    """How far the search for one target in one scan has come.

    Attributes:
        at: ``(N,)`` long, the slices that are searched, of ``S``.
        log_odds: ``(N, H, W)``, that a pixel belongs to the target; on the CPU.
        in_view: ``(S,)`` in [0, 1], how much each slice may say about the presence of the target.
        among: ``(N, m)`` long, the examples that come into question for each slice; None for all.
        group: ``(N,)`` long, the example that each slice is compared with; None where there is one group.
        hint: ``(N, D, h, w)``, what a network with further channels of input is told.
        mask: ``(N, H, W)`` bool, where a part decides by rules of its own what belongs to the target.
        likely: How far what was found is the target, from 0 to 1.
        reason: Why the target is absent, where a part knows it; one clause.
        placements: How the scan lies on the examples that it was compared with as a whole.
    """

    at: Tensor
    log_odds: Tensor
    in_view: NDArray[np.float64]
    among: Tensor | None = None
    group: Tensor | None = None
    hint: Tensor | None = None
    mask: NDArray[np.bool_] | None = None
    likely: float = 1.0
    reason: str = ""
    placements: tuple[Placement, ...] = ()

    @classmethod
    def everywhere(cls, scan: EncodedScan) -> Search:
        """At the start: every slice is searched, and nothing is known."""
        count, _, height, width = scan.images.shape
        return cls(torch.arange(count), torch.zeros(count, height, width), np.ones(count))


class Part:
    """One idea of few-shot segmentation.

    Attributes:
        name: Under which its tensors are kept and an ablation leaves it out.
    """

    name: ClassVar[str]

    def of_support(self, examples: Examples) -> Tensors:  # noqa: ARG002 - most parts need nothing
        """What it needs to know of the examples; empty where it has nothing to add for them."""
        return {}

    def of_scan(self, images: Tensor) -> Tensors:  # noqa: ARG002
        """What it needs to know of slices ``(B, 1, H, W)``, each tensor with ``B`` rows."""
        return {}

    def get_ready(self, scan: EncodedScan) -> None:
        """Compute what every search of a whole scan needs, and keep it."""

    def __call__(self, search: Search, scan: EncodedScan, support: Tensors) -> Search:
        """Take the search further.

        Args:
            search: What the parts before it found on ``N`` slices.
            scan: Those slices.
            support: What :meth:`of_support` returned.
        """
        raise NotImplementedError


def named(tensors: Tensors, part: str) -> Tensors:
    """The tensors of one part, without its name."""
    return {name.removeprefix(f"{part}/"): t for name, t in tensors.items() if name.startswith(f"{part}/")}


def in_slabs(run: Callable[..., Tensor], size: int, *rows: Tensor | None, **fixed: Any) -> Tensor:
    """The results of a function for some rows at a time, joined; memory grows with ``size`` alone."""
    count = next(len(one) for one in rows if one is not None)
    slabs: Sequence[Tensor] = [
        run(*(None if one is None else one[start : start + size] for one in rows), **fixed)
        for start in range(0, count, size)
    ]
    return torch.cat(list(slabs))
