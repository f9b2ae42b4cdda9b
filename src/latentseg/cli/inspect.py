"""`latentseg inspect`: what is in an image, before anything is done with it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from latentseg.cli.output import AsJson, show_facts, show_json
from latentseg.errors import LatentsegWarning, UsageError

if TYPE_CHECKING:
    from latentseg.imaging import Volume

app = typer.Typer()


@app.command()
def inspect(
    image: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MHA, PNG, TIFF, or a folder of slices.")],
    modality: Annotated[
        str | None, typer.Option(help="CT or MR: what the image is, where the file does not say.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the grid, the modality and the intensities of an image, and what looks odd about it."""
    from latentseg.imaging import read

    known = _modality(modality)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", LatentsegWarning)
        facts = describe(read(image, modality=known))
    facts["warnings"] = [" ".join(str(warning.message).split()) for warning in caught]
    if as_json:
        show_json(facts)
        return
    odd = facts.pop("warnings")
    show_facts(_lines(facts))
    for line in odd:
        typer.echo(f"warning: {line}")


def describe(volume: Volume) -> dict[str, Any]:
    """Collect the facts about a volume; warns like the segmenters would.

    Raises:
        InputError: The image holds NaN or infinite values, or is constant.
    """
    import numpy as np

    from latentseg.imaging import guess_modality, normalize

    array = volume.array
    guess = guess_modality(array)
    modality = guess if volume.modality == "unknown" else volume.modality
    normalize(array, modality=modality, where=str(volume.source))
    low, high = np.percentile(array, (0.5, 99.5))
    return {
        "file": str(volume.source),
        "shape": [int(size) for size in volume.shape],
        "spacing_mm": [round(float(size), 4) for size in volume.spacing_mm],
        "axis_codes": "".join(volume.axis_codes),
        "dtype": str(array.dtype),
        "modality": volume.modality,
        "modality_guess": guess,
        "intensity_range": [float(array.min()), float(array.max())],
        "intensity_0.5_99.5_percent": [float(low), float(high)],
        "affine_ras_mm": [[float(value) for value in row] for row in volume.affine_ras_mm],
    }


def _modality(text: str | None) -> Literal["CT", "MR"] | None:
    if text is None:
        return None
    if text.upper() == "CT":
        return "CT"
    if text.upper() == "MR":
        return "MR"
    raise UsageError(f"unknown modality '{text}'", where="--modality", fix="give CT or MR")


def _lines(facts: dict[str, Any]) -> dict[str, str]:
    """Write the facts for people."""
    between = {key: " to " if key.startswith("intensity") else " x " for key in facts}
    return {key.replace("_", " "): _text(value, between[key]) for key, value in facts.items()}


def _text(value: object, between: str) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "; ".join(" ".join(f"{number:g}" for number in row) for row in value)
    if isinstance(value, list):
        return between.join(f"{number:g}" for number in value)
    return str(value)
