"""What is known of how well a tumor is found, so that whoever asks for one is told, and what cannot be seen.

Figures lie beside the weights they were measured with, in ``tumor-results.json``, which
``benchmarks/tumor_volumes.py`` writes; the model card says how they were measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from latentseg.errors import ModelError, UsageError
from latentseg.imaging import Volume
from latentseg.text.prompts import Prompt
from latentseg.text.vocabulary import concept_named

FILE = "tumor-results.json"
HELD_OUT = {
    "patients": "that no training saw",
    "category": "when trained without this category",
}


class Measured(BaseModel, extra="forbid", frozen=True):
    """How well one finding was found.

    Attributes:
        held_out: What no training saw: the patients, or the category altogether.
        what: Of the scans with the finding.
        modalities: Theirs, and those in which training showed the finding; nothing where that is not known.
        scans: Number of them.
        patients: Whose they are; None where that is not known.
        dice: Mean over patients, in [0, 1]; None where the finding is not outlined.
        lesions: That are outlined.
        found: Of those.
        marked: Scans with the finding in which anything was marked.
        healthy: People without the finding.
        alarmed: Of those, in whom something was marked.
        card: Where it is written how this was measured.
    """

    held_out: Literal["patients", "category"]
    what: Literal["volumes", "slices"]
    modalities: tuple[str, ...] = ()
    scans: int
    patients: int | None
    dice: float | None
    lesions: int
    found: int
    marked: int
    healthy: int
    alarmed: int
    card: str

    def __str__(self) -> str:
        """One sentence without its end."""
        whose = f" of {self.patients} patients" if self.patients else ""
        where = f"{self.scans} {self.what}{whose} {HELD_OUT[self.held_out]}"
        if self.dice is None:
            found = f"something marked in {self.marked} of {where}, where it is not outlined"
        else:
            found = (
                f"mean Dice {100 * self.dice:.0f} % on {where}, {self.found} of {self.lesions} lesions found"
            )
        return (
            f"{found}; something was marked in {self.alarmed} of {self.healthy} healthy people ({self.card})"
        )


def read_known(folder: Path) -> dict[str, Measured]:
    """Figures beside the weights of a folder, by finding; none where nothing was measured.

    Raises:
        ModelError: The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return {}
    try:
        return TypeAdapter(dict[str, Measured]).validate_python(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, ValidationError) as error:
        raise ModelError(
            "unreadable results of tumors", where=str(path), fix="download the model again"
        ) from error


def known_of(prompt: Prompt, known: Mapping[str, Measured]) -> str:
    """What is known of a prompt, in one line."""
    if prompt.name in known:
        return f"{prompt.name}: {known[prompt.name]}"
    near = next((name for name in known if prompt.organ and concept_named(name).organ == prompt.organ), None)
    beside = f"; {near}: {known[near]}" if near else ""
    return f"{prompt.name}: nothing was measured of how well this is found{beside}"


def check_seen(prompt: Prompt, known: Mapping[str, Measured], *, organs: tuple[str, ...]) -> None:
    """Refuse a prompt whose organ the weights do not see.

    Args:
        prompt: As it was read.
        known: Figures of findings; an organ with a figure is seen.
        organs: Those that the weights find in a scan; where there are none, nothing is refused.

    Raises:
        UsageError: The vocabulary does not know the prompt, or its organ is not seen.
    """
    seen = {*organs, *(concept_named(name).organ for name in known)} - {""}
    if not organs or (prompt.concept and (not prompt.organ or prompt.organ in seen)):
        return
    about = f"of the {prompt.organ}" if prompt.organ else "as its words say"
    what = f"the model does not see where {prompt.text!r} may be, {about}, and marks anything, anywhere"
    hint = f"did you mean {' or '.join(map(repr, prompt.similar))}? " if prompt.similar else ""
    there = ", ".join(sorted(seen))
    fix = f"{hint}Name a tumor of {there}, or show examples (--support); --anyway looks for it"
    raise UsageError(what, fix=fix)


def check_shown(prompt: Prompt, scan: Volume, *, known: Mapping[str, Measured]) -> None:
    """Refuse a prompt in a scan of a modality in which training showed no tumor of its organ.

    Args:
        prompt: As it was read.
        scan: In which it is to be looked for.
        known: Figures of findings; where there are none of the organ, nothing is refused.

    Raises:
        UsageError: The scan is of another one.
    """
    alike = [
        figures
        for name, figures in known.items()
        if prompt.organ and concept_named(name).organ == prompt.organ
    ]
    shown = sorted({modality for figures in alike for modality in figures.modalities})
    if not shown or scan.modality in (*shown, "unknown"):
        return
    what = f"no training showed tumors of the {prompt.organ} in {scan.modality}, where all may be marked"
    fix = f"use {' or '.join(shown)}, or show examples (--support); --anyway looks for {prompt.text!r}"
    raise UsageError(what, where=str(scan.source or "the scan"), fix=fix)
