"""CHAOS T2-SPIR abdominal MR of 20 healthy volunteers, as the few-shot field preprocesses it.

Kavur et al., Medical Image Analysis 2021; CC BY-NC-SA 4.0: for evaluation only.
"""

from __future__ import annotations

from latentseg.evaluation.datasets.base import Dataset, fold_ranges

_IDS = (1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39)

CHAOS = Dataset(
    name="CHAOS",
    folder="chaos_t2",
    modality="MR",
    ids=tuple(str(number) for number in _IDS),
    folds=fold_ranges((0, 4), (4, 8), (8, 12), (12, 16), (16, 19)),
    label_of={"liver": 1, "right_kidney": 2, "left_kidney": 3, "spleen": 4},
)
