"""A CT of a limb as its negative: fat is bright as in T1, in which the training saw real limbs.

Not of the paper; ours. A sarcoma is as dense as muscle and often lies in fat, which is dark in CT and bright
in T1: in the negative the networks know that picture. The trunk, where organs in fat would look the same, is
left as it is.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU
from latentseg.imaging.network_input import NetworkInput
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.queries import Query

SOFT_TISSUE = "soft tissue"
"""The organ of the vocabulary whose tumors are looked for in negatives."""

FEW_ORGANS = 0.08  # of the cells of a slice; where organs take more of one, a trunk is seen
REACH_HU = 130.0  # on both sides of water, from fat to enhanced muscle
AIR_HU = -120.0  # near the lower end of the window, below which there is no body
WIDTH_MM = 2.0  # of the Gaussian against noise, which a negative shows as texture of fat


def is_seen_as_negative(prepared: PreparedScan, query: Query) -> bool:
    """Whether a prompt is looked for in the negative of a scan."""
    if not prepared.networks.network.config.negative or query.prompt.organ != SOFT_TISSUE:
        return False
    if prepared.scan.modality != "CT" or prepared.seen.block or prepared.organs is None:
        return False
    return bool((prepared.organs[:, 1:] > 0.5).any(1).float().mean((1, 2)).max() < FEW_ORGANS)


def negative(seen: NetworkInput) -> NetworkInput:
    """Slices of a CT in the window for soft tissue as their negative: fat bright, bone and air black."""
    low, high = SOFT_TISSUE_WINDOW_HU
    hu = low + (seen.images + 1) / 2 * (high - low)
    hu = ndimage.gaussian_filter(hu, [WIDTH_MM / mm for mm in seen.spacing_mm])
    bright = -np.clip(hu / REACH_HU, -1, 1)
    return replace(seen, images=np.where(hu > AIR_HU, bright, -1).astype(np.float32))
