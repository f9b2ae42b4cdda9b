"""Benchmark data sets, one small file each. To add one, describe it and list it in `DATASETS`."""

from pathlib import Path

from latentseg.errors import UsageError
from latentseg.evaluation.datasets.acdc import ACDC
from latentseg.evaluation.datasets.base import ORGANS, Case, Dataset, data_root, field_folds
from latentseg.evaluation.datasets.chaos import CHAOS
from latentseg.evaluation.datasets.ms_cmrseg import MS_CMRSEG
from latentseg.evaluation.datasets.nnunet import nnunet_folder
from latentseg.evaluation.datasets.sabs import SABS

DATASETS = {dataset.name.upper(): dataset for dataset in (SABS, CHAOS, ACDC, MS_CMRSEG)}


def get_dataset(name: str) -> Dataset:
    """Look a data set up by name, whatever its case, or by the path of a folder in nnU-Net's layout.

    Raises:
        UsageError: There is no such data set.
        InputError: The folder is not in that layout.
    """
    if name.upper() in DATASETS:
        return DATASETS[name.upper()]
    if Path(name).is_dir():
        return nnunet_folder(name)
    known = ", ".join(dataset.name for dataset in DATASETS.values())
    fix = f"choose one of {known}, or give a folder in the layout of nnU-Net"
    raise UsageError(f"no data set '{name}'", where="evaluation", fix=fix)


__all__ = [
    "ACDC",
    "CHAOS",
    "DATASETS",
    "MS_CMRSEG",
    "ORGANS",
    "SABS",
    "Case",
    "Dataset",
    "data_root",
    "field_folds",
    "get_dataset",
    "nnunet_folder",
]
