"""Whole heads in MR, with and without a tumor: thinned for the training, as they are for the evaluation.

Usage: ``python benchmarks/head_volumes.py [--gliomas FOLDER] [--heads FOLDER]``; they are written to
``head_volumes`` below ``LATENTSEG_DATA``. Where they come from, file by file, and what each is used for is in
``configs/heads.csv``: for the training, for the choice of what follows it, or for the evaluation alone.

``--gliomas`` holds a folder for each patient of BraTS 2021 and 2023 (Baid et al., CC BY 4.0; without the
skull) with ``t1``, ``t1c``, ``t2``, ``flair`` and ``seg.nii.gz``. Outlined is, after gadolinium, the core of
the tumor with what takes it up, as Cheng outlines it, and elsewhere the whole tumor with its edema.
``--heads`` holds heads without a tumor, ``PERSON_CONTRAST.nii.gz``, some with the plaques of sclerosis.

Of those that are trained on 24 axial slices are taken and, of isotropic scans, 12 sagittal and 12 coronal
ones, which are stored upright as if they were axial.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import read, read_labels, to_canonical
from latentseg.imaging.nifti import write_nifti

TABLE = Path("configs/heads.csv")
CORE, WHOLE = (1, 3, 4), (1, 2, 3, 4)  # labels of BraTS
EACH = {"axial": 24, "sagittal": 12, "coronal": 12}
TURNS = {"axial": (0, 1, 2), "sagittal": (2, 0, 1), "coronal": (1, 0, 2)}  # of slices, rows and columns
ISOTROPIC = 1.3  # ratio of the edges of a voxel, up to which other planes are sharp
BODY, SHARE = 0.1, 0.02  # of the brightest, above which is body, and the least of a slice that is body
WHITE = 4000  # grey value of the brightest
Values = NDArray[np.floating]


def write_planes(
    values: Values, truth: NDArray[np.bool_] | None, spacing_mm: tuple[float, ...], out: Path
) -> None:
    """Write a few slices of each plane of axial slices ``(S, H, W)``, and where the tumor is in them."""
    sharp = max(spacing_mm) < ISOTROPIC * min(spacing_mm)
    bright = np.percentile(values[values > 0], 99)
    for plane in EACH if sharp else ["axial"]:
        turned = values.transpose(TURNS[plane])
        shown = np.flatnonzero((turned > BODY * bright).mean((1, 2)) > SHARE)
        count = min(EACH[plane], shown[-1] - shown[0] + 1)
        kept = np.unique(np.linspace(shown[0], shown[-1], count).round().astype(int))
        edges = [spacing_mm[axis] for axis in TURNS[plane]]
        apart = max(edges[0] * (shown[-1] - shown[0]) / count, *edges[1:])
        affine = np.diag([-edges[2], -edges[1], apart, 1.0])
        for array, name in ((values / bright * WHITE, ""), (truth, "_seg")):
            if array is None:
                continue
            picture = array.transpose(TURNS[plane])[kept]
            upright = picture if plane == "axial" else picture[:, ::-1]
            stored = upright.clip(0, 2 * WHITE).astype(np.int16 if not name else np.uint8).transpose(2, 1, 0)
            write_nifti(stored, affine, None, out.with_name(f"{out.name}-{plane}{name}.nii.gz"))


def add(image: Path, seg: Path | None, labels: tuple[int, ...], name: str, use: str) -> None:
    """Write one scan for its use."""
    scan = read(image, modality="MR")
    truth = np.isin(read_labels(seg, like=scan).array, labels) if seg else None
    out = data_root() / "head_volumes" / use / ("tumor" if seg else "none") / name
    out.parent.mkdir(parents=True, exist_ok=True)
    if use != "training":
        for array, end in ((scan.array, ""), (truth, "_seg")):
            if array is not None:
                stored = array.astype(np.uint8) if end else array
                write_nifti(stored, scan.affine_ras_mm, scan.header, out.with_name(f"{name}{end}.nii.gz"))
        return
    canonical = to_canonical(scan)
    inside = None if truth is None else canonical.apply(truth)
    write_planes(canonical.slices.astype(np.float32), inside, canonical.spacing_mm, out)


def main() -> None:
    """Write all that the table knows of the folders that are given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gliomas", type=Path)
    parser.add_argument("--heads", type=Path)
    options = parser.parse_args()
    with TABLE.open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            folder = options.gliomas if row["tumor"] == "yes" else options.heads
            if folder is None:
                continue
            name, contrast = row["person"], row["contrast"]
            if row["tumor"] == "yes":
                image, seg = folder / name / f"{contrast}.nii.gz", folder / name / "seg.nii.gz"
                add(image, seg, CORE if contrast == "t1c" else WHOLE, f"{name}_{contrast}", row["use"])
            else:
                add(folder / f"{name}_{contrast}.nii.gz", None, (), f"{name}_{contrast}", row["use"])
            sys.stdout.write(f"{name} {contrast}\n")


if __name__ == "__main__":
    main()
