"""MS-CMRSeg 2019: balanced SSFP cine MR of the heart, short axis, 35 labelled patients.

Zhuang, IEEE TPAMI 2019. The published preprocessed files keep the label ids of the original, which are mapped
here.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from latentseg.evaluation.datasets.base import Dataset, Original, Pair, field_folds, stack_along_k
from latentseg.evaluation.datasets.originals import clip_top, fit_in_plane, resample_pair
from latentseg.imaging import read, read_labels
from latentseg.imaging.files import natural_key

SPACING_MM = (1.25, 1.25, 7.99)
SIZE = (256, 256)


def find_originals(folder: Path) -> list[Original]:
    """Cases of the download (`patient1_C0.nii.gz`, `patient1_C0_manual.nii.gz`, in whatever folders)."""
    labels = {path.name.split("_")[0]: path for path in folder.rglob("patient*_C0_manual.nii.gz")}
    images = sorted(folder.rglob("patient*_C0.nii.gz"), key=natural_key)
    return [
        Original(name.removeprefix("patient"), partial(_read, path, labels[name]))
        for path in images
        if (name := path.name.split("_")[0]) in labels
    ]


def _read(image_path: Path, label_path: Path) -> Pair:
    """Clip the top half percent, resample to 1.25 x 1.25 x 7.99 mm, crop or pad to 256 pixels."""
    image = read(image_path, modality="MR")
    labels = read_labels(label_path, like=image)
    image, labels = resample_pair(clip_top(image), labels, spacing_mm=SPACING_MM)
    return fit_in_plane(image, SIZE, value=float(image.array.min())), fit_in_plane(labels, SIZE, value=0)


MS_CMRSEG = Dataset(
    name="MS-CMRSeg",
    folder="ms_cmrseg",
    modality="MR",
    ids=tuple(str(number) for number in range(1, 36)),
    folds=field_folds(35),
    label_of={"left_ventricle": 2, "myocardium": 1, "right_ventricle": 3},
    relabel={200: 1, 500: 2, 600: 3},
    repair=stack_along_k,
    find_originals=find_originals,
)
