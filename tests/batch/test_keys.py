"""The key of a case changes with everything that changes an answer, whatever fields are added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch

from latentseg.batch import keys
from latentseg.batch.cases import Case
from latentseg.batch.work import Task, recipe_of
from latentseg.imaging.dicom.series import DicomOptions
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.parts import SegmentOptions
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_scan import SupportScan
from latentseg.methods.tumor.options import PAPER_LIKE, RECOMMENDED

FREE = ("sources",)  # renaming the files of a support changes no answer


def a_scan() -> SupportScan:
    images = np.linspace(-1, 1, 48, dtype=np.float16).reshape(3, 4, 4)
    masks, known = np.stack([np.eye(4, dtype=bool)] * 3), np.array([True, True, False])
    return SupportScan(images, masks, known, np.array([0, 5, 10], np.float32), 400.0)


def a_support() -> Support:
    images = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4)
    masks = np.stack([np.eye(4, dtype=bool)] * 2)
    return Support("liver", images, masks, ("a", "b"), scans=(a_scan(), a_scan()))


def a_context() -> SupportContext:
    """An encoded support with every part, of small tensors that all differ."""
    count = iter(range(100))

    def tensor(*shape: int) -> torch.Tensor:
        return torch.arange(float(np.prod(shape))).view(shape) + next(count)

    names = ("network/cache/keys/down.attn", "network/fg", "matching prior/features", "closer look/edge")
    tensors = {name: tensor(1, 2, 3) for name in names}
    tensors["volume matching/0/target"] = tensor(2, 3).half()
    tensors["volume matching/0/target_mm"] = tensor(2, 3)
    return SupportContext("liver", "nearest", "weights", tensors=tensors)


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """The value with one thing in it changed, for every thing in it, and where that is."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in FREE}
        for name, part in parts.items():
            yield from (
                (f"{name} {at}".strip(), replace(value, **{name: other})) for at, other in changes(part)
            )
    elif isinstance(value, tuple):
        yield "shorter", value[:-1] if value else ("one",)
        for n, item in enumerate(value):
            yield from ((f"{n} {at}", (*value[:n], other, *value[n + 1 :])) for at, other in changes(item))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield f"{name} renamed", {(f"{n}." if n == name else n): v for n, v in value.items()}
            yield from ((f"{name} {at}", value | {name: other}) for at, other in changes(item))
    elif isinstance(value, np.ndarray | torch.Tensor):
        yield "values", ~value if value.dtype in (bool, torch.bool) else value + 1
        yield "shape", value[None]
    else:
        yield "", changed(value)


def changed(value: Any) -> Any:
    """Another value of the same kind, small numbers staying below 1."""
    if isinstance(value, Path):
        return value.with_name(f"other_{value.name}")
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 if value else 0.5
    return f"{value}." if isinstance(value, str) else (value or 0) + 1


def without_parts(options: Any) -> Iterator[tuple[str, Any]]:
    """Options with each part that can be left out left out."""
    for field in fields(options):
        if is_dataclass(getattr(options, field.name)):
            yield f"without {field.name}", replace(options, **{field.name: None})


@pytest.mark.parametrize("target", [a_support(), a_context()], ids=["support", "encoded"])
def test_every_field_of_a_support_changes_its_digest(target: Any) -> None:
    digests = {"unchanged": keys.target_digest(target)} | {
        where: keys.target_digest(other) for where, other in changes(target)
    }
    assert len(digests) > 20
    same: dict[str, list[str]] = {}
    for where, digest in digests.items():
        same.setdefault(digest, []).append(where)
    assert [places for places in same.values() if len(places) > 1] == []


def test_a_corrected_spacing_or_mask_is_noticed() -> None:
    """Scans are compared in millimeters, with everything that is marked in them."""
    support = a_support()
    wider = replace(a_scan(), side_mm=300.0)
    elsewhere = replace(a_scan(), masks=~a_scan().masks)
    digests = {
        keys.target_digest(replace(support, scans=(scan, a_scan()))) for scan in (a_scan(), wider, elsewhere)
    }
    assert len(digests) == 3


def test_equal_supports_have_equal_digests_wherever_their_files_are() -> None:
    assert keys.target_digest(a_support()) == keys.target_digest(replace(a_support(), sources=("c", "d")))
    assert keys.target_digest(a_context()) == keys.target_digest(a_context())
    assert keys.target_digest("liver tumor") != keys.target_digest("kidney tumor")


def test_a_context_from_a_file_has_one_digest(tmp_path: Path) -> None:
    path = a_context().save(tmp_path / "liver.safetensors")
    assert keys.target_digest(SupportContext.load(path)) == keys.target_digest(SupportContext.load(path))


@hypothesis.given(st.data())
def test_every_pixel_counts(data: st.DataObject) -> None:
    support = a_support()
    name = data.draw(st.sampled_from(["images", "masks"]))
    array = getattr(support, name).copy()
    at = tuple(data.draw(st.integers(0, side - 1)) for side in array.shape)
    array[at] = ~array[at] if array.dtype == bool else array[at] + np.float32(1e-3)
    assert keys.target_digest(replace(support, **{name: array})) != keys.target_digest(support)


class Method:
    """A stand-in with options."""

    def __init__(self, options: object) -> None:
        self.options = options


CASE = Case("ct01", Path("in/ct01.nii.gz"), "CT", "LPS", DicomOptions(series="7"))


def key(options: object = None, *, case: Case = CASE, content: str = "a1", **recipe: Any) -> str:
    task = Task(
        Method(options),  # type: ignore[arg-type]
        recipe.get("targets", ("liver tumor",)),
        recipe.get("weights", "w"),
    )
    made = recipe_of([task], recipe.get("save", ("mask",)), combined=recipe.get("combined", ()))
    return keys.case_key(case, content=content, recipe=made)


@pytest.mark.parametrize("options", [SegmentOptions(), RECOMMENDED, PAPER_LIKE])
def test_every_option_changes_the_key(options: Any) -> None:
    other = {where: key(made) for where, made in [*changes(options), *without_parts(options)]}
    assert len(set(other.values()) | {key(options)}) == len(other) + 1


def test_everything_about_a_case_and_what_is_written_changes_the_key() -> None:
    made = {where: key(case=case) for where, case in changes(CASE)}
    made |= {
        "unchanged": key(),
        "without dicom": key(case=replace(CASE, dicom=None)),
        "content": key(content="a2"),
        "weights": key(weights="v"),
        "targets": key(targets=("kidney tumor",)),
        "save": key(save=("mask", "prob")),
        "combined": key(combined=("liver tumor",)),
    }
    assert {"name", "image", "modality", "orientation"} <= made.keys()
    assert len(set(made.values())) == len(made)
