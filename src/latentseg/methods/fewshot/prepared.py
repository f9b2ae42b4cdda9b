"""A scan before and after the search for one target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import Volume
from latentseg.imaging.network_input import NetworkInput
from latentseg.methods.fewshot.part import EncodedScan
from latentseg.metrics.presence import presence_scores


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan after the part of the work that does not depend on the target.

    Attributes:
        seen: The scan as the networks see it, and the way back.
        encoded: What the parts keep of it.
    """

    seen: NetworkInput
    encoded: EncodedScan

    @property
    def scan(self) -> Volume:
        """The scan."""
        return self.seen.scan

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.scan.array.nbytes + self.encoded.nbytes


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        chance: Probability ``(S, H, W)``; 0 on slices that were not searched.
        in_view: ``(S,)`` in [0, 1], how much each slice may say about the presence of the target.
        mask: ``(S, H, W)``, where the rules of the release have decided.
        reason: Why the target is absent, where that is known.
    """

    chance: NDArray[np.float32]
    in_view: NDArray[np.float32]
    mask: NDArray[np.bool_] | None = None
    reason: str = ""


def presence_of(found: Found) -> float:
    """How present the target is on the slice where it is most present, in [0, 1]."""
    return float((presence_scores(found.chance) * found.in_view).max())
