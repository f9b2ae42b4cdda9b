"""Where a mask is wrong, as pictures: the worst cases of an evaluation are looked at, not only counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging import Volume, to_canonical
from latentseg.imaging.files import write_file
from latentseg.imaging.previews import PREDICTION, TRUTH, Canvas, Layer, montage, overlay
from latentseg.imaging.windows import display_windows

HEIGHT = 240  # pixels of a slice
LEGEND = "Orange: found. Blue: true. The slices with most wrong voxels, inferior to superior."


def wrong_slices(
    scan: Volume, found: NDArray[np.bool_], truth: NDArray[np.bool_], *, target: str, count: int = 3
) -> bytes:
    """PNG of the slices of a scan on which a mask is wrong in most voxels.

    Args:
        scan: The scan.
        found: ``(I, J, K)``, predicted.
        truth: ``(I, J, K)``.
        target: Name of what is looked for, for the window.
        count: Slices.
    """
    canonical = to_canonical(scan)
    masks = {TRUTH: canonical.apply(truth), PREDICTION: canonical.apply(found)}
    wrong = canonical.apply(found != truth)
    window = display_windows(scan, target=target, mask=truth | found)[0]

    def drawn(k: int) -> bytes:
        canvas = Canvas(
            height=HEIGHT,
            spacing_mm=canonical.spacing_mm[1:],
            window=(window.low, window.high),
            caption=f"slice {k}",
        )
        layers = [Layer(mask[k], color) for color, mask in masks.items()]
        return overlay(canonical.slices[k], layers=layers, canvas=canvas)

    most = np.sort(np.argsort(wrong.sum((1, 2)), kind="stable")[-count:])
    return montage([drawn(int(k)) for k in most], columns=count)


def picture_file(folder: Path, *names: str) -> Path:
    """Where the picture of a case is, by its names such as scan and organ."""
    plain = ("".join(letter if letter.isalnum() else "-" for letter in name) for name in names)
    return folder / "pictures" / f"{'_'.join(plain)}.png"


def save_picture(path: Path, png: bytes) -> None:
    """Write a picture.

    Raises:
        InputError: The folder cannot be written.
    """
    write_file(path, png)
