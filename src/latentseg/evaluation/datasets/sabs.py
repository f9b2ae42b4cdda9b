"""BTCV "SABS" portal-venous abdominal CT of 30 patients, as the few-shot field preprocesses it.

Landman et al., MICCAI 2015 "Beyond the Cranial Vault" workshop and challenge.
"""

from __future__ import annotations

from dataclasses import replace

from latentseg.evaluation.datasets.base import Dataset, fold_ranges
from latentseg.imaging import Volume


def mend_orientation(volume: Volume) -> Volume:
    """Overrule a false LPS header by the LAS that the voxels are in; take other headers at their word.

    The field's preprocessed files say that the second axis points to the posterior. It points to the
    anterior in every one of them: taken at their word, spine and table come to lie in front of the liver.
    Left and right are correct, as the labels of the two kidneys confirm. The affine stays the file's own.
    """
    return replace(volume, orientation="LAS") if volume.axis_codes == "LPS" else volume


SABS = Dataset(
    name="SABS",
    folder="sabs",
    modality="CT",
    ids=tuple(str(number) for number in range(30)),
    folds=fold_ranges((0, 6), (6, 12), (12, 18), (18, 24), (24, 29)),
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
    repair=mend_orientation,
)
