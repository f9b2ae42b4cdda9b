"""EP1, the few-shot field's evaluation protocol, in one domain and across two.

One scan of a fold is the support, the others are queries. For each organ only the slices that hold it are
used, of support and query alike (so EP1 says nothing about absence). The `C` query slices are cut into
three chunks at `linspace(0, C, 4)`; chunk `k` is segmented with the one support slice that lies at
`(k + 0.5) / 3` of the support's own slices. Dice is computed per patient, on the scan's original grid.

Across domains, the support comes from the same position of a fold of another data set; the queries stay
the same scans, so that a row with a CT support compares with the row with an MR support.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentseg.errors import InputError, LatentsegWarning, UsageError
from latentseg.evaluation.datasets.base import ORGANS, Case, Dataset
from latentseg.evaluation.metrics import overlap
from latentseg.evaluation.tables import Row
from latentseg.imaging import Canonical, fit_square, normalize, to_canonical

CHUNKS = 3


@dataclass(frozen=True, eq=False)
class SupportSlices:
    """Examples of one organ: canonical slices with their masks.

    Attributes:
        images: `(n, H, W)` float32 in [-1, 1].
        masks: `(n, H, W)` bool.
    """

    images: NDArray[np.float32]
    masks: NDArray[np.bool_]


class SliceMethod(Protocol):
    """Anything that segments slices after examples; few-shot networks and baselines alike."""

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


@dataclass(frozen=True)
class EP1:
    """One run of the protocol: whose queries, whose support.

    Attributes:
        dataset: Data set of the queries.
        fold: Fold of the queries.
        support_index: Position of the support scan in its fold, 2 in most published code, or -1.
        support_dataset: Data set of the support; None is the data set of the queries.
        support_fold: Fold of the support; None is `fold` within one data set and 0 across two.
        organs: What to segment.
        size: Side of the slices given to the methods, in pixels.
    """

    dataset: Dataset
    fold: int = 0
    support_index: int = 2
    support_dataset: Dataset | None = None
    support_fold: int | None = None
    organs: Sequence[str] = ORGANS
    size: int = 256

    def cases(self) -> tuple[tuple[Dataset, str], list[str]]:
        """Data set and id of the support scan, and the ids of the query scans.

        Raises:
            UsageError: The fold or the position in it does not exist.
            InputError: Cases of a fold are missing on this machine.
        """
        source = self.support_dataset or self.dataset
        crossing = source.name != self.dataset.name
        default = 0 if crossing else self.fold
        fold = default if self.support_fold is None else self.support_fold
        members = self.dataset.fold(self.fold)
        left_out = _pick(members, self.support_index, where=f"{self.dataset.name} fold {self.fold}")
        support = _pick(source.fold(fold), self.support_index, where=f"{source.name} fold {fold}")
        used = {left_out} if crossing else {left_out, support}
        return (source, support), [case for case in members if case not in used]


@dataclass(frozen=True, eq=False)
class PreparedCase:
    """A case as the methods see it, and the way back to its grid.

    Attributes:
        case: Scan and labels as stored.
        canonical: Orientation to slices and back.
        images: `(S, size, size)` float32 in [-1, 1].
        undo: Takes `(S, size, size)` back to the slices' own height and width.
    """

    case: Case
    canonical: Canonical
    images: NDArray[np.float32]
    undo: Callable[[NDArray[Any]], NDArray[Any]]

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
        return np.asarray(self.canonical.restore(self.undo(probability)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """One organ of one query scan, segmented by one method.

    Attributes:
        row: The numbers.
        query: The query scan.
        support: The support slices, one per chunk `(3, size, size)`.
        probability: `(S, size, size)` in canonical slices; 0 where the protocol gives no slice.
        truth: `(S, size, size)` true mask in canonical slices, for pictures.
        mask: `(I, J, K)` predicted mask on the scan's grid, the one that was scored.
    """

    row: Row
    query: PreparedCase
    support: SupportSlices
    probability: NDArray[np.float32]
    truth: NDArray[np.bool_]
    mask: NDArray[np.bool_]


def prepare(case: Case, *, size: int = 256) -> PreparedCase:
    """Normalize a scan and turn it into square canonical slices."""
    canonical = to_canonical(case.image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)  # the field's CT is known to be windowed to 8 bits
        normal = normalize(canonical.slices, modality=case.image.modality)
    images, undo = fit_square(normal, size, pixel_mm=canonical.spacing_mm[1:])
    return PreparedCase(case, canonical, images, undo)


def support_slices(support: PreparedCase, *, organ: str, count: int = CHUNKS) -> SupportSlices:
    """The slices at `(k + 0.5) / count` of the slices that hold the organ.

    Raises:
        InputError: The scan does not hold the organ.
    """
    held = support.held(organ)
    if held.size == 0:
        where = f"{support.case.dataset} case {support.case.id}"
        raise InputError(f"the support scan has no {organ}", where=where, fix="choose another support scan")
    chosen = held[support_positions(held.size, count=count)]
    return SupportSlices(support.images[chosen], support.mask_slices(organ)[chosen])


def support_positions(slices: int, *, count: int = CHUNKS) -> list[int]:
    """Positions `floor((k + 0.5) / count * slices)` of the support slices."""
    return [int((k + 0.5) / count * slices) for k in range(count)]


def chunk_bounds(slices: int, *, count: int = CHUNKS) -> list[tuple[int, int]]:
    """Half-open bounds of the chunks, `linspace(0, slices, count + 1)` cut to integers; some may be empty."""
    cuts = np.linspace(0, slices, count + 1).astype(int).tolist()
    return list(pairwise(cuts))


def segment_by_chunks(
    method: SliceMethod, *, support: SupportSlices, query_slices: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Segment `(S, H, W)`, chunk `k` with support slice `k`.

    Raises:
        InputError: The method's answer is not a finite probability of the slices' shape.
    """
    probability = np.zeros(query_slices.shape, np.float32)
    for k, (start, stop) in enumerate(chunk_bounds(len(query_slices), count=len(support.images))):
        if start == stop:
            continue
        one = SupportSlices(support.images[k : k + 1], support.masks[k : k + 1])
        chunk = query_slices[start:stop]
        probability[start:stop] = _checked(method(one, chunk), shape=chunk.shape, name=method.name)
    return probability


def run_ep1(protocol: EP1, *, methods: Sequence[SliceMethod]) -> Iterator[Outcome]:
    """Evaluate methods on the same inputs, one outcome per query, organ and method, as they are ready.

    A query that does not hold an organ is left out for that organ, as in the field.

    Raises:
        UsageError: The fold, the position in it or an organ does not exist.
        InputError: Cases are missing, or the support scan does not hold an organ.
    """
    (source, support_id), queries = protocol.cases()
    support = prepare(source.load(support_id), size=protocol.size)
    examples = {organ: support_slices(support, organ=organ) for organ in protocol.organs}
    for query_id in queries:
        query = prepare(protocol.dataset.load(query_id), size=protocol.size)
        for organ in protocol.organs:
            for method in methods if query.held(organ).size else ():
                yield _outcome(protocol, method, query, support=(support.case, examples[organ]), organ=organ)


def _outcome(
    protocol: EP1,
    method: SliceMethod,
    query: PreparedCase,
    *,
    support: tuple[Case, SupportSlices],
    organ: str,
) -> Outcome:
    held, (support_case, examples) = query.held(organ), support
    probability = np.zeros(query.images.shape, np.float32)
    probability[held] = segment_by_chunks(method, support=examples, query_slices=query.images[held])
    mask = query.restore(probability) >= 0.5
    counts = overlap(mask, query.case.mask(organ))
    row = Row(
        protocol="EP1",
        dataset=query.case.dataset,
        fold=protocol.fold,
        case=query.case.id,
        support_dataset=support_case.dataset,
        support_index=protocol.support_index,
        support_case=support_case.id,
        organ=organ,
        method=method.name,
        slices=len(held),
        both=counts.both,
        only_prediction=counts.only_prediction,
        only_truth=counts.only_truth,
        voxel_volume_ml=query.case.image.voxel_volume_ml,
    )
    return Outcome(row, query, examples, probability, query.mask_slices(organ), mask)


def _pick(cases: Sequence[str], index: int, *, where: str) -> str:
    if not -len(cases) <= index < len(cases):
        fix = f"choose an index from 0 to {len(cases) - 1}, or -1"
        raise UsageError(f"no support scan {index}", where=where, fix=fix)
    return cases[index]


def _checked(probability: ArrayLike, *, shape: tuple[int, ...], name: str) -> NDArray[np.float32]:
    answer = np.asarray(probability, np.float32)
    if answer.shape != shape or not np.isfinite(answer).all():
        what = f"the method answered with shape {answer.shape} or non-finite values, expected {shape}"
        raise InputError(what, where=name, fix="return one finite probability per pixel")
    return answer
