"""What is added to the map and does not come from the attention to the prompt. Ours.

Each is evidence of another kind: the other side of a head, and a network that sees the picture alone. Where
weights say so that network has a say in which slices are suspected, too: it then looks at all of them, and
what is surely another organ than that of the prompt does not count.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.log_odds import LIMIT, limited
from latentseg.methods.tumor.along_slices import smooth
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention
from latentseg.methods.tumor.symmetry import asymmetry
from latentseg.methods.tumor.views import looks_of

ELSEWHERE = 0.95  # chance of another organ, from which a cell holds no tumor of that which is asked for


def with_evidence(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, suspicious: NDArray[np.intp]
) -> SliceAttention:
    """The maps with all that there is beside them for the prompt."""
    if not len(suspicious):
        return found
    for kind in KINDS:
        added = kind(attention, prepared, found, suspicious)
        if added is not None:
            found = _with(attention, prepared, found, added)
    return found


def together(attention: Attention, prepared: PreparedScan, found: SliceAttention) -> SliceAttention:
    """The mean with what sees the picture alone, and scores by its peaks, where that has a say in them."""
    picture = attention.networks.picture
    offset = picture.offset_of(found.query) if picture else None
    if picture is None or offset is None or (pictured := prepared.pictured) is None:
        return found
    found = _with(attention, prepared, found, picture.config.share * (pictured - found.log_odds))
    others = prepared.others(found.query.prompt.organ)
    if others is not None:
        closed = resized(others, found.log_odds.shape[2:]) > ELSEWHERE
        found = found._replace(log_odds=found.log_odds.masked_fill(closed, -LIMIT))
    looks = looks_of(len(found.scores), prepared.step_mm)
    lowered = peaks(found.log_odds, picture.config.peak) - offset.at(looks)
    return found._replace(scores=lowered.sigmoid())


def peaks(log_odds: Tensor, share: float) -> Tensor:
    """Log-odds ``(S,)`` that a share of the pixels of each map ``(S, 1, H, W)`` pass."""
    values = log_odds.flatten(1)
    return values.topk(max(int(share * values.shape[1]), 1)).values[:, -1]


def _with(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, added: Tensor
) -> SliceAttention:
    """Maps to which something was added that agrees along the slices."""
    over_slices = smooth(added, attention.options.across_mm / prepared.step_mm)
    grid = found.log_odds.shape[2:]
    return found._replace(log_odds=limited(found.log_odds + resized(over_slices, grid)))


def mirrored(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, suspicious: NDArray[np.intp]
) -> Tensor | None:
    """How much the halves of a head in MR differ (:mod:`~latentseg.methods.tumor.symmetry`)."""
    photographs = attention.networks.stages.photographs
    head = found.query.region == "head" and prepared.scan.modality == "MR"
    if not (attention.options.mirrored and photographs and head):
        return None
    rows, differing = torch.from_numpy(suspicious), torch.zeros_like(found.log_odds)
    differing[rows] = asymmetry(photographs, prepared.images[rows])
    return attention.options.mirrored * differing


def by_picture(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, suspicious: NDArray[np.intp]
) -> Tensor | None:
    """What leads from the maps to their mean with what sees the picture alone, where that is not in them."""
    picture = attention.networks.picture
    if picture is None or not picture.knows(found.query) or picture.offset_of(found.query):
        return None
    rows, change = torch.from_numpy(suspicious), torch.zeros_like(found.log_odds)
    change[rows] = picture.log_odds(prepared.images[rows]) - found.log_odds[rows]
    return picture.config.share * change


KINDS = (mirrored, by_picture)
