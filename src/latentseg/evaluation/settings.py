"""Settings: what a model that is tested on a fold may have seen of the test organs in training.

* `1`: training slices may show the test organs, unlabelled.
* `2`: as published since Q-Net: a slice is left out only if it shows **all four** test organs at once, so
  that nearly all slices with test organs stay in.
* `2-corrected`: as it was meant (Ouyang et al.): a slice is left out if it shows **any** organ of the group
  that is tested. There are two models, one for each group.
* `cross-domain` (FAMNet): trained as in `1` on the other modality; support and query are of the data set.

A setting describes the training. The evaluation is the same, but for the folds of `cross-domain`, and for
the published rows that stand beside the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.evaluation.datasets.base import ORGANS, Case, Dataset
from latentseg.imaging import to_canonical

Setting = Literal["1", "2", "2-corrected", "cross-domain"]
GROUPS = {"upper": ("liver", "spleen"), "lower": ("right_kidney", "left_kidney")}
"""Organs that are tested by one model in the corrected Setting 2."""


@dataclass(frozen=True)
class TrainingSplit:
    """Which scans and slices a model for one fold may be trained on.

    Attributes:
        dataset: Data set.
        fold: Test fold; its scans are not trained on.
        setting: See the module.
        group: Group that is tested (`2-corrected` only).
        slices: Indices of the usable slices, inferior to superior, by case id.
        missing: Training scans that are not on this machine.
    """

    dataset: str
    fold: int
    setting: Setting
    group: str
    slices: dict[str, list[int]]
    missing: list[str]


def training_split(dataset: Dataset, *, fold: int, setting: Setting, group: str = "") -> TrainingSplit:
    """List the slices of the other folds' scans that a model tested on `fold` may be trained on.

    Raises:
        UsageError: No such fold or group, or a group that is missing or out of place.
        InputError: A scan cannot be read.
    """
    check_group(setting, group)
    tested = set(dataset.members(fold))
    present = dataset.present()
    cases = [case for case in dataset.ids if case not in tested]
    slices = {
        case: np.flatnonzero(training_slices(dataset.load(case), setting=setting, group=group)).tolist()
        for case in cases
        if case in present
    }
    missing = [case for case in cases if case not in present]
    return TrainingSplit(dataset.name, fold, setting, group, slices, missing)


def training_slices(case: Case, *, setting: Setting, group: str = "") -> NDArray[np.bool_]:
    """Which canonical slices `(S,)` of a scan may be trained on.

    Raises:
        UsageError: A group that is missing or out of place.
    """
    check_group(setting, group)
    canonical = to_canonical(case.image)
    if not setting.startswith("2"):
        return np.ones(len(canonical.slices), bool)
    organs = GROUPS[group] if group else ORGANS
    shown = np.stack([canonical.apply(case.mask(organ)).any(axis=(1, 2)) for organ in organs])
    return np.asarray(~(shown.all(axis=0) if setting == "2" else shown.any(axis=0)))


def check_group(setting: Setting, group: str) -> None:
    """Require a group where the setting has one model for each, and none elsewhere.

    Raises:
        UsageError: It is missing, unknown or out of place.
    """
    if setting == "2-corrected" and group not in GROUPS:
        raise UsageError(f"no group {group!r} of organs", fix=f"choose from {', '.join(GROUPS)}")
    if setting != "2-corrected" and group:
        raise UsageError(f"setting {setting!r} has no groups of organs", fix="leave the group out")
