"""Any data set in the layout of nnU-Net: `imagesTr`, `labelsTr` and `dataset.json`.

The folder is given in the place of a name. Cases are in natural order. Folds are those of `splits_final.json`
(the validation cases of each split) where the folder has one, else those of the few-shot literature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentseg.errors import InputError
from latentseg.evaluation.datasets.base import Dataset, field_folds
from latentseg.imaging.files import case_name, is_hidden, natural_key
from latentseg.imaging.label_names import described, label_ids
from latentseg.imaging.nnunet import modality_of, read_description


def nnunet_folder(folder: str | Path) -> Dataset:
    """Describe a folder; of several channels the first is taken.

    Raises:
        InputError: No `dataset.json`, one that cannot be read or does not name the labels, or no cases.
    """
    path = Path(folder).absolute()
    about = read_description(path / "dataset.json")
    ending = str(about.get("file_ending", ".nii.gz"))
    found = (label for label in (path / "labelsTr").glob(f"*{ending}") if not is_hidden(label))
    labels = sorted(found, key=natural_key)
    ids = [case_name(label) for label in labels]
    if not ids:
        what = f"no label maps *{ending}"
        raise InputError(what, where=str(path / "labelsTr"), fix="put them where nnU-Net expects them")
    channel = "_0000" if (path / "imagesTr" / f"{ids[0]}_0000{ending}").exists() else ""
    return Dataset(
        name=path.name,
        folder=path.name,
        modality=modality_of(about),
        ids=ids,
        folds=_folds(path, ids),
        label_of=label_names(about, where=str(path / "dataset.json")),
        image_file=f"imagesTr/{{case}}{channel}{ending}",
        label_file=f"labelsTr/{{case}}{ending}",
        root=path.parent,
    )


def label_names(about: Mapping[str, Any], *, where: str) -> dict[str, int]:
    """Label ids by name, from `{"liver": 1}` or the older `{"1": "liver"}`; background is left out.

    Raises:
        InputError: No labels, ids that are no numbers, or regions, whose masks overlap.
    """
    try:
        table = label_ids(about.get("labels"))
    except (TypeError, ValueError) as error:
        fix = 'write "labels": {"background": 0, "liver": 1}'
        raise InputError(f"the labels cannot be read ({error})", where=where, fix=fix) from error
    regions = [f"{name!r} is {described(label)}" for name, label in table.items() if isinstance(label, tuple)]
    if regions:
        what = f"the labels are regions, which overlap and are not evaluated ({'; '.join(regions)})"
        fix = "give a copy whose dataset.json names each label id once"
        raise InputError(what, where=where, fix=fix)
    names = {name.strip().replace(" ", "_"): ids for name, ids in table.items() if isinstance(ids, int)}
    if not names:
        raise InputError("no label but the background", where=where, fix="name the labels of the maps")
    return names


def _folds(path: Path, ids: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Folds of `splits_final.json`, else those of the few-shot literature."""
    splits = path / "splits_final.json"
    if not splits.exists():
        return field_folds(len(ids))
    try:
        content = json.loads(splits.read_text(encoding="utf-8"))
        return tuple(tuple(sorted(ids.index(case) for case in split["val"])) for split in content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        fix = "remove it, or write a list of {train, val} with names of cases in labelsTr"
        raise InputError(f"the splits cannot be used ({error})", where=str(splits), fix=fix) from error
