"""A tumor of an organ that is out of view is called absent, and only then."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import latentseg as ls
from latentseg.errors import LatentsegWarning
from latentseg.methods.tumor import network
from latentseg.methods.tumor.features import TumorConfig
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.slice_attention import Attention
from latentseg.methods.tumor.views import Offset, Views, looks_of
from latentseg.phantom.bodies import Phantom


def two_clusters() -> tuple[Views, torch.Tensor]:
    """A classifier fitted to two clusters of unequal size, and stages of both, ``(10, 6, 3, 3)``."""
    torch.manual_seed(0)
    middles = torch.tensor([[2.0, 0, 1, 0, 0, 0], [0, 2.0, 0, 1, 0, 0]])
    shown = torch.tensor([0] * 5 + [1] * 45)
    views = Views(("head", "trunk"), 6)
    views.fit(middles[shown] + 0.2 * torch.randn(50, 6), [views.names[i] for i in shown])
    return views, middles.repeat_interleave(5, 0)[:, :, None, None].expand(-1, -1, 3, 3)


def test_parts_of_the_body_are_told_apart() -> None:
    views, stages = two_clusters()
    chance = views(stages)
    torch.testing.assert_close(chance.sum(1), torch.ones(10))
    assert (chance.argmax(1) == torch.tensor([0] * 5 + [1] * 5)).all()
    assert views.missing(stages[:5], "abdomen") == "head"
    assert views.missing(stages[5:], "head") == "trunk"
    assert views.missing(stages[5:], "thorax") == ""
    assert views.missing(stages, "abdomen") == "", "some slices show it"
    for anywhere in ("", "trunk", "extremity"):
        assert views.missing(stages[:5], anywhere) == "", "such an organ may be anywhere"


def test_without_training_everything_may_be_in_view() -> None:
    stages = torch.rand(4, 6, 2, 2)
    assert Views((), 6).missing(stages, "abdomen") == ""
    assert Views(("head", "trunk"), 6).missing(stages, "abdomen") == ""


def test_an_organ_out_of_view_is_absent(tiny_tumor_model: Path, searched: Phantom, tmp_path: Path) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    assert isinstance(segmenter, TumorSegmenter)
    trained = segmenter.networks.network
    views = Views(("head", "trunk"), len(trained.views.mean))
    views.bias.data = torch.tensor([9.0, 0.0])
    trained.views = views
    options = replace(segmenter.options, refinement=None, min_presence=0.0)
    segmenter = TumorSegmenter(segmenter.networks, options=options)
    with pytest.warns(LatentsegWarning, match=r"looks like a scan of the head, and the liver .* absent"):
        found = segmenter(searched.image, ["liver tumor"])["liver tumor"]
    assert found.presence == 0
    network.save(tmp_path / "tumor.safetensors", trained, {})
    again, _ = network.load(tmp_path / "tumor.safetensors")
    assert again.views.names == ("head", "trunk")
    torch.testing.assert_close(again.views.bias, views.bias)


def test_a_score_is_lowered_by_what_the_part_that_is_asked_for_needs() -> None:
    views = Views(("head", "trunk"), 4)
    views.offset.copy_(torch.tensor([0.5, 1.0, 2.0]))
    scores = torch.tensor([0.0, 3.0])
    assert views.lowered(scores, "head").tolist() == [-0.5, 2.5]
    assert views.lowered(scores, "abdomen").tolist() == [-1.0, 2.0]
    assert views.lowered(scores, "").tolist() == [-2.0, 1.0]
    nobody = Views((), 4)
    assert nobody.lowered(scores, "head").tolist() == [0.0, 3.0]


def test_the_more_slices_show_an_organ_the_more_the_score_is_lowered(tmp_path: Path) -> None:
    config = TumorConfig(stages=(1,), photographs=(), fold=False, pyramid=8)
    trained = network.TumorNetwork(config, ((8,),))
    trained.views.by_organ = {"liver CT": Offset(1.0, 0.5), "kidney CT": Offset(2.0)}
    network.save(tmp_path / "tumor.safetensors", trained, {})
    again, _ = network.load(tmp_path / "tumor.safetensors")
    assert again.views.by_organ == trained.views.by_organ
    scores = torch.tensor([3.0])
    assert again.views.lowered(scores, "abdomen", "liver CT").item() == 2.0
    lowered = again.views.lowered(scores, "abdomen", "liver CT", looks=10.0)
    assert lowered.item() == pytest.approx(2.0 - 0.5 * math.log(10))
    assert again.views.lowered(scores, "abdomen", "kidney CT", looks=10.0).item() == 1.0


def test_thin_slices_count_less_than_thick_ones() -> None:
    assert looks_of(41, 1.0) == 9
    assert looks_of(9, 5.0) == looks_of(9, 20.0) == 9
    assert looks_of(1, 1.0) == looks_of(0, 1.0) == 1


def test_a_picture_is_lowered_less_than_a_scan_of_it(tiny_tumor_model: Path, searched: Phantom) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    assert isinstance(segmenter, TumorSegmenter)
    views = segmenter.networks.network.views
    options = replace(segmenter.options, organs=False)
    attention, query = Attention(segmenter.networks, options), segmenter.networks.queries("liver tumor", "CT")
    prepared = TumorSegmenter(segmenter.networks, options=options).prepare(searched.image)
    count = len(prepared.images)
    plain = attention.of_scan(prepared, query).scores.logit()
    views.by_organ = {"liver CT": Offset(0.0, 0.25)}
    lowered = attention.of_scan(prepared, query).scores.logit()
    expected = 0.25 * math.log(looks_of(count, prepared.step_mm))
    assert expected > 0
    torch.testing.assert_close(plain - lowered, torch.full((count,), expected), atol=1e-3, rtol=0)
