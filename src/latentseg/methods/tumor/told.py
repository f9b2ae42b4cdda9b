"""What is told of the slices of a scan beside the map of a prompt: organs, and lesions of any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from latentseg.methods.tumor.along_slices import smooth


class Told(NamedTuple):
    """What is told of the slices of a scan, on the CPU.

    Attributes:
        organs: Chances ``(S, 1 + organs, ...)``; 0 is elsewhere.
        lesions: Log-odds ``(S, 1, ...)`` of a lesion of any organ; None where they are not told.
        apart: The same of lesions of some organs, by name, of which more is known.
    """

    organs: Tensor
    lesions: Tensor | None = None
    apart: Mapping[str, Tensor] = MappingProxyType({})

    def lesions_of(self, organ: str) -> Tensor | None:
        """Log-odds of a lesion, by all that is known of those of an organ."""
        return self.apart.get(organ, self.lesions)

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        tensors = (self.organs, self.lesions, *self.apart.values())
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def smooth(self, sigma: float) -> Told:
        """The same, smooth across slices (:func:`~latentseg.methods.tumor.along_slices.smooth`)."""
        lesions = None if self.lesions is None else smooth(self.lesions, sigma)
        apart = {organ: smooth(known, sigma) for organ, known in self.apart.items()}
        return Told(smooth(self.organs, sigma), lesions, apart)


class Beside(NamedTuple):
    """What is known beside a map of a tumor, ``(B, 1, ...)`` on any grid.

    Attributes:
        away: Distance from its organ (:meth:`~latentseg.methods.tumor.organs.OrganMaps.distances`); None
            where that is not known.
        lesions: Log-odds of a lesion, likewise.
    """

    away: Tensor | None = None
    lesions: Tensor | None = None

    def of(self, rows: Tensor | slice) -> Beside:
        """What is known of some slices."""
        return self.each(lambda known: known[rows])

    def each(self, change: Callable[[Tensor], Tensor]) -> Beside:
        """The same after a change of what is known."""
        return Beside(*(None if one is None else change(one) for one in self))
