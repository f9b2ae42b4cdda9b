"""Whole heads with lower-grade gliomas, in T1 and FLAIR with the skull, for choices and the evaluation.

Usage: ``python benchmarks/lower_grade_heads.py --slices FOLDER``; they are written to
``head_volumes/USE/lower_grade`` below ``LATENTSEG_DATA``, every other patient for choices and the rest for
the evaluation. Never trained on: the outlines, of what is bright on FLAIR, are those of Buda et al. 2019
(CC BY-NC-SA 4.0, of TCGA-LGG, known as ``kaggle_3m``).

``--slices`` holds (as ``data/kaggle_3m`` of ``christopherh-88/BraTS-Africa-Reproduction``, commit
5e53add55871, does) ``PATIENT_NUMBER.tif``, in whose colors are T1, FLAIR and T1 after gadolinium, and
``PATIENT_NUMBER_mask.tif``, in folders of patients or all in one. Slices are numbered from below. Their
distance is lost: that of a head of 150 mm is written, and pixels of 0.94 mm. Where T1 is missing there is
FLAIR in its place, which is left out.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging.nifti import write_nifti

TRAINED = ("TCGA_DU_7294", "TCGA_FG_6692")  # of whom other copies are trained on
COLORS = {"t1": 0, "flair": 1}
HEIGHT_MM, PIXEL_MM = 150.0, 0.94


def main() -> None:
    """Write all heads."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=Path, required=True)
    options = parser.parse_args()
    files: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in options.slices.rglob("*_mask.tif"):
        patient, _, number = path.stem.removesuffix("_mask").rpartition("_")
        files[patient][int(number)] = path
    for at, patient in enumerate(sorted(files)):
        if patient.startswith(TRAINED):
            continue
        outlined = [path for _, path in sorted(files[patient].items())]
        truth = np.stack([np.asarray(Image.open(path)) > 0 for path in outlined])
        seen = np.stack([np.asarray(Image.open(str(path).replace("_mask.tif", ".tif"))) for path in outlined])
        affine = np.diag([-PIXEL_MM, -PIXEL_MM, HEIGHT_MM / len(seen), 1.0])
        out = data_root() / "head_volumes" / ("choice", "evaluation")[at % 2] / "lower_grade"
        out.mkdir(parents=True, exist_ok=True)
        for contrast, color in COLORS.items():
            if contrast == "t1" and np.array_equal(seen[..., 0], seen[..., 1]):
                continue
            for array, end in ((seen[..., color], ""), (truth.astype(np.uint8), "_seg")):
                path = out / f"{patient.rpartition('_')[0]}_{contrast}{end}.nii.gz"
                write_nifti(array.transpose(2, 1, 0), affine, None, path)
        sys.stdout.write(f"{patient}\n")


if __name__ == "__main__":
    main()
