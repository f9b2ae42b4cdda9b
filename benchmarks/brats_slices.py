"""Slices of gliomas of BraTS 2021 in three planes, which ``configs/pack-head-picture.yaml`` packs.

Usage: ``python benchmarks/brats_slices.py FOLDER``, with pairs of ``*_t1ce.nii.gz`` and ``*_seg.nii.gz``;
they are written to ``brats_slices`` below ``LATENTSEG_DATA``.

BraTS 2021 (Baid et al., CC BY 4.0; T1-Gd, without the skull); seven patients lie in public repositories
(``FenrirWolf4566/brain-tumor``, ``HunorLaczko/IPCV-TRDP_BraTS_2020`` and
``leonardoAndresCrespoSarango/Flask-Server-to-Brain-Tumor-Segmentation`` on GitHub). Outlined is the core of
the tumor with what takes up contrast medium, as Cheng outlines it, without the edema.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import read, read_labels

EDGE, QUALITY = 240, 90
CORE = (1, 3, 4)  # labels
SMALLEST, SHARE = 150, 0.15  # pixels, and of the largest slice of the plane, from which a slice is taken
EACH = 12  # slices of a plane, or a few more
PLANES = {"sa": 0, "co": 1, "ax": 2}
BRIGHTEST = 99.5  # percentile of the brain that becomes white


def square(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A slice in the middle of a square."""
    edge = max(EDGE, *pixels.shape)
    out = np.zeros((edge, edge), np.uint8)
    top, left = ((edge - side) // 2 for side in pixels.shape)
    out[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return out


def slices_of(image: Path, out: Path) -> int:
    """Write the slices of a patient; returns how many."""
    case = image.name.removesuffix("_t1ce.nii.gz").replace("_", "-")
    scan = read(image, modality="MR")
    truth = read_labels(image.with_name(image.name.replace("_t1ce", "_seg")), like=scan)
    values, core = np.asarray(scan.array, np.float32), np.isin(truth.array, CORE)
    grey = (values / np.percentile(values[values > 0], BRIGHTEST)).clip(0, 1) * 255
    count = 0
    for plane, axis in PLANES.items():
        area = core.sum(tuple(other for other in range(3) if other != axis))
        places = np.flatnonzero(area >= max(SMALLEST, SHARE * area.max()))
        for at in places[:: max(len(places) // EACH, 1)]:
            picture, mask = (np.take(one, at, axis).T.astype(np.uint8) for one in (grey, core))
            upright = slice(None, None, 1 if plane == "ax" else -1)
            Image.fromarray(square(picture[upright])).save(
                out / f"{case}-{plane}{at:03d}.jpg", quality=QUALITY
            )
            Image.fromarray(square(mask[upright])).save(out / f"{case}-{plane}{at:03d}_label.png")
            count += 1
    return count


def main() -> None:
    """Convert all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="With the volumes and their outlines.")
    folder, out = parser.parse_args().folder, data_root() / "brats_slices"
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.glob("*_t1ce.nii.gz")):
        print(path.name, slices_of(path, out))


if __name__ == "__main__":
    main()
