"""Benchmark data sets, one small file each. To add one, describe it and list it in `DATASETS`."""

from latentseg.errors import UsageError
from latentseg.evaluation.datasets.base import ORGANS, Case, Dataset, data_root
from latentseg.evaluation.datasets.chaos import CHAOS
from latentseg.evaluation.datasets.sabs import SABS

DATASETS = {dataset.name: dataset for dataset in (SABS, CHAOS)}


def get_dataset(name: str) -> Dataset:
    """Look a data set up by name, whatever its case.

    Raises:
        UsageError: There is no such data set.
    """
    if name.upper() not in DATASETS:
        raise UsageError(
            f"no data set '{name}'", where="evaluation", fix=f"choose one of {', '.join(DATASETS)}"
        )
    return DATASETS[name.upper()]


__all__ = ["CHAOS", "DATASETS", "ORGANS", "SABS", "Case", "Dataset", "data_root", "get_dataset"]
