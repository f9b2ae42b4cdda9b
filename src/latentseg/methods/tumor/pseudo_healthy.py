"""Suspicious slices of a scan refined: pseudo-healthy versions, residuals, and more seeds where undecided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import ABNORMAL, resized
from latentseg.methods.diffugts.refinement import Refined, RefinementOptions, Refiner
from latentseg.methods.log_odds import probability
from latentseg.methods.tumor.healthy_image import continued
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention


@dataclass(frozen=True, eq=False)
class Refinement:
    """Refines the maps of one prompt, some slices at a time.

    Attributes:
        attention: Attends to pseudo-healthy slices too.
        prepared: The scan.
        found: The maps of its slices, cut at 0.
    """

    attention: Attention
    prepared: PreparedScan
    found: SliceAttention

    def of_scan(self, suspicious: NDArray[np.intp]) -> Refined:
        """The refined maps of all slices ``(S, 1, H, W)``; those that are not suspicious hold nothing."""
        options, images = self.attention.options, self.prepared.images
        nothing = torch.zeros_like(self.found.log_odds)
        out = Refined(nothing.clone(), nothing.clone(), images.clone(), nothing.clone())
        for at in torch.from_numpy(suspicious).split(options.slab) if len(suspicious) else ():
            if options.refinement is None:
                out.probability[at] = probability(self.found.log_odds[at])
            else:
                _put(out, at, self._some(at, options.refinement))
        return out

    def _some(self, at: Tensor, options: RefinementOptions) -> Refined:
        """Refine some slices."""
        images, chance = self.prepared.images[at], probability(self.found.log_odds[at])
        if self.attention.options.healthy == "inpainted" or options.fusion != "map":
            return self._inpainted(at, options)
        healthy = continued(images, self._refiner(at, options).holes(chance))
        return Refined(chance, (chance * (1 - chance)).sqrt(), healthy, (images - healthy).abs())

    def _inpainted(self, at: Tensor, options: RefinementOptions) -> Refined:
        """Let the denoiser fill some slices, those that stay undecided with more seeds."""
        images, chance = self.prepared.images[at], probability(self.found.log_odds[at])
        decoded = images if options.pixel == "image" else self.prepared.decoded[at]
        keys = [f"{self.prepared.scan.name}/{int(row)}" for row in at]
        refiner, latents = self._refiner(at, options), self.prepared.decoded.known_latents(at)
        versions = refiner.versions(images, chance, keys=keys, seeds=range(options.seeds), latents=latents)
        found = refiner.judged(decoded, versions, chance)
        asked = self.attention.options
        extra = range(options.seeds, options.seeds + asked.extra_seeds)
        doubtful = undecided(found.probability) > asked.undecided
        if extra and bool(doubtful.any()):
            rows, keys = at[doubtful], [key for key, doubt in zip(keys, doubtful, strict=True) if doubt]
            refiner = self._refiner(rows, options)
            more = refiner.versions(images[doubtful], chance[doubtful], keys=keys, seeds=extra)
            every = versions.of(doubtful).joined(more)
            _put(found, doubtful, refiner.judged(decoded[doubtful], every, chance[doubtful]))
        return found

    def _refiner(self, rows: Tensor, options: RefinementOptions) -> Refiner:
        """A refiner of some slices."""
        networks, found = self.attention.networks, self.found

        def attend(images: Tensor) -> Tensor:
            seen = self.attention.seen(networks.stages(images), found.query, found.beside.of(rows))
            return resized(seen.margin, images.shape[2:]).sigmoid().cpu()

        def project(change: Tensor) -> Tensor:
            return networks.network.projected(change, found.query.texts[:, ABNORMAL])

        condition, fusion = networks.condition(found.query.healthy), networks.network.fusion
        known = project if networks.network.projector is not None else None
        return Refiner(networks.backbone, fusion, attend, condition, options, known)


def _put(whole: Refined, at: Tensor, part: Refined) -> None:
    """Write the maps of some slices into those of all."""
    for into, values in zip(whole, part, strict=True):
        into[at] = values


def undecided(chance: Tensor) -> Tensor:
    """Share ``(B,)`` of the pixels above 0.25 of ``(B, 1, ...)`` that stay below 0.75."""
    flat = chance.flatten(1)
    above = (flat > 0.25).sum(1)
    return ((flat > 0.25) & (flat < 0.75)).sum(1) / above.clamp(min=1)
