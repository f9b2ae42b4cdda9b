"""Livers with dark masses, as files that ``configs/pack-abdomen.yaml`` packs.

Usage: ``python benchmarks/liver_slices.py --vessels FOLDER``; they are written to ``liver_slices`` below
``LATENTSEG_DATA``, from ``slices_2d/msd_liver`` there and from FOLDER.

* MSD Task03 (CC BY-SA 4.0), whose livers are outlined with their tumors: a rule finds masses that are darker
  than the liver, compact and not along its border, in 80 slices of the patients that ``configs/split.yaml``
  does not keep back. Nobody drew these masses; of the 80 slices those in :data:`CHOSEN` looked like tumors
  to us, who are no radiologists, and become ``tumor``, the others are left out, and slices in which the rule
  finds nothing become ``plain``. But the rule finds neither cysts nor masses at the border of a liver: in
  what it had left, a network that had learned from the others found 23 slices with masses that are plain to
  see, which become ``tumor`` with its outlines (``liver_outlines.json``: columns and rows), and 21 of which
  we are not sure (:data:`UNSURE`), which are left out.
* MSD Task08 (CC BY-SA 4.0), vessels and tumors by hand: ``projects/*/HepaticVessel/mini_test`` of
  ``sarah-antillia/TensorFlow-FlexUNet-Image-Segmentation-HepaticVessel`` on GitHub, commit a581892, those
  slices with a tumor that ``tumour_2d/hepatic_vessel`` lacks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

from latentseg.evaluation.datasets.base import data_root
from latentseg.training.config import read_config
from latentseg.training.splits import Split

CHOSEN = """
10002_099 10002_102 10003_117 10013_109 10013_118 10013_121 10020_107 10020_125 10020_135 10021_116
10021_134 10027_121 10027_132 10032_029 10036_114 10036_116 10036_117 10037_101 10037_108 10048_097
10052_047 10052_048 10055_028 10058_011 10071_128 10072_125 10072_127 10075_134 10075_143 10080_103
10086_123 10096_118 10097_127 10098_057
"""
UNSURE = """
10006_095 10006_098 10006_106 10012_118 10015_111 10016_119 10028_120 10037_132 10041_127 10041_131 10048_090
10048_091 10048_105 10061_025 10071_129 10080_119 10085_124 10085_145 10085_154 10097_110 10100_143
"""
OUTLINES = Path(__file__).with_name("liver_outlines.json")
KEPT_BACK = """
10004_121 10004_136 10004_137 10004_139 10044_138 10049_025 10059_035 10089_137
"""
"""Of 18 slices of patients that the split keeps back, in which the rule finds masses; for the evaluation."""

DARKER, LEAST, SMALLEST_LIVER, SMOOTH = 2.2, 30, 300, 1.8
FAT, FATTY, WHOLE = 0.4, 0.12, 0.6  # grey values as shares of the liver's; share of fat; share of the liver
Slice = NDArray[np.float64]
Mask = NDArray[np.bool_]


def dark_masses(grey: Slice, liver: Mask) -> Mask:
    """Compact pieces of a liver ``(rows, columns)`` that are darker than it by more than its noise."""
    inner = ndimage.binary_erosion(liver, iterations=2)
    if inner.sum() < SMALLEST_LIVER:
        return np.zeros_like(liver)
    smooth = ndimage.gaussian_filter(grey, SMOOTH)
    level = float(np.median(smooth[inner]))
    above = smooth[inner][smooth[inner] >= level]
    spread = float(np.sqrt(((above - level) ** 2).mean()))
    usual = 1.4826 * float(np.median(np.abs(smooth[inner] - level)))
    dark = liver & (smooth < level - DARKER * max(min(spread, 1.3 * usual), 5.0))
    pieces, count = ndimage.label(ndimage.binary_opening(dark, iterations=2))
    solid = ndimage.binary_closing(np.pad(liver, 7), iterations=5)
    depth = ndimage.distance_transform_edt(solid)[7:-7, 7:-7]
    found = np.zeros_like(liver)
    for piece in (pieces == number for number in range(1, count + 1)):
        radius = float(np.sqrt(piece.sum() / np.pi))
        compact = ndimage.distance_transform_edt(piece).max() >= 0.45 * radius
        deep = np.median(depth[piece]) >= 0.5 * radius + 1.5
        sized = LEAST <= piece.sum() <= WHOLE * liver.sum()
        tissue = np.median(grey[piece]) >= FAT * level and (grey[piece] < 0.25 * level).mean() <= FATTY
        if compact and deep and sized and tissue:
            found |= ndimage.binary_fill_holes(piece)
    return found


def within(outlines: list[list[list[int]]], shape: tuple[int, ...]) -> Mask:
    """What lies within outlines, each a list of columns and rows, of a slice."""
    drawn = Image.new("1", shape[::-1])
    for outline in outlines:
        ImageDraw.Draw(drawn).polygon([(column, row) for column, row in outline], fill=1)
    return np.asarray(drawn)


def write(path: Path, grey: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
    """Write a slice and its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).save(path)
    Image.fromarray(label).save(path.with_name(f"{path.stem}_label.png"))


def livers(out: Path) -> None:
    """Slices of MSD Task03."""
    root, split = data_root(), read_config(Path("configs/split.yaml"), Split)
    outlines = json.loads(OUTLINES.read_text(encoding="utf-8"))
    for path in sorted(root.glob("slices_2d/msd_liver/*.jpg")):
        if split.part(path.relative_to(root)) != "training":
            continue
        grey = np.asarray(Image.open(path).convert("L"))
        liver = np.asarray(Image.open(path.with_name(f"{path.stem}_label.png"))) > 0
        masses = dark_masses(grey.astype(np.float64), liver)
        if path.stem in UNSURE.split():
            continue
        if path.stem in outlines:
            masses = within(outlines[path.stem], liver.shape)
            liver |= masses
        if not masses.any() or path.stem in (*CHOSEN.split(), *outlines):
            kind = "tumor" if masses.any() else "plain"
            write(
                out / kind / f"{path.stem}.png",
                grey,
                (liver.astype(np.uint8) + (masses & liver)).astype(np.uint8),
            )


def vessels(folder: Path, out: Path) -> None:
    """Slices of MSD Task08 with a tumor."""
    known = {path.name for path in data_root().glob("tumour_2d/hepatic_vessel/*.png")}
    for path in sorted(folder.rglob("mini_test/masks/*.png")):
        mask = np.asarray(Image.open(path).convert("RGB")) > 127
        if mask[..., 0].any() and path.name not in known:
            grey = np.asarray(Image.open(path.parent.with_name("images") / path.name).convert("L"))
            write(out / path.name, grey, (mask[..., 1] + 2 * mask[..., 0]).astype(np.uint8))


def main() -> None:
    """Write all of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vessels", type=Path, required=True)
    options = parser.parse_args()
    livers(data_root() / "liver_slices")
    vessels(options.vessels, data_root() / "liver_slices" / "vessel")


if __name__ == "__main__":
    main()
