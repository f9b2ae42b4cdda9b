"""Slices of KiTS19 with kidney tumors, for choices and the evaluation, never for training.

Usage: ``python benchmarks/kidney_slices.py --images FOLDER --labels FOLDER``; they are written to
``kidney_slices`` below ``LATENTSEG_DATA`` as ``USE/CASE_SLICE.png``, with the outlines of KiTS19 (Heller et
al. 2019, CC BY-NC-SA 4.0; 1 is kidney, 2 tumor) as ``CASE_SLICE_label.png``.

``--images`` holds the repositories that ``configs/kidneys.csv`` names, each in a folder called like the part
of its name behind the slash; ``--labels`` is that of KiTS19 (``neheller/kits19``). Some of the pictures were
turned over there, rows or columns, and are turned back.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentseg.evaluation.datasets.base import data_root

TABLE = Path("configs/kidneys.csv")
TURNED = {"no": (), "rows": (0,), "columns": (1,)}  # axes that are flipped


def turned_back(file: Path, how: str, mode: str = "L") -> NDArray[np.uint8]:
    """A picture that a repository turned over (:data:`TURNED`), as it was: grey, or in another mode."""
    return np.flip(np.asarray(Image.open(file).convert(mode)), TURNED[how])


def file_of(images: Path, row: Mapping[str, str]) -> Path:
    """Where a picture of a table lies in the folder of its repository."""
    return images / row["repository"].rpartition("/")[2] / row["path"]


def main() -> None:
    """Write all slices of the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    options = parser.parse_args()
    with TABLE.open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            picture = turned_back(file_of(options.images, row), row["turned"])
            outlines = nib.load(options.labels / "data" / f"case_{row['case']}" / "segmentation.nii.gz")
            labels = Image.fromarray(np.asarray(outlines.dataobj[int(row["slice"])], np.uint8))
            out = data_root() / "kidney_slices" / row["use"] / f"{row['case']}_{int(row['slice']):03d}"
            out.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(f"{out}.png")
            same = labels.resize(picture.shape[::-1], Image.Resampling.NEAREST)
            same.save(f"{out}_label.png")
            sys.stdout.write(f"{out.name}\n")


if __name__ == "__main__":
    main()
