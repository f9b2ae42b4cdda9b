"""BTCV "SABS" portal-venous abdominal CT of 30 patients, preprocessed as in the few-shot literature.

Landman et al., MICCAI 2015 "Beyond the Cranial Vault" workshop and challenge.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from latentseg.errors import InputError
from latentseg.evaluation.datasets.base import ORGANS, Dataset, Original, Pair, field_folds
from latentseg.evaluation.datasets.originals import fit_in_plane, reorient, resample_pair
from latentseg.imaging import Volume, read, read_labels

WINDOW_HU = (-125.0, 275.0)
BORDER = 32  # pixels of 512 that are cut off on each side


def mend_orientation(volume: Volume) -> Volume:
    """Overrule a false LPS header by the LAS that the voxels are in; take other headers at their word.

    The published preprocessed files say that the second axis points to the posterior. It points to the
    anterior in every one of them: taken at their word, spine and table come to lie in front of the liver.
    Left and right are correct, as the labels of the two kidneys confirm. The affine stays the file's own.
    """
    return replace(volume, orientation="LAS") if volume.axis_codes == "LPS" else volume


def find_originals(folder: Path) -> list[Original]:
    """Cases of the BTCV download (`img/img0001.nii.gz`, `label/label0001.nii.gz`), by position."""
    images = {path.name[3:7]: path for path in folder.rglob("img[0-9][0-9][0-9][0-9].nii.gz")}
    labels = {path.name[5:9]: path for path in folder.rglob("label[0-9][0-9][0-9][0-9].nii.gz")}
    both = sorted(images.keys() & labels.keys())
    return [
        Original(str(position), partial(_read, images[number], labels[number]))
        for position, number in enumerate(both)
    ]


def _read(image_path: Path, label_path: Path) -> Pair:
    """Window to 0..255, cut the border off, shrink in the plane by 1.75; LAS, which `load` leaves alone."""
    image = read(image_path, modality="CT")
    labels = reorient(read_labels(label_path, like=image), "LAS")
    image = reorient(image, "LAS")
    low, high = WINDOW_HU
    shown = image.with_array((np.clip(image.array, low, high) - low) * (255 / (high - low)))
    inner = shown.shape[0] - 2 * BORDER, shown.shape[1] - 2 * BORDER
    if min(inner) <= 0:
        what = (
            f"slices of {shown.shape[0]} x {shown.shape[1]} pixels have nothing inside a border of {BORDER}"
        )
        raise InputError(what, where=str(image_path), fix="give the scans as downloaded, 512 x 512")
    shown, labels = fit_in_plane(shown, inner, value=0), fit_in_plane(labels, inner, value=0)
    x, y, z = shown.spacing_mm
    return resample_pair(shown, labels, spacing_mm=(1.75 * x, 1.75 * y, z))


SABS = Dataset(
    name="SABS",
    folder="sabs",
    modality="CT",
    ids=tuple(str(number) for number in range(30)),
    folds=field_folds(30),
    label_of={
        "liver": 6,
        "right_kidney": 2,
        "left_kidney": 3,
        "spleen": 1,
        "gallbladder": 4,
        "esophagus": 5,
        "stomach": 7,
        "aorta": 8,
        "inferior_vena_cava": 9,
        "portal_and_splenic_vein": 10,
        "pancreas": 11,
        "right_adrenal_gland": 12,
        "left_adrenal_gland": 13,
    },
    organs=ORGANS,
    cross_folds=field_folds(20),
    repair=mend_orientation,
    find_originals=find_originals,
)
