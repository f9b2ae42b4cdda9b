"""`latentseg inspect`: what is in an image or a DICOM folder, before anything is done with it."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from latentseg.cli import shared
from latentseg.cli.output import AsJson, show_facts, show_json, show_table
from latentseg.errors import LatentsegWarning, caution

if TYPE_CHECKING:
    from latentseg.imaging import Volume

app = typer.Typer()


@app.command()
def inspect(
    image: shared.Image,
    modality: shared.ModalityOption = None,
    series: shared.SeriesOption = None,
    volume: shared.VolumeOption = None,
    allow_gaps: shared.AllowGaps = False,
    resample_tilt: shared.ResampleTilt = False,
    as_json: AsJson = False,
) -> None:
    """Show the grid, the modality and the intensities of an image, and what looks odd about it.

    Of a DICOM folder or zip archive, show its series; where there is one, or one is chosen, show that too.
    """
    from latentseg.imaging import read
    from latentseg.imaging.dicom.series import DicomOptions

    options = DicomOptions(series, allow_gaps, resample_tilt, volume)
    found = series_of(image)
    if found and not as_json:
        show_series(found["series"], found["damaged"])
    if found and series is None and sum(row["kind"] == "image" for row in found["series"]) != 1:
        if as_json:
            show_json(found)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", LatentsegWarning)
        facts = found | describe(read(image, modality=modality, dicom=options))
    facts["warnings"] = [" ".join(str(warning.message).split()) for warning in caught]
    if as_json:
        show_json(facts)
        return
    odd = facts.pop("warnings")
    show_facts(_lines({key: value for key, value in facts.items() if key not in found}))
    for line in odd:
        typer.echo(f"warning: {line}")


def series_of(path: Path) -> dict[str, Any]:
    """The series of a DICOM folder, archive or file, and its damaged files; empty for other images.

    Raises:
        InputError: Nothing there, or nothing that is known.
    """
    from latentseg.imaging.dicom.files import scan
    from latentseg.imaging.formats import kind_of

    if kind_of(path) != "DICOM":
        return {}
    found = scan(path)
    rows = [
        {
            "series": one.number,
            "kind": one.kind,
            "modality": one.modality,
            "images": one.images,
            "size": f"{one.size[0]}x{one.size[1]}" if one.size[0] else "",
            "description": one.description,
            "uid": one.uid,
        }
        for one in found.series
    ]
    return {"series": rows, "damaged": [f"{entry}: {reason}" for entry, reason in found.damaged]}


def show_series(rows: list[dict[str, Any]], damaged: list[str]) -> None:
    """One line per series, images first, then the files that cannot be read."""
    show_table(list(rows[0]) if rows else ["series"], [list(row.values()) for row in rows])
    for line in damaged:
        typer.echo(f"damaged: {line}")
    typer.echo("")


def describe(volume: Volume) -> dict[str, Any]:
    """Collect the facts about a volume; warns like the segmenters would.

    Raises:
        InputError: The image holds NaN or infinite values, or is constant.
    """
    import numpy as np

    from latentseg.imaging import guess_modality, normalize
    from latentseg.imaging.body import locate
    from latentseg.imaging.contents import LARGEST_BODY_MM, longest_mm
    from latentseg.imaging.orientation import check_orientation, percent

    array = volume.array
    guess = guess_modality(array)
    modality = guess if volume.modality == "unknown" else volume.modality
    normalize(array, modality=modality, where=str(volume.source))
    padding = volume.padding
    low, high = np.percentile(array if padding is None else array[~padding], (0.5, 99.5))
    check = check_orientation(volume)
    warning = check.warning()
    if warning:
        caution(f"{warning}. Give `segment` --orientation auto, or --orientation {check.found}")
    shown = replace(volume, orientation=check.mended or volume.orientation)
    return {
        "file": str(volume.source),
        "shape": [int(size) for size in volume.shape],
        "spacing_mm": [round(float(size), 4) for size in volume.spacing_mm],
        "axis_codes": "".join(volume.axis_codes),
        "axis_codes_of_picture": f"{check.found} ({percent(check.confidence)})",
        "body_part": locate(shown).describe() if longest_mm(volume) <= LARGEST_BODY_MM else "unknown",
        "dtype": str(array.dtype),
        "modality": volume.modality,
        "modality_guess": guess,
        "intensity_range": [float(array.min()), float(array.max())],
        "intensity_0.5_99.5_percent": [float(low), float(high)],
        "affine_ras_mm": [[float(value) for value in row] for row in volume.affine_ras_mm],
    }


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
