"""Encoded supports on disk: the same masks, and no other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import latentseg as ls
from latentseg.errors import InputError, ModelError
from latentseg.methods.fewshot.along_body import SupportAxis
from latentseg.methods.fewshot.closer_look import CloserSupport
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.matching import MatchingSupport
from latentseg.methods.fewshot.segmenter import FewShotSegmenter, SegmentOptions
from latentseg.phantom.bodies import Phantom


@pytest.fixture
def segmenter(tiny_model: Path) -> FewShotSegmenter:
    return ls.load(backbone=tiny_model, options=SegmentOptions(min_presence=0.0))


@pytest.fixture
def context(segmenter: FewShotSegmenter, shown: Phantom) -> SupportContext:
    return segmenter.encode_support(
        ls.Support.from_volumes(shown.image, shown.labels, name="liver/left", label=1)
    )


def test_a_saved_context_gives_identical_masks(
    segmenter: FewShotSegmenter, context: SupportContext, searched: Phantom, tmp_path: Path
) -> None:
    path = context.save(tmp_path / "new" / "liver.safetensors")
    loaded = SupportContext.load(path)
    for field in ("name", "mode", "model", "flat", "compat"):
        assert getattr(loaded, field) == getattr(context, field)
    before, after = (segmenter(searched.image, [one])["liver/left"] for one in (context, loaded))
    np.testing.assert_array_equal(before.mask, after.mask)
    np.testing.assert_array_equal(before.probability, after.probability)


def test_the_course_along_the_body_is_saved(context: SupportContext, tmp_path: Path) -> None:
    axes = tuple(
        SupportAxis(
            torch.rand(5, 3, 8, 8).half(),
            torch.rand(5) > 0.5,
            torch.rand(8, 8),
            torch.tensor(step),
            torch.rand(3),
        )
        for step in (5.0, 7.5)
    )
    path = replace(context, axes=axes).save(tmp_path / "liver.safetensors")
    for before, after in zip(axes, SupportContext.load(path).axes, strict=True):
        for field, tensor in vars(before).items():
            assert tensor.equal(getattr(after, field))


def test_a_context_of_other_weights_is_refused(
    context: SupportContext, other_tiny_model: Path, searched: Phantom
) -> None:
    other = ls.load(backbone=other_tiny_model)
    assert other.parts.fingerprint != context.model
    with pytest.raises(
        ModelError, match=rf"'liver/left' was encoded by other weights .{context.model}.*again"
    ):
        other(searched.image, [context])


def test_damaged_contexts_are_refused(context: SupportContext, tmp_path: Path) -> None:
    whole = context.save(tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.safetensors"
    save_file({"fg": context.fg.contiguous()}, other)
    strange = tmp_path / "strange.safetensors"
    about = '{"format": "latentseg-support-1", "name": "x", "new": 1}'
    save_file({"fg": context.fg.clone(), "bg": context.bg.clone()}, strange, {"latentseg": about})
    for path in (cut, other, strange, tmp_path / "missing.safetensors"):
        with pytest.raises(
            ModelError, match=rf"not a readable support context.*{path.name}.*Encode"
        ) as error:
            SupportContext.load(path)
        assert "\n" not in str(error.value)


def test_a_context_is_written_whole_or_not_at_all(context: SupportContext, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot write"):
        context.save(tmp_path / "file" / "liver.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_what_is_seen_from_near_is_saved(context: SupportContext, tmp_path: Path) -> None:
    matching = MatchingSupport(torch.rand(3, 4, 8), torch.rand(3, 8), torch.rand(8, 2))
    closer = CloserSupport(torch.tensor([70.0]), matching)
    loaded = SupportContext.load(replace(context, closer=closer).save(tmp_path / "liver.safetensors")).closer
    assert loaded is not None
    assert loaded.edge.equal(closer.edge)
    assert loaded.matching.masks.equal(matching.masks)
    assert loaded.matching.places.equal(matching.places)
    torch.testing.assert_close(loaded.matching.features, matching.features, atol=1e-3, rtol=0)
