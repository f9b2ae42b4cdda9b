"""DiffuGTS on volumes: the scan is encoded once, every prompt then costs attention and what is suspicious.

With a 2-D backbone a volume is a stack of slices; what ties them together is a smoothing of the evidence
across slices before anything is decided, and noise that is a function of (seed, case, slice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.errors import caution
from latentseg.fewshot.segmenter import Progress
from latentseg.fewshot.support import check_slices
from latentseg.imaging import Canonical, Volume, normalize, to_canonical
from latentseg.results import Segmentations, check_names
from latentseg.tumor.attention_maps import ABNORMAL, NORMAL
from latentseg.tumor.evidence import Evidence, TumorSegmentation
from latentseg.tumor.features import FrozenStages
from latentseg.tumor.field import body_field
from latentseg.tumor.network import TumorNetwork
from latentseg.tumor.options import RECOMMENDED, TumorOptions
from latentseg.tumor.queries import Queries, Query
from latentseg.tumor.refinement import Refined, RefinementOptions, Refiner


@dataclass(frozen=True, eq=False)
class TumorParts:
    """The networks of DiffuGTS on one backbone.

    Attributes:
        stages: Frozen features, of a backbone with a denoiser.
        network: What was trained.
        queries: Reads prompts.
        condition: Tokens of the denoiser for phrases such as ("CT", "abdomen", "healthy").
        fingerprint: Identifies the weights.
        without: Findings that were left out of the training.
    """

    stages: FrozenStages
    network: TumorNetwork
    queries: Queries
    condition: Callable[[Sequence[str]], Tensor]
    fingerprint: str
    without: tuple[str, ...] = ()

    @property
    def backbone(self) -> Backbone:
        """The frozen model."""
        return self.stages.backbone


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan after the part of the work that does not depend on the prompt.

    Attributes:
        scan: The scan.
        canonical: Its axial slices and the way back.
        undo: From ``(S, 256, 256)`` to the slices' own size.
        images: ``(S, 1, 256, 256)`` in [-1, 1].
        stages: Frozen features, in half precision.
    """

    scan: Volume
    canonical: Canonical
    undo: Callable[[NDArray[Any]], NDArray[Any]]
    images: Tensor
    stages: list[Tensor]


class TumorSegmenter:
    """DiffuGTS as a segmenter: ``prepare`` a scan once, ``predict`` each prompt, or simply call it."""

    def __init__(self, parts: TumorParts, *, options: TumorOptions | None = None) -> None:
        self.parts = parts
        self.options = options or RECOMMENDED

    def __call__(
        self, scan: Volume, targets: Sequence[str], *, on_progress: Progress | None = None
    ) -> Segmentations:
        """Segment every prompt.

        Args:
            scan: Any volume; a picture is a volume of one slice.
            targets: Prompts such as "liver tumor".
            on_progress: Called with ``(done, total, stage)``.

        Raises:
            UsageError: No prompt, two alike, or one that cannot be read.
            InputError: A scan that cannot be segmented.
            GeometryError: Axial slices too narrow to be segmented.
        """
        check_names(targets)
        for target in targets:
            self.check(target, modality=scan.modality)
        report = on_progress or (lambda *_: None)
        report(0, len(targets) + 1, "reading the scan")
        prepared = self.prepare(scan)
        results = Segmentations()
        for done, target in enumerate(targets, start=1):
            report(done, len(targets) + 1, target)
            results[target] = self.predict(prepared, target)
        report(len(targets) + 1, len(targets) + 1, "done")
        return results

    def check(self, target: str, *, modality: str = "unknown") -> None:
        """Read a prompt without a scan, so that what cannot be read is said before the work.

        Raises:
            UsageError: A prompt that cannot be read.
        """
        self.parts.queries(target, modality)

    def prepare(self, scan: Volume) -> PreparedScan:
        """Encode a scan.

        Raises:
            InputError: A constant scan, or one with values that are no numbers.
            GeometryError: Axial slices too narrow to be segmented.
        """
        where = str(scan.source or "the scan")
        canonical = to_canonical(scan)
        check_slices(canonical, where=where)
        values = normalize(canonical.slices, modality=scan.modality, where=where)
        size = self.parts.backbone.image_size
        slices, undo = body_field(values, size, pixel_mm=canonical.spacing_mm[1:])
        images = torch.from_numpy(slices)[:, None]
        slabs = [self.parts.stages(slab) for slab in images.split(self.options.slab)]
        stages = [torch.cat([stage.half() for stage in level]) for level in zip(*slabs, strict=True)]
        return PreparedScan(scan, canonical, undo, images, stages)

    @torch.no_grad()
    def predict(self, prepared: PreparedScan, target: str) -> TumorSegmentation:
        """Segment one prompt in a prepared scan.

        Raises:
            UsageError: A prompt that cannot be read.
        """
        scan, options = prepared.scan, self.options
        query = self.parts.queries(target, scan.modality)
        warn_of_modality(query, scan)
        attention, scores = self._attention(prepared, query)
        scores = scores * self._in_view(prepared, query)
        flagged = np.flatnonzero((scores >= options.min_presence).numpy())
        refined = self._refine(prepared, query, attention, flagged)
        probability = np.asarray(prepared.undo(refined.probability[:, 0].numpy())).clip(0, 1)
        restore = prepared.canonical.restore
        evidence = Evidence(
            images=prepared.images[:, 0].numpy(),
            attention=attention[:, 0].numpy(),
            healthy=refined.pseudo_healthy[:, 0].numpy(),
            residual=refined.residual[:, 0].numpy(),
            uncertainty=refined.uncertainty[:, 0].numpy(),
            scores=scores.numpy(),
            refined=np.isin(np.arange(len(scores)), flagged),
            undo=prepared.undo,
            canonical=prepared.canonical,
        )
        return TumorSegmentation(
            target,
            scan,
            restore(probability >= options.threshold),
            restore(probability),
            float(scores.max()),
            evidence,
        )

    def _attention(self, prepared: PreparedScan, query: Query) -> tuple[Tensor, Tensor]:
        """Abnormal probability ``(S, 1, H, W)`` and anomaly score ``(S,)``, smooth across slices."""
        margins, scores = [], []
        for start in range(0, len(prepared.images), self.options.slab):
            stages = [level[start : start + self.options.slab].float() for level in prepared.stages]
            maps = self.parts.network.attention(stages, query.texts.expand(len(stages[0]), -1, -1))
            margins.append(maps.logits[:, [ABNORMAL]] - maps.logits[:, [NORMAL]])
            scores.append(maps.score)
        sigma = self.options.across_mm / prepared.canonical.spacing_mm[0]
        margin = F.interpolate(
            smooth(torch.cat(margins), sigma), size=prepared.images.shape[2:], mode="bilinear"
        )
        return margin.sigmoid(), smooth(torch.cat(scores), sigma).sigmoid()

    def _in_view(self, prepared: PreparedScan, query: Query) -> bool:
        """Whether the organ of a prompt may be in view.

        Warns:
            LatentsegWarning: It is not.
        """
        seen = self.parts.network.views.missing(prepared.stages[-1].float(), query.region)
        if seen:
            where = str(prepared.scan.source or "the scan")
            caution(
                f"{where} looks like a scan of the {seen}, and the {query.prompt.organ} is in the "
                f"{query.region}: {query.prompt.text!r} is called absent"
            )
        return not seen

    def _attend(self, query: Query, images: Tensor) -> Tensor:
        """Abnormal probability of other images ``(B, 1, H, W)``."""
        maps = self.parts.network.attention(
            self.parts.stages(images), query.texts.expand(len(images), -1, -1)
        )
        margin = maps.logits[:, [ABNORMAL]] - maps.logits[:, [NORMAL]]
        return F.interpolate(margin, size=images.shape[2:], mode="bilinear").sigmoid()

    def _refine(
        self, prepared: PreparedScan, query: Query, attention: Tensor, flagged: NDArray[np.intp]
    ) -> Refined:
        """The refined maps of all slices; those that are not flagged hold nothing."""
        nothing = torch.zeros_like(attention)
        out = Refined(nothing.clone(), nothing.clone(), prepared.images.clone(), nothing.clone())
        for start in range(0, len(flagged), self.options.slab):
            at = torch.from_numpy(flagged[start : start + self.options.slab])
            if self.options.refinement is None:
                out.probability[at] = attention[at]
            else:
                _put(out, at, self._refine_slab(prepared, query, attention, at, self.options.refinement))
        return out

    def _refine_slab(
        self,
        prepared: PreparedScan,
        query: Query,
        attention: Tensor,
        at: Tensor,
        options: RefinementOptions,
    ) -> Refined:
        """Refine some slices, those that stay undecided with more seeds."""

        def run(rows: Tensor, how: RefinementOptions) -> Refined:
            parts, keys = self.parts, [f"{prepared.scan.name}/{int(row)}" for row in rows]
            condition = parts.condition(query.healthy)
            refiner = Refiner(
                parts.backbone, parts.network.fusion, partial(self._attend, query), condition, how
            )
            return refiner(prepared.images[rows], attention[rows], keys=keys)

        found, extra = run(at, options), self.options.extra_seeds
        doubtful = undecided(found.probability) > self.options.undecided
        if extra and bool(doubtful.any()):
            _put(found, doubtful, run(at[doubtful], replace(options, seeds=options.seeds + extra)))
        return found


def _put(whole: Refined, at: Tensor, part: Refined) -> None:
    """Write the maps of some slices into those of all."""
    for into, values in zip(whole, part, strict=True):
        into[at] = values


def undecided(probability: Tensor) -> Tensor:
    """Share ``(B,)`` of the pixels above 0.25 of ``(B, 1, ...)`` that stay below 0.75."""
    flat = probability.flatten(1)
    above = (flat > 0.25).sum(1)
    return ((flat > 0.25) & (flat < 0.75)).sum(1) / above.clamp(min=1)


def smooth(values: Tensor, sigma: float) -> Tensor:
    """Values ``(S, ...)`` smoothed across slices by a Gaussian of ``sigma`` slices, cut off at the ends."""
    radius = int(2 * sigma)
    if radius == 0 or len(values) == 1:
        return values
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    offsets = torch.arange(len(values))[:, None] - torch.arange(len(values))[None]
    weight = torch.where(offsets.abs() <= radius, kernel[(offsets + radius).clamp(0, 2 * radius)], 0.0)
    out: Tensor = torch.tensordot(weight / weight.sum(1, keepdim=True), values, dims=1)
    return out


def warn_of_modality(query: Query, scan: Volume) -> None:
    """Say when the prompt names another modality than the scan's.

    Warns:
        LatentsegWarning: They differ.
    """
    said = query.prompt.modality
    if said and scan.modality in ("CT", "MR") and said != scan.modality:
        caution(f"the prompt {query.prompt.text!r} says {said}, and the scan is {scan.modality}")
