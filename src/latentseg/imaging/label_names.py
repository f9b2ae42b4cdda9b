"""What labels are called: tables of names and label ids, as in `labels.json` and nnU-Net's `dataset.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Label = int | tuple[int, ...]
"""The id of a target in label maps; of nnU-Net's regions all ids that belong to it."""


def label_ids(table: Any) -> dict[str, Label]:
    """Label ids by name; background, which is 0, is left out.

    Args:
        table: ``{"liver": 1}``, the first version of nnU-Net's ``{"1": "liver"}``, or with regions
            ``{"whole tumor": [1, 2], "core": [2]}``.

    Raises:
        TypeError: no table, or an id that is neither a number nor a list of numbers.
        ValueError: an id that is no whole number.

    Example:
        >>> label_ids({"background": 0, "whole": [1, 2], "core": 2})
        {'whole': (1, 2), 'core': 2}
    """
    if not isinstance(table, Mapping):
        raise TypeError("there is no table of labels")
    if table and all(str(key).isdecimal() for key in table):
        table = {str(name): label for label, name in table.items()}
    found = {str(name): _ids(label) for name, label in table.items()}
    return {name: ids[0] if len(ids) == 1 else ids for name, ids in found.items() if ids}


def members(label: Label) -> tuple[int, ...]:
    """The ids of a label."""
    return label if isinstance(label, tuple) else (label,)


def described(label: Label) -> str:
    """``label 3``, or of a region ``labels 1 and 2``."""
    *first, last = map(str, members(label))
    return f"labels {', '.join(first)} and {last}" if first else f"label {last}"


def _ids(label: Any) -> tuple[int, ...]:
    """The ids without that of the background."""
    listed = label if isinstance(label, list | tuple) else [label]
    return tuple(sorted({int(one) for one in listed} - {0}))
