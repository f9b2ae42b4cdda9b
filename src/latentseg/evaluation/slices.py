"""Scans as few-shot methods get them: square canonical slices, and how masks return to the scan's grid."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, LatentsegWarning
from latentseg.evaluation.datasets.base import Case
from latentseg.imaging import Canonical, fit_square
from latentseg.imaging.network_input import NetworkInput, Undo, square_slices
from latentseg.methods.fewshot.support import THIRDS, fit_masks, support_positions
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.metrics.presence import presence_scores

PUBLISHED_SIZE = 256  # edge in pixels of the slices in the few-shot literature


@dataclass(frozen=True, eq=False)
class SupportSlices:
    """Examples of one organ: canonical slices with their masks.

    Attributes:
        images: `(n, H, W)` float32 in [-1, 1].
        masks: `(n, H, W)` bool.
        scans: The whole scans they come from, for protocols that ask for whole scans.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]
    scans: tuple[SupportScan, ...] = ()

    def __getitem__(self, at: slice) -> SupportSlices:
        """Some of the slices."""
        return SupportSlices(self.images[at], self.masks[at], self.scans)

    @classmethod
    def join(cls, parts: Sequence[SupportSlices]) -> SupportSlices:
        """The slices of several scans, in order."""
        images, masks = (np.concatenate([getattr(p, name) for p in parts]) for name in ("images", "masks"))
        return cls(images, masks, tuple(scan for p in parts for scan in p.scans))


class SliceMethod(Protocol):
    """A method that segments slices by examples: a few-shot network or a baseline."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Segment slices.

        Args:
            support: Examples `(n, H, W)` with masks.
            query_slices: `(S, H, W)` in [-1, 1], inferior to superior.

        Returns:
            Probability `(S, H, W)` of the organ; 0.5 and above is the organ.
        """


@dataclass(frozen=True, eq=False)
class ScanAnswer:
    """The answer of a method for all slices of a scan.

    Attributes:
        chance: Probability `(S, H, W)`.
        scores: How present the organ is on each slice, `(S,)` in [0, 1].
        mask: `(S, H, W)`, where the method decides on its own grid what is the organ.
    """

    chance: NDArray[np.float32]
    scores: NDArray[np.floating]
    mask: NDArray[np.bool_] | None = None

    def __getitem__(self, at: NDArray[np.bool_]) -> ScanAnswer:
        """Some of the slices."""
        mask = None if self.mask is None else self.mask[at]
        return ScanAnswer(self.chance[at], self.scores[at], mask)


@runtime_checkable
class ScanMethod(Protocol):
    """A method that also has rules for whole scans: where an organ can be, and whether it is there at all."""

    def scan(
        self,
        support: SupportSlices,
        query_slices: NDArray[np.float32],
        *,
        spacing_mm: tuple[float, float, float],
    ) -> ScanAnswer:
        """Segment all slices `(S, H, W)` of a scan, inferior to superior.

        Args:
            support: Examples, with their scans.
            query_slices: In [-1, 1].
            spacing_mm: Distance of slices, rows and columns.
        """

    def decide(self, answer: ScanAnswer, fine: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Mask `(S, H', W')` of a scan.

        Args:
            answer: What the method answered.
            fine: Its probability on the slices' own grid, `(S, H', W')`.
        """


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case as the methods get it, and how a mask returns to the grid of the scan.

    Attributes:
        case: Scan and labels as stored.
        seen: The scan as square canonical slices.
    """

    case: Case
    seen: NetworkInput

    @property
    def images(self) -> NDArray[np.float32]:
        """`(S, size, size)` in [-1, 1]."""
        return self.seen.images

    @property
    def canonical(self) -> Canonical:
        """Orientation to slices and back."""
        return self.seen.canonical

    def mask_slices(self, organ: str) -> NDArray[np.bool_]:
        """Mask of one organ as canonical slices `(S, size, size)`."""
        slices = self.canonical.apply(self.case.mask(organ))
        pixel_mm = self.canonical.spacing_mm[1:]
        return np.asarray(fit_square(slices, self.images.shape[-1], kind="mask", pixel_mm=pixel_mm)[0])

    def held(self, organ: str) -> NDArray[np.intp]:
        """Indices of the slices that hold the organ on the original grid, inferior to superior."""
        return np.flatnonzero(self.canonical.apply(self.case.mask(organ)).any(axis=(1, 2)))

    def restore(self, probability: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring slices `(S, size, size)` back to the grid `(I, J, K)` of the scan."""
        return np.asarray(self.seen.back(probability))


def prepare(case: Case, *, size: int = PUBLISHED_SIZE, whole_range: bool = False) -> PreparedCase:
    """Normalize a scan and turn it into square canonical slices, as the segmenter does.

    With ``whole_range`` from its smallest to its largest value, as the released SD-FSMIS does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)  # the published CT files are windowed to 8 bits
        return PreparedCase(case, square_slices(case.image, size, whole_range=whole_range))


def support_slices(
    support: PreparedCase, *, organ: str, count: int = THIRDS, whole: bool = False
) -> SupportSlices:
    """The slices at `(k + 0.5) / count` of the slices that hold the organ; their `whole` scan on demand.

    Raises:
        InputError: The scan does not hold the organ.
    """
    held = support.held(organ)
    if held.size == 0:
        where = f"{support.case.dataset} case {support.case.id}"
        raise InputError(f"the support scan has no {organ}", where=where, fix="choose another support scan")
    positions = support_positions(held.size, count=count)
    chosen = held[sorted(set(positions)) if whole else positions]  # a chunk needs its slice, a scan does not
    inside, canonical = support.canonical.apply(support.case.mask(organ)), support.canonical
    pixel_mm, size = canonical.spacing_mm[1:], support.images.shape[-1]
    masks = fit_masks(inside[chosen], pixel_mm=pixel_mm, size=size)
    scans: tuple[SupportScan, ...] = ()
    if whole:
        step_mm, pixel, _ = support.seen.spacing_mm
        everywhere = fit_masks(inside, pixel_mm=pixel_mm, size=size)
        scans = (SupportScan.of(support.images, everywhere, step_mm=step_mm, side_mm=pixel * size),)
    return SupportSlices(support.images[chosen], masks, scans)


def chunk_bounds(slices: int, *, count: int = THIRDS) -> list[tuple[int, int]]:
    """Half-open bounds of the chunks, `linspace(0, slices, count + 1)` cut to integers; some may be empty."""
    cuts = np.linspace(0, slices, count + 1).astype(int).tolist()
    return list(pairwise(cuts))


def segment_by_chunks(
    method: SliceMethod,
    *,
    supports: Sequence[SupportSlices],
    query_slices: NDArray[np.float32],
    every_chunk: bool = False,
) -> NDArray[np.float32]:
    """Segment `(S, H, W)`, chunk `k` with slice `k` of each support scan, or every chunk with all of them.

    Raises:
        InputError: The method's answer is not a finite probability of the slices' shape.
    """
    probability = np.zeros(query_slices.shape, np.float32)
    for k, (start, stop) in enumerate(chunk_bounds(len(query_slices), count=len(supports[0].images))):
        if start < stop:
            own = slice(None) if every_chunk else slice(k, k + 1)
            shown = SupportSlices.join([support[own] for support in supports])
            probability[start:stop] = answer_of(method, shown, query_slices[start:stop])
    return probability


def answer_of(
    method: SliceMethod, support: SupportSlices, query_slices: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What a method answers.

    Raises:
        InputError: It is not a finite probability of the slices' shape.
    """
    answer = np.asarray(method(support, query_slices), np.float32)
    if answer.shape != query_slices.shape or not np.isfinite(answer).all():
        seen = f"shape {answer.shape} or non-finite values, expected {query_slices.shape}"
        what = f"the method answered with {seen}"
        raise InputError(what, where=method.name, fix="return one finite probability per pixel")
    return answer


def scan_answer(
    method: SliceMethod,
    support: SupportSlices,
    query_slices: NDArray[np.float32],
    *,
    spacing_mm: tuple[float, float, float],
) -> ScanAnswer:
    """What a method answers to a whole scan, by its own rules for scans where it has any."""
    if isinstance(method, ScanMethod):
        return method.scan(support, query_slices, spacing_mm=spacing_mm)
    chance = answer_of(method, support, query_slices)
    return ScanAnswer(chance, presence_scores(chance))


def decided(method: SliceMethod, answer: ScanAnswer, undo: Undo) -> NDArray[np.bool_]:
    """Mask of a whole scan on its own slices, by the method's rules or at one half."""
    if answer.mask is not None:
        return np.asarray(undo(answer.mask)).astype(bool)
    fine = np.asarray(undo(answer.chance))
    return method.decide(answer, fine) if isinstance(method, ScanMethod) else fine >= 0.5
