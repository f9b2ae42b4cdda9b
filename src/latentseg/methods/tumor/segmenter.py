"""DiffuGTS on volumes: the scan is encoded once, every prompt then costs attention and what is suspicious.

With a 2-D backbone a volume is a stack of slices; what ties them together is a smoothing of the evidence
across slices before anything is decided, and noise that is a function of (seed, case, slice).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.errors import caution
from latentseg.imaging import Canonical, Volume, normalize, to_canonical
from latentseg.imaging.components import large_in_volume
from latentseg.imaging.intensity import brightened, is_windowed
from latentseg.methods.diffugts.attention_maps import AttentionMaps, resized
from latentseg.methods.diffugts.refinement import (
    CUT,
    Reconstructions,
    Refined,
    RefinementOptions,
    Refiner,
    leveled,
)
from latentseg.methods.fewshot.segmenter import Progress
from latentseg.methods.fewshot.support import check_slices
from latentseg.methods.results import Segmentations, check_names
from latentseg.methods.tumor.along_slices import bridged, smooth
from latentseg.methods.tumor.appearance import with_edges
from latentseg.methods.tumor.body_crop import body_field, calmed
from latentseg.methods.tumor.closer_look import look_closer
from latentseg.methods.tumor.evidence import Evidence, TumorSegmentation
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.options import RECOMMENDED, TumorOptions
from latentseg.methods.tumor.organs import PART
from latentseg.methods.tumor.queries import Queries, Query

SURE = 1e-4  # probabilities nearer to 0 or 1 have the logit of this one


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
        organs: Chances ``(S, 1 + organs, ...)`` on the finest grid, of the organs that are known.
        decoded: Slices through the autoencoder, of those that some prompt had refined.
    """

    scan: Volume
    canonical: Canonical
    undo: Callable[[NDArray[Any]], NDArray[Any]]
    images: Tensor
    stages: list[Tensor]
    organs: Tensor | None
    decoded: Reconstructions


class Seen(NamedTuple):
    """What the attention says about all slices of a scan.

    Attributes:
        query: What was asked for.
        attention: Abnormal probability ``(S, 1, H, W)``.
        scores: Anomaly score ``(S,)`` in [0, 1].
        away: ``(S, 1, ...)``, distance from the organ of the query; None where it is not known.
    """

    query: Query
    attention: Tensor
    scores: Tensor
    away: Tensor | None


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
        unknown_window = scan.modality == "CT" and is_windowed(canonical.slices)
        bright = brightened(values) if unknown_window else values
        slices, undo = body_field(bright, size, pixel_mm=canonical.spacing_mm[1:])
        calm = calmed(slices) if scan.modality == "CT" else slices
        images = torch.from_numpy(brightened(calm) if unknown_window else calm)[:, None]
        slabs = [self.parts.stages(slab) for slab in images.split(self.options.slab)]
        stages = [torch.cat([stage.half() for stage in level]) for level in zip(*slabs, strict=True)]
        decoded = Reconstructions(self.parts.backbone, images)
        return PreparedScan(scan, canonical, undo, images, stages, self._organs(stages, canonical), decoded)

    @torch.no_grad()
    def _organs(self, stages: Sequence[Tensor], canonical: Canonical) -> Tensor | None:
        """Chances of organs, smooth across slices; None where none are known or asked for."""
        organs = self.parts.network.organs
        if not (organs.names and self.options.organs):
            return None
        slabs = zip(*(level.split(self.options.slab) for level in stages), strict=True)
        chances = torch.cat([organs([stage.float() for stage in slab]).softmax(1) for slab in slabs])
        return smooth(chances, self.options.across_mm / canonical.spacing_mm[0])

    @torch.no_grad()
    def predict(self, prepared: PreparedScan, target: str) -> TumorSegmentation:
        """Segment one prompt in a prepared scan.

        Raises:
            UsageError: A prompt that cannot be read.
        """
        scan, options = prepared.scan, self.options
        query = self.parts.queries(target, scan.modality)
        warn_of_modality(query, scan)
        warn_of_place(query)
        seen = self._attention(prepared, query)
        scores = seen.scores * self._in_view(prepared, seen)
        suspicious = (scores >= options.min_presence).numpy()
        flagged = np.flatnonzero(bridged(suspicious, options.gap_mm / prepared.canonical.spacing_mm[0]))
        seen = self._closer(prepared, seen, flagged)
        drawn = seen._replace(attention=leveled(seen.attention, flagged, level=options.level))
        refined = self._refine(prepared, drawn, flagged)
        chance = refined.probability[:, 0].numpy()
        if options.appearance:
            images = prepared.images[:, 0].numpy()
            chance = with_edges(images, chance, options=options.appearance, cut=CUT)
        probability = np.asarray(prepared.undo(chance)).clip(0, 1)
        restore = prepared.canonical.restore
        evidence = Evidence(
            images=prepared.images[:, 0].numpy(),
            attention=seen.attention[:, 0].numpy(),
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
            restore(probability >= CUT),
            restore(probability),
            float(scores.max()),
            evidence,
        )

    def _attention(self, prepared: PreparedScan, query: Query) -> Seen:
        """The maps of all slices, smooth across them."""
        away = None
        if prepared.organs is not None and query.prompt.organ in self.parts.network.organs.trusted:
            away = self.parts.network.organs.distances(prepared.organs, query.prompt.organ)
        margins, scores = [], []
        for start in range(0, len(prepared.images), self.options.slab):
            at = slice(start, start + self.options.slab)
            stages = [level[at].float() for level in prepared.stages]
            maps = self._maps(stages, query, None if away is None else away[at])
            margins.append(maps.margin)
            scores.append(maps.score)
        sigma = self.options.across_mm / prepared.canonical.spacing_mm[0]
        margin = resized(smooth(torch.cat(margins), sigma), prepared.images.shape[2:])
        lowered = self.parts.network.views.lowered(torch.cat(scores), query.region)
        return Seen(query, margin.sigmoid(), smooth(lowered, sigma).sigmoid(), away)

    def _closer(self, prepared: PreparedScan, seen: Seen, flagged: NDArray[np.intp]) -> Seen:
        """The maps after a closer look at the slices that are flagged."""
        options, slab = self.options.closer, self.options.slab
        if options is None:
            return seen
        inside, attention = self._inside(prepared, seen, flagged), seen.attention.clone()
        grid = prepared.images.shape[2:]

        def look(images: Tensor, away: Tensor | None) -> Tensor:
            margins = []
            for start in range(0, len(images), slab):
                at = slice(start, start + slab)
                near = None if away is None else away[at]
                margins.append(self._maps(self.parts.stages(images[at]), seen.query, near).margin)
            return resized(torch.cat(margins), grid)

        for rows in torch.from_numpy(flagged).split(slab):
            images, first = prepared.images[rows], attention[rows].logit(SURE)
            away = None if seen.away is None else resized(seen.away[rows], grid)
            found = look_closer(images, first, inside[rows.numpy()], away=away, look=look, options=options)
            attention[rows] = found.sigmoid()
        return seen._replace(attention=attention)

    def _inside(self, prepared: PreparedScan, seen: Seen, flagged: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Where the organ is or, where that is not known, large pieces of what was found; ``(S, ...)``."""
        if prepared.organs is not None and seen.away is not None:
            return self.parts.network.organs.inside(prepared.organs, seen.query.prompt.organ)
        found = (leveled(seen.attention, flagged, level=self.options.level)[:, 0] >= CUT).numpy()
        suspicious = np.isin(np.arange(len(found)), flagged)[:, None, None]
        return large_in_volume(found & suspicious, fraction=PART)

    def _maps(self, stages: Sequence[Tensor], query: Query, away: Tensor | None) -> AttentionMaps:
        """The maps of some slices, ``away`` on any grid."""
        texts = query.texts.expand(len(stages[0]), -1, -1)
        near = None if away is None else resized(away, stages[0].shape[2:])
        maps: AttentionMaps = self.parts.network.attention(stages, texts, away=near)
        return maps

    def _in_view(self, prepared: PreparedScan, seen: Seen) -> bool:
        """Whether the organ of a prompt may be in view.

        Warns:
            LatentsegWarning: It is not.
        """
        where, query = str(prepared.scan.source or "the scan"), seen.query
        shown = self.parts.network.views.missing(prepared.stages[-1].float(), query.region)
        if shown:
            caution(
                f"{where} looks like a scan of the {shown}, and the {query.prompt.organ} is in the "
                f"{query.region}: {query.prompt.text!r} is called absent"
            )
        elif seen.away is not None and bool((seen.away == 1).all()):
            caution(f"{where} shows no {query.prompt.organ}: {query.prompt.text!r} is called absent")
            return False
        return not shown

    def _refine(self, prepared: PreparedScan, seen: Seen, flagged: NDArray[np.intp]) -> Refined:
        """The refined maps of all slices; those that are not flagged hold nothing."""
        nothing = torch.zeros_like(seen.attention)
        out = Refined(nothing.clone(), nothing.clone(), prepared.images.clone(), nothing.clone())
        for start in range(0, len(flagged), self.options.slab):
            at = torch.from_numpy(flagged[start : start + self.options.slab])
            if self.options.refinement is None:
                out.probability[at] = seen.attention[at]
            else:
                _put(out, at, self._refine_slab(prepared, seen, at, self.options.refinement))
        return out

    def _refine_slab(
        self, prepared: PreparedScan, seen: Seen, at: Tensor, options: RefinementOptions
    ) -> Refined:
        """Refine some slices, those that stay undecided with more seeds."""
        images, attention, seeds = prepared.images, seen.attention, range(options.seeds)
        decoded, keys = prepared.decoded[at], [f"{prepared.scan.name}/{int(row)}" for row in at]
        refiner = self._refiner(seen, at, options)
        versions = refiner.versions(images[at], attention[at], keys=keys, seeds=seeds)
        found = refiner.judged(decoded, versions, attention[at])
        extra = range(options.seeds, options.seeds + self.options.extra_seeds)
        doubtful = undecided(found.probability) > self.options.undecided
        if extra and bool(doubtful.any()):
            rows, keys = at[doubtful], [key for key, asked in zip(keys, doubtful, strict=True) if asked]
            refiner = self._refiner(seen, rows, options)
            more = refiner.versions(images[rows], attention[rows], keys=keys, seeds=extra)
            every = torch.cat([versions[:, doubtful], more])
            _put(found, doubtful, refiner.judged(decoded[doubtful], every, attention[rows]))
        return found

    def _refiner(self, seen: Seen, rows: Tensor, options: RefinementOptions) -> Refiner:
        """A refiner of some slices."""
        parts = self.parts

        def attend(images: Tensor) -> Tensor:
            near = None if seen.away is None else seen.away[rows]
            return self._maps(parts.stages(images), seen.query, near).chance(images.shape[2:])

        condition = parts.condition(seen.query.healthy)
        return Refiner(parts.backbone, parts.network.fusion, attend, condition, options)


def _put(whole: Refined, at: Tensor, part: Refined) -> None:
    """Write the maps of some slices into those of all."""
    for into, values in zip(whole, part, strict=True):
        into[at] = values


def undecided(probability: Tensor) -> Tensor:
    """Share ``(B,)`` of the pixels above 0.25 of ``(B, 1, ...)`` that stay below 0.75."""
    flat = probability.flatten(1)
    above = (flat > 0.25).sum(1)
    return ((flat > 0.25) & (flat < 0.75)).sum(1) / above.clamp(min=1)


def warn_of_place(query: Query) -> None:
    """Say when a prompt names no organ.

    Warns:
        LatentsegWarning: It is looked for everywhere.
    """
    prompt = query.prompt
    if prompt.concept is None:
        hint = f"; did you mean {' or '.join(map(repr, prompt.similar))}?" if prompt.similar else ""
        caution(f"the vocabulary does not know {prompt.text!r}: its words are looked for everywhere{hint}")
    elif not prompt.organ:
        caution(
            f"{prompt.text!r} names no organ and is looked for everywhere, where much that is healthy is "
            f"suspected: name one, such as 'liver {prompt.name}'"
        )


def warn_of_modality(query: Query, scan: Volume) -> None:
    """Say when the prompt names another modality than the scan's.

    Warns:
        LatentsegWarning: They differ.
    """
    said = query.prompt.modality
    if said and scan.modality in ("CT", "MR") and said != scan.modality:
        caution(f"the prompt {query.prompt.text!r} says {said}, and the scan is {scan.modality}")
