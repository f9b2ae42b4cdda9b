"""Public slices of heads with outlined tumors, as pictures that ``configs/pack-head.yaml`` packs.

Usage: ``python benchmarks/brain_slices.py FOLDER``; they are written to ``brain_slices`` below
``LATENTSEG_DATA``, in a folder for each kind of tumor.

The brain tumors of Cheng (figshare 1512427, CC BY 4.0; T1-Gd in three planes) as ``images`` and ``masks`` of
512 pixels: ``RahulDhaka29/DLMI_CS328_Projects_AD23B1044-`` on GitHub, commit 51f93df8. Halved by averaging,
masks by the maximum, JPEG quality 90, as the copies that are evaluated. ``configs/split.yaml`` says which of
them may be trained on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from latentseg.evaluation.datasets.base import data_root

EDGE, QUALITY = 256, 90
KINDS = {
    "meningioma": [(1, 58), (60, 208), (211, 708), (3030, 3030), (3063, 3064)],
    "pituitary": [(59, 59), (709, 714), (918, 1840)],
    "glioma": [(209, 210), (715, 917), (1841, 3029), (3031, 3062)],
}
"""First and last numbers of each kind; ``data/tumor_metadata.csv`` of ``arogya-gyawali/brainscan_AI``."""


def kind_of(number: int) -> str:
    """The kind of the tumor in a slice, of :data:`KINDS`."""
    return next(kind for kind, runs in KINDS.items() if any(low <= number <= high for low, high in runs))


def halve(folder: Path, name: str) -> None:
    """Write the picture and the mask of one number."""
    out = data_root() / "brain_slices" / kind_of(int(name))
    out.mkdir(parents=True, exist_ok=True)
    grey = Image.open(folder / "images" / f"{name}.png").convert("L")
    mask = np.asarray(Image.open(folder / "masks" / f"{name}.png").convert("L")) > 0
    cell = len(mask) // EDGE
    label = mask.reshape(EDGE, cell, EDGE, cell).max((1, 3)).astype(np.uint8)
    stem = out / f"{int(name):04d}"
    grey.resize((EDGE, EDGE), Image.Resampling.BOX).save(f"{stem}.jpg", quality=QUALITY)
    Image.fromarray(label).save(f"{stem}_label.png")


def main() -> None:
    """Convert all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="With the folders `images` and `masks`.")
    folder = parser.parse_args().folder
    for path in sorted(folder.glob("images/*.png")):
        halve(folder, path.stem)


if __name__ == "__main__":
    main()
