"""The attention maps of a prompt on all slices of a scan, made to agree along them, and looked at closer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.backbones.base import TakesVolumes
from latentseg.imaging.components import large_in_volume
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.log_odds import limited
from latentseg.methods.tumor.along_slices import smooth
from latentseg.methods.tumor.closer_look import CloserOptions, look_closer
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.finer_blocks import Finer, look_closer_at_blocks
from latentseg.methods.tumor.networks import PreparedScan, TumorNetworks
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.organs import PART
from latentseg.methods.tumor.queries import Query
from latentseg.methods.tumor.seen import Seen, seen_of
from latentseg.methods.tumor.told import Beside
from latentseg.methods.tumor.views import key_of, looks_of

Spacing = tuple[float, float, float]


class SliceAttention(NamedTuple):
    """What the attention says about all slices of a scan.

    Attributes:
        query: What was asked for.
        log_odds: Of being abnormal, ``(S, 1, H, W)``, on the CPU.
        scores: Anomaly score ``(S,)`` in [0, 1].
        beside: What is known of the slices otherwise.
    """

    query: Query
    log_odds: Tensor
    scores: Tensor
    beside: Beside


@dataclass(frozen=True, eq=False)
class Attention:
    """Attends to the texts of prompts.

    Attributes:
        networks: Frozen.
        options: See there.
    """

    networks: TumorNetworks
    options: TumorOptions

    @property
    def level(self) -> float | None:
        """Share of its peak at which a map is cut: of the weights, where they have their own."""
        return self.options.level and (self.networks.network.config.level or self.options.level)

    def soft(self, query: Query) -> tuple[float, float] | None:
        """Factor and shift by which the best cut is found; None where it is a share of the peak."""
        picture = self.networks.picture
        own = picture.config.soft if picture and picture.knows(query) else None
        return own or self.networks.network.config.soft

    def of_scan(self, prepared: PreparedScan, query: Query) -> SliceAttention:
        """The maps of all slices, smooth across them."""
        beside = prepared.beside(query.prompt.organ)
        margins, scores = [], []
        for start in range(0, len(prepared.images), self.options.slab):
            at = slice(start, start + self.options.slab)
            stages = [level[at].float() for level in prepared.stages]
            seen = self.seen(stages, query, beside.of(at))
            margins.append(seen.margin.cpu())
            scores.append(seen.score.cpu())
        sigma = self.options.across_mm / prepared.step_mm
        margin = resized(smooth(torch.cat(margins), sigma), prepared.images.shape[2:])
        key = key_of(query.prompt.organ, prepared.scan.modality)
        away = beside.away
        shown = len(margin) if away is None else int((away < 1).flatten(1).any(1).sum())
        looks = looks_of(shown, prepared.step_mm)
        lowered = self.networks.network.views.lowered(torch.cat(scores), query.region, key, looks=looks)
        return SliceAttention(query, limited(margin), smooth(lowered, sigma).sigmoid(), beside)

    def closer(
        self, prepared: PreparedScan, attention: SliceAttention, suspicious: NDArray[np.intp]
    ) -> SliceAttention:
        """The maps after a closer look at suspicious slices, or at what was found in a block."""
        options, slab = self.options.closer, self.options.slab
        if options is None or not len(suspicious):
            return attention
        if prepared.seen.block:
            return self._closer_blocks(prepared, attention, suspicious, options)
        inside = self._inside(prepared, attention, suspicious)
        log_odds, grid = attention.log_odds.clone(), prepared.images.shape[2:]

        def compare(images: Tensor, beside: Beside) -> Tensor:
            margins = []
            for start in range(0, len(images), slab):
                at = slice(start, start + slab)
                stages = self.networks.stages(images[at])
                margins.append(self.seen(stages, attention.query, beside.of(at)).margin.cpu())
            return resized(torch.cat(margins), grid)

        for rows in torch.from_numpy(suspicious).split(slab):
            images, first = prepared.images[rows], log_odds[rows]
            beside = attention.beside.of(rows).each(partial(resized, grid=grid))
            found = look_closer(
                images, first, inside[rows.numpy()], beside=beside, compare=compare, options=options
            )
            log_odds[rows] = limited(found)
        return attention._replace(log_odds=log_odds)

    def _closer_blocks(
        self,
        prepared: PreparedScan,
        attention: SliceAttention,
        suspicious: NDArray[np.intp],
        options: CloserOptions,
    ) -> SliceAttention:
        networks, backbone = prepared.networks, prepared.networks.backbone
        if not isinstance(backbone, TakesVolumes):
            return attention
        config = networks.stages.config

        def compare(block: Tensor, spacing_mm: Spacing, away: Tensor | None) -> Tensor:
            depth, height, width = block.shape[2:]
            own = backbone.for_volume((depth, height, width), spacing_mm=spacing_mm)
            return self.seen(FrozenStages(own, config)(block), attention.query, Beside(away)).margin.cpu()

        found = look_closer_at_blocks(
            Finer(prepared.seen, options, backbone.multiple),
            attention.log_odds,
            self._found(attention, suspicious)[0],
            away=attention.beside.away,
            compare=compare,
            window_hu=backbone.window_hu,
        )
        return attention._replace(log_odds=limited(found))

    def seen(self, stages: Sequence[Tensor], query: Query, beside: Beside) -> Seen:
        """The map and the scores of some slices."""
        texts = query.texts.to(stages[0].device).expand(len(stages[0]), -1, -1)
        network = self.networks.network
        return seen_of(network, stages, texts, organ=query.prompt.organ, beside=beside)

    def _inside(
        self, prepared: PreparedScan, attention: SliceAttention, suspicious: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """Where the organ is or, where that is not known, large pieces of what was found; ``(S, ...)``."""
        inside = prepared.inside(attention.query.prompt.organ)
        if inside is not None:
            return inside
        found = self._found(attention, suspicious)
        found[~np.isin(np.arange(len(found)), suspicious)] = False
        return large_in_volume(found, fraction=PART)

    def _found(self, attention: SliceAttention, suspicious: NDArray[np.intp]) -> NDArray[np.bool_]:
        """What a mask would hold now, ``(S, ...)``."""
        cut = leveled(attention.log_odds, suspicious, level=self.level)
        return np.asarray((cut[:, 0] >= 0).numpy())
