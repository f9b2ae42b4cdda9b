"""What MAISI's denoisers listen to: modality, spacing, body region. They know no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from latentseg.errors import UsageError

TOKEN_WIDTH = 6
MODALITIES = {
    "unknown": 0,
    "ct": 1,
    "ct without contrast": 2,
    "ct with contrast": 3,
    "mr": 8,
    "t1": 9,
    "t2": 10,
    "flair": 11,
    "pd": 12,
    "dwi": 13,
    "adc": 14,
}
REGIONS = ("head", "chest", "abdomen", "pelvis")


@dataclass(frozen=True)
class MaisiCondition:
    """What a MAISI denoiser listens to. It knows no text.

    Attributes:
        modality: A key of :data:`MODALITIES`, or an id of the published embedding; ``unknown`` is what the
            published guidance takes as the unconditional case.
        spacing_mm: Of the slices, their rows and their columns ``(S, H, W)``; that of the backbone when None.
        regions: The topmost and the lowest body region in the volume, of :data:`REGIONS`. Only
            ``maisi-ct-ddpm`` asks for them.
    """

    modality: str | int = "ct"
    spacing_mm: tuple[float, float, float] | None = None
    regions: tuple[str, str] = ("chest", "abdomen")

    def token(self) -> Tensor:
        """As a condition token ``(1, 1, 6)``: id, spacing, regions; a zero stands for what was not said.

        Raises:
            UsageError: An unknown modality or region, or a spacing that is not positive.
        """
        spacing = self.spacing_mm or (0.0, 0.0, 0.0)
        if self.spacing_mm is not None and min(spacing) <= 0:
            raise UsageError(f"spacing {spacing} mm", fix="give three positive lengths in millimeters")
        regions = [1 + _choice(name, REGIONS, "region") for name in self.regions]
        values = [float(modality_id(self.modality)), *spacing, *map(float, regions)]
        return torch.tensor(values).reshape(1, 1, TOKEN_WIDTH)


def modality_id(modality: str | int) -> int:
    """MAISI's id of a modality.

    Raises:
        UsageError: Unknown.
    """
    if isinstance(modality, int):
        if not 0 <= modality < 128:
            raise UsageError(f"modality id {modality}", fix="give one from 0 to 127")
        return modality
    return list(MODALITIES.values())[_choice(modality.lower(), tuple(MODALITIES), "modality")]


def phrase_condition(phrases: Sequence[str]) -> Tensor:
    """The condition token of phrases such as ("CT", "abdomen", "healthy"): modality and region are heard.

    Everything else is left out, as MAISI has no text. Without a modality the token says that it is unknown.
    """
    said = [phrase.lower() for phrase in phrases]
    modality = next((phrase for phrase in said if phrase in MODALITIES), "unknown")
    region = next((phrase for phrase in said if phrase in REGIONS), "")
    regions = (region, region) if region else MaisiCondition.regions
    return MaisiCondition(modality=modality, regions=regions).token()


def _choice(name: str, choices: tuple[str, ...], what: str) -> int:
    if name not in choices:
        raise UsageError(f"unknown {what} {name!r}", fix=f"choose from {', '.join(choices)}")
    return choices.index(name)
