"""Suspicious slices of a scan refined: pseudo-healthy versions, residuals, and more seeds where undecided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import ABNORMAL
from latentseg.methods.diffugts.reconstructions import PseudoHealthy
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
        """Refine some slices, those that stay undecided with more seeds."""
        images, chance = self.prepared.images[at], probability(self.found.log_odds[at])
        asked, refiner = self.attention.options, self._refiner(at, options)
        goes_on = asked.healthy == "continued"
        if goes_on and options.fusion == "map" and options.seeds == 1:
            nothing, made = torch.zeros_like(chance), None
            found = Refined(chance.clone(), nothing, images, nothing.clone())
        else:
            made = self._versions(at, options, range(options.seeds))
            found = refiner.judged(self._compared(at, options), made, chance)
        seeds = range(options.seeds, options.seeds + asked.extra_seeds)
        doubtful = undecided(found.probability) > asked.undecided
        if seeds and bool(doubtful.any()):
            rows = at[doubtful]
            every = self._versions(rows, options, seeds if made else range(seeds.stop))
            every = made.of(doubtful).joined(every) if made else every
            _put(found, doubtful, refiner.judged(self._compared(rows, options), every, chance[doubtful]))
        if not goes_on:
            return found
        healthy = continued(images, refiner.holes(chance))
        return found._replace(pseudo_healthy=healthy, residual=(images - healthy).abs())

    def _versions(self, rows: Tensor, options: RefinementOptions, seeds: range) -> PseudoHealthy:
        """What the denoiser makes of some slices."""
        images, chance = self.prepared.images[rows], probability(self.found.log_odds[rows])
        keys = [f"{self.prepared.scan.name}/{int(row)}" for row in rows]
        latents = self.prepared.decoded.known_latents(rows)
        refiner = self._refiner(rows, options)
        return refiner.versions(images, chance, keys=keys, seeds=seeds, latents=latents)

    def _compared(self, rows: Tensor, options: RefinementOptions) -> Tensor:
        """What the versions of some slices are compared to."""
        return self.prepared.images[rows] if options.pixel == "image" else self.prepared.decoded[rows]

    def _refiner(self, rows: Tensor, options: RefinementOptions) -> Refiner:
        """A refiner of some slices."""
        networks, found = self.attention.networks, self.found

        def attend(images: Tensor) -> Tensor:
            near = None if found.away is None else found.away[rows]
            maps = self.attention.maps(networks.stages(images), found.query, near)
            return maps.chance(images.shape[2:]).cpu()

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
