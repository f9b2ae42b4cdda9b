"""What is added to the map of suspicious slices and does not come from the attention to the prompt. Ours.

Each is evidence of another kind: the other side of a head, and a network that sees the picture alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.log_odds import limited
from latentseg.methods.tumor.along_slices import smooth
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.slice_attention import Attention, SliceAttention
from latentseg.methods.tumor.symmetry import asymmetry


def with_evidence(
    attention: Attention, prepared: PreparedScan, found: SliceAttention, suspicious: NDArray[np.intp]
) -> SliceAttention:
    """The maps with all that there is beside them for the prompt."""
    if not len(suspicious):
        return found
    for kind in KINDS:
        added = kind(attention, prepared, found, suspicious)
        if added is not None:
            over_slices = smooth(added, attention.options.across_mm / prepared.step_mm)
            grid = found.log_odds.shape[2:]
            found = found._replace(log_odds=limited(found.log_odds + resized(over_slices, grid)))
    return found


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
    """What leads from the maps to their mean with those of what sees the picture alone."""
    picture = attention.networks.picture
    if picture is None or not picture.knows(found.query):
        return None
    rows, change = torch.from_numpy(suspicious), torch.zeros_like(found.log_odds)
    change[rows] = picture.log_odds(prepared.images[rows]) - found.log_odds[rows]
    return picture.config.share * change


KINDS = (mirrored, by_picture)
