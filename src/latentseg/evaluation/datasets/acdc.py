"""ACDC: cine MR of the heart, short axis, 100 training patients, the end-diastolic frame.

Bernard et al., IEEE TMI 2018; CC BY-NC-SA 4.0: for evaluation only. We know of no
published few-shot folds for it: these follow the usual rule, and the preprocessing is that of MS-CMRSeg.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from latentseg.errors import InputError
from latentseg.evaluation.datasets.base import Dataset, Original, Pair, field_folds, stack_along_k
from latentseg.evaluation.datasets.originals import clip_top, fit_in_plane, resample_pair
from latentseg.imaging import read, read_labels

PIXEL_MM = 1.25
SIZE = (256, 256)


def find_originals(folder: Path) -> list[Original]:
    """Cases of the download (`patient001/Info.cfg`, `patient001_frame01.nii.gz`, `..._frame01_gt.nii.gz`)."""
    return [
        Original(path.parent.name, partial(_read, path.parent))
        for path in sorted(folder.rglob("patient[0-9][0-9][0-9]/Info.cfg"))
        if path.parent.name in ACDC.ids
    ]


def _read(folder: Path) -> Pair:
    """Clip the top half percent, resample to 1.25 mm in the plane, crop or pad to 256 pixels."""
    found = re.search(r"^\s*ED\s*:\s*(\d+)", (folder / "Info.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise InputError("no end-diastolic frame (ED)", where=str(folder / "Info.cfg"), fix="unpack it again")
    stem = f"{folder.name}_frame{int(found[1]):02d}"
    image = read(folder / f"{stem}.nii.gz", modality="MR")
    labels = read_labels(folder / f"{stem}_gt.nii.gz", like=image)
    spacing_mm = (PIXEL_MM, PIXEL_MM, image.spacing_mm[2])
    image, labels = resample_pair(clip_top(image), labels, spacing_mm=spacing_mm)
    return fit_in_plane(image, SIZE, value=float(image.array.min())), fit_in_plane(labels, SIZE, value=0)


ACDC = Dataset(
    name="ACDC",
    folder="acdc",
    modality="MR",
    ids=tuple(f"patient{number:03d}" for number in range(1, 101)),
    folds=field_folds(100),
    label_of={"right_ventricle": 1, "myocardium": 2, "left_ventricle": 3},
    repair=stack_along_k,
    find_originals=find_originals,
)
