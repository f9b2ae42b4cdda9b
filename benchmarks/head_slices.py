"""Single slices of heads with gliomas, of many more patients than there are whole heads, for the training.

Usage: ``python benchmarks/head_slices.py --images FOLDER``; they are written to ``head_slices`` below
``LATENTSEG_DATA`` as ``CONTRAST/NAME.png``, with the whole tumor, edema too, as ``CONTRAST/NAME_label.png``.

``--images`` holds the repositories that ``configs/head-slices.csv`` names, each in a folder called like the
part of its name behind the slash. Pictures lie in a folder ``images`` there and outlines, in a color for each
part of a tumor, in ``masks`` beside it; some were turned over, rows or columns, and are turned back. None is
of a patient of ``configs/heads.csv`` who is kept for choices or the evaluation.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from kidney_slices import file_of, turned_back
from latentseg.evaluation.datasets.base import data_root

TABLE = Path("configs/head-slices.csv")
SIZE = 240  # pixels, of 1 mm
COLORED = 100  # of 255, above which a color is no rounding
GAP = 3 / 512  # of the edge: as wide are the gaps between colors


def main() -> None:
    """Write all slices of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    options = parser.parse_args()
    with TABLE.open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            file = file_of(options.images, row)
            picture = turned_back(file, row["turned"])
            colors = turned_back(file.parents[1] / "masks" / file.name, row["turned"], "RGB")
            tumor = colors.max(2) > COLORED
            closed = ndimage.binary_closing(tumor, iterations=round(GAP * len(tumor))) | tumor
            out = data_root() / "head_slices" / row["contrast"] / row["name"]
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.LANCZOS).save(f"{out}.png")
            label = Image.fromarray(closed.astype(np.uint8))
            label.resize((SIZE, SIZE), Image.Resampling.NEAREST).save(f"{out}_label.png")
            sys.stdout.write(f"{out.name}\n")


if __name__ == "__main__":
    main()
