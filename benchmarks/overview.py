"""The picture of the README, of real scans: ``docs/images/overview.jpg``.

Usage: ``python benchmarks/overview.py [--output FILE]``; data through ``LATENTSEG_DATA``. Four organs are
marked in three slices each of one CT (SABS 2) and found in the CT of another patient (SABS fold 0) and in an
MR scan (the example of TotalSegmentator MRI, at 3 mm), whole volumes. The truth of the CT was drawn by hand,
that of the MR is the output of TotalSegmentator.

SABS: Landman et al., MICCAI 2015 BTCV challenge, CC BY 4.0 as stated by others. TotalSegmentator example:
Wasserthal et al. 2023, CC BY 4.0.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

import latentseg as ls
from latentseg.evaluation.datasets import ORGANS, SABS, data_root
from latentseg.imaging import Volume, read, read_labels, to_canonical
from latentseg.imaging.files import written_whole
from latentseg.imaging.previews import PALETTE, Canvas, Layer, overlay
from latentseg.imaging.windows import display_windows
from latentseg.metrics.overlap import dice

WIDTH = 380  # pixels of a picture
AIR = 0.15  # of the window, below which there is air
EDGE = 4  # pixels around the body
PIECE = 6  # pixels of a row that belong to a body
MR_LABELS = {"spleen": 1, "right_kidney": 2, "left_kidney": 3, "liver": 5}
FOUND = {"CT": "found in another patient", "MR": "found in an MR scan"}
TRUE = {"CT": "truth, drawn by hand", "MR": "output of TotalSegmentator"}
Masks = Mapping[str, NDArray[np.bool_]]


def picture(scan: Volume, masks: Masks, *, k: int, caption: str) -> bytes:
    """Slice ``k`` of a scan, cut to the body, with the masks ``(I, J, K)`` of the organs."""
    canonical = to_canonical(scan)
    window, spacing_mm = display_windows(scan)[0], canonical.spacing_mm[1:]
    cut = body(canonical.slices[k], above=window.low + AIR * (window.high - window.low))
    tall, wide = ((part.stop - part.start) * step for part, step in zip(cut, spacing_mm, strict=True))
    canvas = Canvas(round(WIDTH * tall / wide), spacing_mm, window[1:], line_width=1.5, caption=caption)
    layers = [
        Layer(canonical.apply(masks[organ])[k][cut], PALETTE[number], "both")
        for number, organ in enumerate(ORGANS)
    ]
    return overlay(canonical.slices[k][cut], layers=layers, canvas=canvas)


def body(plane: NDArray[np.generic], *, above: float) -> tuple[slice, slice]:
    """The box around what is brighter than air in a slice ``(H, W)``, without the table, and a bit more."""
    bright = ndimage.binary_opening(plane > above, iterations=2)
    held = [np.flatnonzero(bright.sum(axis) >= PIECE) for axis in (1, 0)]
    rows, columns = (slice(max(0, at[0] - EDGE), at[-1] + EDGE) for at in held)
    return rows, columns


def best_slice(scan: Volume, masks: Masks) -> int:
    """The slice with as many of the organs as possible, and of those slices the one with most of them."""
    areas = np.stack([to_canonical(scan).apply(mask).sum((1, 2)) for mask in masks.values()])
    return int(((areas > 0).sum(0) + areas.sum(0) / areas.sum(0).max() / 2).argmax())


def sheet(cells: Sequence[bytes]) -> Image.Image:
    """Pictures in rows of three, each in the middle of its place."""
    pictures = [Image.open(io.BytesIO(cell)).convert("RGB") for cell in cells]
    high = max(picture.height for picture in pictures)
    page = Image.new("RGB", (3 * WIDTH + 2 * EDGE, 2 * high + EDGE), (18, 20, 24))
    for number, picture in enumerate(pictures):
        row, column = divmod(number, 3)
        free = (WIDTH - picture.width) // 2, (high - picture.height) // 2
        page.paste(picture, (column * (WIDTH + EDGE) + free[0], row * (high + EDGE) + free[1]))
    return page


def main() -> None:
    """Segment both scans, draw the picture, and print Dice of the whole volumes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/images/overview.jpg"))
    options = parser.parse_args()
    shown, ct = SABS.load(SABS.fold(0)[2]), SABS.load(SABS.fold(0)[0])
    folder = data_root() / "totalsegmentator_example"
    mr = read(folder / "example_mr_sm.nii.gz", modality="MR")
    mr_labels = read_labels(folder / "example_seg_mr.nii.gz")
    marked = {organ: shown.labels.array == shown.label_of[organ] for organ in ORGANS}
    truths = {
        "CT": (ct.image, {organ: ct.labels.array == ct.label_of[organ] for organ in ORGANS}),
        "MR": (mr, {organ: mr_labels.array == MR_LABELS[organ] for organ in ORGANS}),
    }
    supports = [
        ls.Support.from_volumes(shown.image, shown.labels, name=organ, label=shown.label_of[organ])
        for organ in ORGANS
    ]
    segmenter = ls.load()
    contexts = [segmenter.encode(support) for support in supports]
    areas = np.sum([to_canonical(shown.image).apply(mask).sum((1, 2)) for mask in marked.values()], 0)
    first, cells = {"CT": best_slice(shown.image, marked), "MR": int(areas.argmax())}, []
    for name, (scan, truth) in truths.items():
        found = segmenter(scan, contexts)
        scores = {organ: dice(found[organ].mask, truth[organ]) for organ in ORGANS}
        sys.stdout.write(f"{name}: " + ", ".join(f"{o} {d:.2f}" for o, d in scores.items()) + "\n")
        k = best_slice(scan, truth)
        cells += [
            picture(shown.image, marked, k=first[name], caption="marked in one CT"),
            picture(scan, {o: found[o].mask for o in ORGANS}, k=k, caption=FOUND[name]),
            picture(scan, truth, k=k, caption=TRUE[name]),
        ]
    with written_whole(options.output) as temporary:
        sheet(cells).save(temporary, "JPEG", quality=88)
    sys.stdout.write(f"{options.output}: {options.output.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
