"""Encoded supports on disk: the same masks, and no other weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import latentseg as ls
from latentseg.errors import InputError, ModelError
from latentseg.methods.fewshot.context import SupportContext
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.phantom.bodies import Phantom


@pytest.fixture
def context(segmenter: FewShotSegmenter, shown: Phantom) -> SupportContext:
    return segmenter.encode(ls.Support.from_volumes(shown.image, shown.labels, name="liver/left", label=1))


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


def test_what_every_part_needs_to_know_is_saved(context: SupportContext, tmp_path: Path) -> None:
    tensors = {
        "one/0/flags": torch.rand(5) > 0.5,
        "one/0/half": torch.rand(5, 3).half(),
        "one/scalar": torch.tensor(5.0),
        "another part/turned": torch.rand(3, 4).T,
    }
    loaded = SupportContext.load(replace(context, tensors=tensors).save(tmp_path / "liver.safetensors"))
    assert loaded.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded.tensors[name].equal(tensor)
        assert loaded.tensors[name].dtype == tensor.dtype
    assert loaded.of("one").keys() == {"0/flags", "0/half", "scalar"}


def test_supports_of_an_older_version_are_refused(tmp_path: Path) -> None:
    about = {"format": "latentseg-support-4", "name": "x", "mode": "nearest", "model": "m"}
    save_file({"fg": torch.zeros(1)}, tmp_path / "old.safetensors", {"latentseg": json.dumps(about)})
    with pytest.raises(ModelError, match=r"another version.*latentseg-support-4.*Encode it again"):
        SupportContext.load(tmp_path / "old.safetensors")


def test_a_context_of_other_weights_is_refused(
    context: SupportContext, other_tiny_model: Path, searched: Phantom
) -> None:
    other = ls.load(backbone=other_tiny_model)
    assert other.fingerprint != context.model
    with pytest.raises(
        ModelError, match=rf"'liver/left' was encoded by other weights .{context.model}.*again"
    ):
        other(searched.image, [context])


def test_damaged_contexts_are_refused(context: SupportContext, tmp_path: Path) -> None:
    whole = context.save(tmp_path / "whole.safetensors")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    other = tmp_path / "other.safetensors"
    save_file({"fg": torch.zeros(1)}, other)
    strange = tmp_path / "strange.safetensors"
    about = '{"format": "latentseg-support-6", "name": "x", "new": 1}'
    save_file({"fg": torch.zeros(1)}, strange, {"latentseg": about})
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
