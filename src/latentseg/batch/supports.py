"""Pictures of the examples of a run, which a report shows beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentseg.errors import InputError, caution
from latentseg.imaging.files import write_file
from latentseg.imaging.previews import SUPPORT, Canvas, Layer, key_slices, montage, overlay
from latentseg.methods.results import file_name

if TYPE_CHECKING:
    from latentseg.batch.work import Task

SLICES = 3
SIDE = 256  # pixels of a slice


def support_path(folder: Path, target: str) -> Path:
    """Where the picture of the examples of a target is in the output folder of a run."""
    return folder / f"support-{file_name(target)}.png"


def save_supports(tasks: Sequence[Task], folder: Path) -> None:
    """Write a picture of the examples of every target that is shown; encoded ones hold no image.

    Warns:
        LatentsegWarning: A picture cannot be written; no run stops for that.
    """
    for task in tasks:
        for target in task.targets:
            if not isinstance(target, str) and hasattr(target, "masks"):
                try:
                    write_file(support_path(folder, target.name), support_picture(target))
                except InputError as error:
                    caution(f"no picture of the examples was written: {error}")


def support_picture(support: Any) -> bytes:
    """PNG of some slices of a support, the target outlined."""
    chosen = key_slices(support.masks, count=SLICES)
    canvas = Canvas(height=SIDE)
    pictures = [
        overlay(support.images[k], layers=[Layer(support.masks[k], SUPPORT, "both")], canvas=canvas)
        for k in chosen
    ]
    return montage(pictures, columns=len(pictures))
