"""Synthetic nodules and masses of the lung in whole chests: how many are marked, and how much else.

Usage: ``python benchmarks/lung_chests.py [--turns 1] [--lowered 3.0] [--output FILE]``; data through
``LATENTSEG_DATA``.

Chests that ``configs/split.yaml`` does not keep back, on which choices may be made; tumors of their own
that can be seen lie in slices that are left out. In each grow, every turn anew, a few lesions in three
dimensions. A lesion is marked where a part of the mask touches it; a part is false where less than a
twentieth of it is a lesion. ``--lowered`` is what the scores of the shipped networks of lungs are lowered
by.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import latentseg as ls
from latentseg.errors import LatentsegWarning
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read, to_canonical
from latentseg.methods.tumor.lung_field import WINDOW_HU, lung_field
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.training.tumor.lesions import LesionOptions, add_lesion

CHESTS: dict[str, tuple[range, ...]] = {
    "ACRIN-FLT-Breast__ACRIN-FLT-Breast_001__CT__805941": (),
    "CMB-CRC__CMB-CRC-MSB-01068__CT__846513": (),
    "CMB-CRC__MSB-01068__CT__556792": (),
    "CPTAC-LUAD__C3N-00704__CT__549101": (range(73, 83),),
    "LIDC-IDRI__LIDC-IDRI-0021__CT__802868": (range(26), range(43, 50)),
    "LIDC-IDRI__LIDC-IDRI-0314__CT__275227": (range(8), range(19, 35)),
    "LungFCP-01-0001__CT__418685": (range(5, 13),),
}
"""Files in ``tcia``, and slices, inferior to superior, that are left out."""

LESIONS, RADII_MM = 5, (4.0, 22.0)
EDGE, DEPTH = 56, 5  # half of a box of voxels and of slices in which a lesion grows
LEAST = 0.05
TOUCHING = np.ones((3, 3, 3))
Mask = NDArray[np.bool_]


def with_lesions(scan: Volume, rng: np.random.Generator) -> tuple[Volume, Mask]:
    """A chest with synthetic tumors, and where they are on its canonical slices."""
    canonical, field = to_canonical(scan), lung_field(scan, 256)
    hu = canonical.slices.astype(np.float32)
    truth = np.zeros(hu.shape, bool)
    lung = field.seen.undo(field.lung.astype(np.float32)) > 0.5 if field else truth
    points, (low, high) = np.argwhere(lung), WINDOW_HU
    step, pixel = canonical.spacing_mm[:2]
    factor = max(round(step / pixel), 1)
    radii = (RADII_MM[0] / pixel, RADII_MM[1] / pixel)
    options = LesionOptions(radii, dark=0.0, texture=0.2, contrast=(0.15, 1.2), solid=(-0.4, 0.55))
    for middle in rng.choice(points, LESIONS) if len(points) else ():
        box = tuple(
            slice(max(at - half, 0), at + half + 1)
            for at, half in zip(middle, (DEPTH, EDGE, EDGE), strict=True)
        )
        fine = (2 * (hu[box] - low) / (high - low) - 1).clip(-1, 1).repeat(factor, 0)
        fine = ndimage.uniform_filter1d(fine, factor, axis=0)
        lesion = add_lesion(fine, lung[box].repeat(factor, 0), rng, options=options)
        slabs = (len(hu[box]), factor, *fine.shape[1:])
        change = (lesion.image - fine).reshape(slabs).mean(1)
        hu[box] += change * (high - low) / 2
        truth[box] |= lesion.mask.reshape(slabs).mean(1) > 0.5
    grown = canonical.restore(hu)
    return Volume(np.ascontiguousarray(grown, np.float32), scan.affine_ras_mm, "CT"), truth


def counted(mask: Mask, truth: Mask, left_out: tuple[range, ...]) -> dict[str, int]:
    """Lesions, those that are marked, and false parts, of canonical slices."""
    parts, count = ndimage.label(mask, TOUCHING)
    share = np.array(ndimage.mean(truth, parts, range(1, count + 1))).reshape(count)
    slices = [box[0] for box in ndimage.find_objects(parts)]
    beside = [any(k in gone for gone in left_out for k in range(s.start, s.stop)) for s in slices]
    lesions, number = ndimage.label(truth, TOUCHING)
    marked = len(set(np.unique(lesions[mask]).tolist()) - {0})
    false = int(((share < LEAST) & ~np.array(beside, bool)).sum())
    return {"lesions": number, "marked": marked, "false parts": false}


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--lowered", type=float)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/lung_chests.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore", LatentsegWarning)
    segmenter = ls.load("tumor", options=replace(RECOMMENDED, refinement=None))
    offsets = segmenter.networks.alone["lung"].network.views.by_organ
    offsets["lung CT"] = offsets["lung CT"] if options.lowered is None else options.lowered
    rows = []
    for number, (name, left_out) in enumerate(CHESTS.items()):
        scan = read(data_root() / "tcia" / f"{name}.nii.gz", modality="CT")
        for turn in range(options.turns):
            chest, truth = with_lesions(scan, np.random.default_rng((turn, number)))
            found = segmenter(chest, "lung tumor")["lung tumor"]
            rows.append({"chest": name, **counted(to_canonical(chest).apply(found.mask), truth, left_out)})
            sys.stdout.write(f"{rows[-1]}\n")
            sys.stdout.flush()
    total = {key: sum(int(row[key]) for row in rows) for key in ("lesions", "marked", "false parts")}
    about = {"date": datetime.now(UTC).date().isoformat(), "weights": segmenter.fingerprint}
    result = {**about, "lowered": offsets["lung CT"], "chests": len(rows), **total, "rows": rows}
    sys.stdout.write(f"{total} in {len(rows)} chests\n")
    options.output.write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
