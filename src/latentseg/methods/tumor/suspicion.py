"""What of the maps of a prompt is suspected: slices by their score, or parts by their shape."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.log_odds import limited
from latentseg.methods.tumor.along_slices import bridged, grown
from latentseg.methods.tumor.beside_map import by_picture, peaks, with_evidence
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.lung_field import LungField
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.parts import LOW, PartJudge
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention


class Suspicion(NamedTuple):
    """What is suspected in a scan.

    Attributes:
        found: The maps after a closer look.
        cut: The same, 0 where they are cut.
        slices: Numbers of the slices that are suspected.
        certainty: ``(S, H, W)``, chance of the part that a voxel belongs to; None where parts are not judged.
    """

    found: SliceAttention
    cut: SliceAttention
    slices: NDArray[np.intp]
    certainty: NDArray[np.float32] | None = None

    @property
    def scores(self) -> Tensor:
        """Of the slices ``(S,)``, in [0, 1]."""
        return self.cut.scores


def suspected_slices(attention: Attention, prepared: PreparedScan, found: SliceAttention) -> Suspicion:
    """Slices with a high score and those between them, in which the map is cut.

    Where what sees the picture alone has a say in the scores, the maps hold it already, and slices beside the
    suspected ones count too, as far as anything would be marked in them.
    """
    picture, suspected = attention.networks.picture, found.scores >= attention.options.min_presence
    if picture and picture.offset_of(found.query):
        marked = (peaks(found.log_odds, picture.config.peak) >= 0).numpy()
        slices = _bridged(torch.from_numpy(grown(suspected.numpy(), marked)), attention, prepared)
    else:
        slices = _bridged(suspected, attention, prepared)
        found = with_evidence(attention, prepared, attention.closer(prepared, found, slices), slices)
    soft = attention.soft(found.query)
    cut = found._replace(log_odds=leveled(found.log_odds, slices, level=attention.level, soft=soft))
    return Suspicion(found, cut, slices)


def suspected_parts(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, *, judge: PartJudge, lungs: LungField
) -> Suspicion:
    """Parts of the map that a judge keeps; a slice is as suspicious as the surest part in it."""
    least = attention.options.min_presence
    found, slices = judged_maps(attention, prepared, found, lungs=lungs)
    judged = judge.of(lungs.shown(found.log_odds[:, 0].numpy()), slices=slices, least=least)
    log_odds, scores = limited(torch.from_numpy(judged.log_odds))[:, None], judged.chance.max((1, 2))
    cut = found._replace(log_odds=log_odds, scores=torch.from_numpy(scores))
    return Suspicion(found, cut, np.flatnonzero(scores >= least), judged.chance)


def judged_maps(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, *, lungs: LungField
) -> tuple[SliceAttention, NDArray[np.intp]]:
    """The maps whose parts are judged, and numbers of the slices in which parts may lie.

    Slices in which the first look sees anything are looked at closer. What sees the picture alone looks at
    all slices that show lungs, and nothing of it is smoothed across them: a nodule may be in a single one.
    """
    slices = _bridged(_peaks(found) >= LOW, attention, prepared)
    found = attention.closer(prepared, found, slices)
    added = by_picture(attention, prepared, found, np.flatnonzero(lungs.inside.any((1, 2))))
    if added is None:
        return found, slices
    found = found._replace(log_odds=limited(found.log_odds + added))
    return found, np.flatnonzero((_peaks(found) >= LOW).numpy())


def _peaks(found: SliceAttention) -> Tensor:
    """Highest probability in each slice ``(S,)``."""
    return found.log_odds.sigmoid().amax((1, 2, 3))


def _bridged(above: Tensor, attention: Attention, prepared: PreparedScan) -> NDArray[np.intp]:
    """Numbers of the slices that are suspected, with those between them."""
    return np.flatnonzero(bridged(above.numpy(), attention.options.gap_mm / prepared.step_mm))
