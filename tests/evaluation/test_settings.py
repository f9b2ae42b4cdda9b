"""Which slices the settings leave for training."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from latentseg.errors import UsageError
from latentseg.evaluation.datasets import CHAOS, Dataset
from latentseg.evaluation.settings import training_slices, training_split


@pytest.fixture
def chaos(tmp_path: Path) -> Dataset:
    """Cases 20 and 21; slices with liver 1-5, right kidney 2-4, left kidney 3-4, spleen 4-6."""
    labels = np.zeros((6, 6, 8), np.uint8)
    for label, (first, last) in {1: (1, 5), 2: (2, 4), 3: (3, 4), 4: (4, 6)}.items():
        labels[label, :, first : last + 1] = label
    folder = tmp_path / CHAOS.folder
    folder.mkdir()
    for case in ("20", "21"):
        nib.save(nib.Nifti1Image(labels * 30, np.diag([-1, 1, 5, 1.0])), folder / f"image_{case}.nii.gz")
        nib.save(nib.Nifti1Image(labels, np.diag([-1, 1, 5, 1.0])), folder / f"label_{case}.nii.gz")
    return CHAOS.at(tmp_path)


def test_slices_by_hand(chaos: Dataset) -> None:
    case = chaos.load("20")
    kept = {
        "1": training_slices(case, setting="1"),
        "2": training_slices(case, setting="2"),
        "upper": training_slices(case, setting="2-corrected", group="upper"),
        "lower": training_slices(case, setting="2-corrected", group="lower"),
        "cross": training_slices(case, setting="cross-domain"),
    }
    left_out = {name: np.flatnonzero(~slices).tolist() for name, slices in kept.items()}
    assert left_out == {"1": [], "2": [4], "upper": [1, 2, 3, 4, 5, 6], "lower": [2, 3, 4], "cross": []}


def test_a_split_holds_the_other_folds_and_says_what_is_missing(chaos: Dataset) -> None:
    split = training_split(chaos, fold=0, setting="2")
    assert split.slices == {"20": [0, 1, 2, 3, 5, 6, 7], "21": [0, 1, 2, 3, 5, 6, 7]}
    assert len(split.missing) == 13
    assert training_split(chaos, fold=2, setting="2").slices == {}  # both are test patients of this fold


def test_groups_are_asked_for_where_they_belong(chaos: Dataset) -> None:
    with pytest.raises(UsageError, match="no group '' of organs"):
        training_split(chaos, fold=0, setting="2-corrected")
    with pytest.raises(UsageError, match="has no groups of organs"):
        training_split(chaos, fold=0, setting="2", group="upper")
