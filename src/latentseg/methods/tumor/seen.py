"""What a network sees of a tumor in some slices: the map of a prompt, with the share of lesions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from latentseg.methods.diffugts.attention_maps import FALL, AttentionMaps, resized, top_mean
from latentseg.methods.tumor.network import TumorNetwork
from latentseg.methods.tumor.told import Beside


class Seen(NamedTuple):
    """Log-odds ``(B, 1, ...)`` of a tumor on the finest grid, and the score ``(B,)`` of each image."""

    margin: Tensor
    score: Tensor


def seen_of(
    network: TumorNetwork,
    stages: Sequence[Tensor],
    texts: Tensor,
    *,
    organ: str,
    beside: Beside,
) -> Seen:
    """What stages show of a tumor, by the text and by what is told of lesions.

    Args:
        network: Trained.
        stages: ``[(B, C_l, ...)]``, finest first.
        texts: ``(B, 2, D)``, of the normal and the abnormal.
        organ: Of the tumor.
        beside: What is known of the slices.
    """
    share, grid = network.config.lesions.get(organ, 0.0), stages[0].shape[2:]
    away, lesions = beside.each(lambda known: resized(known, grid).to(stages[0]))
    maps: AttentionMaps = network.attention(stages, texts, away=away)
    if lesions is None or not share:
        return Seen(maps.margin, maps.score)
    within = lesions if away is None else lesions - FALL * away
    margin = (1 - share) * maps.margin + share * within
    return Seen(margin, top_mean(margin[:, 0]))
