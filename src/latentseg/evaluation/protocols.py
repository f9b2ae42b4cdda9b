"""EP1 and EP2, the evaluation protocols of the few-shot literature, in one domain and across two.

One scan of a fold is the support, the others are the queries. Dice is computed per patient, on the original
grid of the scan.

* **EP1** (nearly all papers): of support and query, only the slices that contain the organ are used, so EP1
  does not measure whether a method finds an organ where there is none. The `C` query slices are cut into
  three chunks at `linspace(0, C, 4)`; chunk `k` is segmented with the support slice at `(k + 0.5) / 3` of the
  support slices that contain the organ.
* **EP2** (the default of ADNet): every slice of the query is segmented with the middle one of the support
  slices that contain the organ; false positives on slices without the organ count. A method with rules for
  whole scans (see `ScanMethod`) is also given all slices of the support, and which of them contain the organ.
  The query's slices without the organ are then segmented once more, as a scan of their own.

With more **shots**, a query gets further support scans: those of the support's fold in cyclic order after the
support scan, without the query itself, and then the scans that follow the fold in the published order. The
queries stay the same, so that shots can be compared case by case.

The word cross-domain has two meanings. In FAMNet's protocol (setting `cross-domain`) the training is on
another modality, while support and query have the same one. With a `support_dataset`, the support itself has
another
modality: it is the scan at the same position of a fold of that data set, and the queries stay the same scans.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.evaluation.datasets.base import Dataset
from latentseg.evaluation.rows import Row, RowKey
from latentseg.evaluation.settings import Setting
from latentseg.evaluation.slices import (
    PUBLISHED_SIZE,
    PreparedCase,
    ScanMethod,
    SliceMethod,
    SupportSlices,
    decided,
    prepare,
    scan_answer,
    segment_by_chunks,
    support_slices,
)
from latentseg.methods.fewshot.support import THIRDS
from latentseg.metrics.overlap import overlap
from latentseg.metrics.presence import auroc
from latentseg.metrics.surface import surface_distances


@dataclass(frozen=True, eq=False)
class Answer:
    """What a protocol made of a method's answers for one organ of one scan.

    Attributes:
        chance: `(S, size, size)` in canonical slices; 0 where the protocol gives no slice.
        mask: `(I, J, K)` on the scan's grid.
        facts: Fields of the row that only this protocol has.
    """

    chance: NDArray[np.float32]
    mask: NDArray[np.bool_]
    facts: dict[str, float | int | bool | None]


@dataclass(frozen=True)
class FewShotProtocol:
    """One run of a protocol, with the data sets of its queries and of its support.

    Attributes:
        dataset: Data set of the queries.
        fold: Fold of the queries.
        support_index: Position of the support scan in its fold, 2 in most published code, or -1.
        support_dataset: Data set of the support; None is the data set of the queries.
        support_fold: Fold of the support; None is `fold` within one data set and 0 across two.
        organs: What to segment; empty is what the data set is known for.
        shots: Support scans of each query.
        support_slices: Slices of each support scan.
        setting: What the training may have seen, see `settings`.
        size: Side of the slices given to the methods, in pixels.
        whole_range: Whether scans are normalized from their smallest to their largest value, as released.
    """

    name: ClassVar[str] = ""
    whole_scans: ClassVar[bool] = False

    dataset: Dataset
    fold: int = 0
    support_index: int = 2
    support_dataset: Dataset | None = None
    support_fold: int | None = None
    organs: Sequence[str] = ()
    shots: int = 1
    support_slices: int = THIRDS
    setting: Setting = "1"
    size: int = PUBLISHED_SIZE
    whole_range: bool = False

    def prepared(self, dataset: Dataset, case: str) -> PreparedCase:
        """A scan of a data set as the methods get it; raises the errors of reading it."""
        return prepare(dataset.load(case), size=self.size, whole_range=self.whole_range)

    @property
    def targets(self) -> tuple[str, ...]:
        """What is segmented."""
        return tuple(self.organs) or self.dataset.targets

    def cases(self) -> tuple[tuple[Dataset, str], list[str]]:
        """Data set and id of the (first) support scan, and the ids of the query scans.

        Raises:
            UsageError: The fold or the position in it does not exist.
            InputError: Cases of a fold are missing on this machine.
        """
        source, fold = self._source()
        members = self._queried().fold(self.fold)
        left_out = _pick(members, self.support_index, where=f"{self.dataset.name} fold {self.fold}")
        support = _pick(source.fold(fold), self.support_index, where=f"{source.name} fold {fold}")
        used = {left_out} if self._crosses() else {left_out, support}
        return (source, support), [case for case in members if case not in used]

    def supports(self, query: str) -> list[str]:
        """Ids of the support scans of a query, the first one first.

        Raises:
            UsageError: There are not that many scans.
        """
        source, fold = self._source()
        members, order = source.members(fold), source.folds[fold]
        first = members.index(_pick(members, self.support_index, where=f"{source.name} fold {fold}"))
        after = [source.ids[(order[-1] + 1 + n) % len(source.ids)] for n in range(len(source.ids))]
        candidates = [*members[first:], *members[:first], *(case for case in after if case not in members)]
        usable = [case for case in candidates if self._crosses() or case != query]
        if not 1 <= self.shots <= len(usable):
            fix = f"choose from 1 to {len(usable)}"
            raise UsageError(f"{self.shots} shots of {source.name} are not possible", where="shots", fix=fix)
        return usable[: self.shots]

    def check(self) -> None:
        """Notice before the work what would stop it later.

        Raises:
            UsageError: A fold, a position, an organ or a number of shots that does not exist.
            InputError: Cases are missing on this machine.
        """
        (source, _), queries = self.cases()
        for dataset in (self.dataset, source):
            for organ in self.targets:
                if organ not in dataset.label_of:
                    known = ", ".join(dataset.label_of)
                    raise UsageError(f"no organ '{organ}'", where=dataset.name, fix=f"choose from {known}")
        if self.support_slices < 1:
            raise UsageError(f"{self.support_slices} support slices", fix="take at least one")
        needed = dict.fromkeys(case for query in queries for case in self.supports(query))
        source.require(list(needed), what=f"{self.shots}-shot support")

    def segment(
        self, method: SliceMethod, query: PreparedCase, *, supports: Sequence[SupportSlices], organ: str
    ) -> Answer:
        """Segment one organ of one scan as this protocol has it."""
        raise NotImplementedError

    def asks(self, query: PreparedCase, organ: str) -> bool:
        """Whether the organ of this scan is evaluated."""
        raise NotImplementedError

    def row(self, query: str, *, organ: str, method: SliceMethod) -> Row:
        """The row of a result, before there is one."""
        return Row(
            protocol=self.name,
            dataset=self.dataset.name,
            fold=self.fold,
            case=query,
            support_dataset=self._source()[0].name,
            support_index=self.support_index,
            support_case=" ".join(self.supports(query)),
            organ=organ,
            method=method.name,
            slices=0,
            both=0,
            only_prediction=0,
            only_truth=0,
            voxel_volume_ml=0.0,
            setting=self.setting,
            shots=self.shots,
            support_slices=self.support_slices,
            weights=str(getattr(method, "fingerprint", "")),
        )

    def _queried(self) -> Dataset:
        return self.dataset.across_domains() if self.setting == "cross-domain" else self.dataset

    def _crosses(self) -> bool:
        return self.support_dataset is not None and self.support_dataset.name != self.dataset.name

    def _source(self) -> tuple[Dataset, int]:
        """Data set and fold of the support."""
        source = self.support_dataset if self.support_dataset and self._crosses() else self._queried()
        default = 0 if self._crosses() else self.fold
        return source, default if self.support_fold is None else self.support_fold


@dataclass(frozen=True)
class EP1(FewShotProtocol):
    """Slices that hold the organ, in thirds; see the module.

    Attributes:
        every_chunk: Show every chunk all support slices, as the released SD-FSMIS does, not only its own.
    """

    name: ClassVar[str] = "EP1"

    every_chunk: bool = False

    def segment(
        self, method: SliceMethod, query: PreparedCase, *, supports: Sequence[SupportSlices], organ: str
    ) -> Answer:
        """Segment the slices that hold the organ, third by third."""
        held = query.held(organ)
        chance = np.zeros(query.images.shape, np.float32)
        chance[held] = segment_by_chunks(
            method, supports=supports, query_slices=query.images[held], every_chunk=self.every_chunk
        )
        return Answer(chance, query.restore(chance) >= 0.5, {"slices": len(held)})

    def asks(self, query: PreparedCase, organ: str) -> bool:
        """A scan without the organ is left out, as in published code."""
        return query.held(organ).size > 0


@dataclass(frozen=True)
class EP2(FewShotProtocol):
    """Whole volumes, absence counts; see the module."""

    name: ClassVar[str] = "EP2"
    whole_scans: ClassVar[bool] = True

    support_slices: int = 1

    def segment(
        self, method: SliceMethod, query: PreparedCase, *, supports: Sequence[SupportSlices], organ: str
    ) -> Answer:
        """Segment every slice, and measure what is found where the organ is not."""
        support, spacing_mm = SupportSlices.join(supports), query.seen.spacing_mm
        answer = scan_answer(method, support, query.images, spacing_mm=spacing_mm)
        chance, scores = answer.chance, answer.scores
        found = decided(method, answer, query.seen.undo)
        absent = np.ones(len(chance), bool)
        absent[query.held(organ)] = False
        facts: dict[str, float | int | bool | None] = {
            "slices": len(chance),
            "absent_slices": int(absent.sum()),
            "false_voxels": int(found[absent].sum()),
            "false_slices": int((found.any(axis=(1, 2)) & absent).sum()),
            "slice_auroc": auroc(scores[~absent].tolist(), scores[absent].tolist()),
            "presence": None if absent.all() else float(scores.max()),
        }
        if absent.any():
            alone = isinstance(method, ScanMethod)  # for others slices are slices
            slices = query.images[absent]
            rest = scan_answer(method, support, slices, spacing_mm=spacing_mm) if alone else answer[absent]
            facts["absent_presence"] = float(rest.scores.max())
            facts["absent_found"] = bool(decided(method, rest, query.seen.undo).any())
        return Answer(chance, np.asarray(query.canonical.restore(found)), facts)

    def asks(self, query: PreparedCase, organ: str) -> bool:
        """Always: to find nothing in a scan without the organ is an answer, too."""
        del query, organ
        return True


@dataclass(frozen=True, eq=False)
class Outcome:
    """One organ of one query scan, segmented by one method.

    Attributes:
        row: The numbers.
        query: The query scan.
        support: The support slices of all shots `(n, size, size)`.
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


def run_protocol(
    protocol: FewShotProtocol,
    *,
    methods: Sequence[SliceMethod],
    done: Container[RowKey] = frozenset(),
    queries: int | None = None,
) -> Iterator[Outcome]:
    """Evaluate methods on the same inputs, one outcome per query, organ and method, as they are ready.

    Args:
        protocol: What to run.
        methods: What to run it on.
        done: Keys of rows that need not be made again.
        queries: How many query scans to take, from the first on; None is all.

    Raises:
        UsageError: See `FewShotProtocol.check`; or a method whose weights want other intensities.
        InputError: Cases are missing or cannot be read, or a support scan does not hold an organ.
    """
    protocol.check()
    for method in methods:
        if getattr(method, "whole_range", protocol.whole_range) != protocol.whole_range:
            said = ["percentiles", "range"]
            seen, wanted = said[protocol.whole_range], said[not protocol.whole_range]
            fix = "evaluate the weights with the intensities that they were trained with"
            raise UsageError(
                f"intensities are {seen}, and the weights want {wanted}", where=method.name, fix=fix
            )
    (source, _), cases = protocol.cases()

    @cache
    def shown(support: str) -> dict[str, SupportSlices]:
        scan, count = protocol.prepared(source, support), protocol.support_slices
        whole = protocol.whole_scans
        return {
            organ: support_slices(scan, organ=organ, count=count, whole=whole) for organ in protocol.targets
        }

    for case in cases[:queries]:
        todo = [
            (method, row)
            for organ in protocol.targets
            for method in methods
            if (row := protocol.row(case, organ=organ, method=method)).key not in done
        ]
        if todo:
            supports = [shown(support) for support in protocol.supports(case)]
            query = protocol.prepared(protocol.dataset, case)
        for method, row in todo:
            if protocol.asks(query, row.organ):
                examples = [slices[row.organ] for slices in supports]
                answer = protocol.segment(method, query, supports=examples, organ=row.organ)
                yield _outcome(row, query, support=SupportSlices.join(examples), answer=answer)


def _outcome(row: Row, query: PreparedCase, *, support: SupportSlices, answer: Answer) -> Outcome:
    """Score an answer on the scan's grid."""
    truth, image = query.case.mask(row.organ), query.case.image
    counts = overlap(answer.mask, truth)
    distances = surface_distances(answer.mask, truth, spacing_mm=image.spacing_mm)
    scored = replace(
        row,
        both=counts.both,
        only_prediction=counts.only_prediction,
        only_truth=counts.only_truth,
        voxel_volume_ml=image.voxel_volume_ml,
        nsd=distances.nsd(),
        hd95_mm=distances.hd95_mm,
        assd_mm=distances.assd_mm,
        **answer.facts,  # type: ignore[arg-type]  # the names are those of the row
    )
    return Outcome(scored, query, support, answer.chance, query.mask_slices(row.organ), answer.mask)


def _pick(cases: Sequence[str], index: int, *, where: str) -> str:
    if not -len(cases) <= index < len(cases):
        fix = f"choose an index from 0 to {len(cases) - 1}, or -1"
        raise UsageError(f"no support scan {index}", where=where, fix=fix)
    return cases[index]
