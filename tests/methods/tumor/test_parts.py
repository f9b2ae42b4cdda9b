"""Parts of a map are judged by their shape in three dimensions: which are kept, and how sure a scan is."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import latentseg as ls
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.errors import ModelError
from latentseg.imaging import Volume
from latentseg.methods.tumor import network
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.part_features import FEATURES, Part, Shown, features_of
from latentseg.methods.tumor.parts import PartJudge, apart, marked_parts
from latentseg.methods.tumor.picture_network import PictureConfig, PictureNetwork
from latentseg.methods.tumor.segmenter import TumorSegmenter

SPACING_MM = (5.0, 1.0, 1.0)


def judge_of(bias: float = 0.0, **weights: float) -> PartJudge:
    """A judge that looks at some features, named by how they begin."""
    known = [next((w for start, w in weights.items() if name.startswith(start)), 0.0) for name in FEATURES]
    return PartJudge((0.0,) * len(FEATURES), (1.0,) * len(FEATURES), tuple(known), bias)


@pytest.fixture
def shown() -> Shown:
    """A ball of 16 mm in a lung, and a vessel of 4 mm that runs through all slices and is marked on three."""
    level, row, column = np.indices((12, 80, 100)) * np.array(SPACING_MM)[:, None, None, None]
    ball = np.sqrt((level - 30) ** 2 + (row - 40) ** 2 + (column - 30) ** 2) <= 8
    tube = np.hypot(row - 40, column - 70 - level / 10) <= 2
    images = np.where(ball | tube, 0.4, -0.8).astype(np.float32)
    log_odds = np.where(ball, 3.0, np.where(tube & (abs(level - 25) <= 5), -1.0, -5.0)).astype(np.float32)
    organ = np.ones(images.shape, bool)
    organ[:, :5] = organ[:, -5:] = organ[..., :5] = organ[..., -5:] = False
    return Shown(log_odds, images, organ, images > -0.15, SPACING_MM)


def test_a_vessel_runs_on_and_a_nodule_does_not(shown: Shown) -> None:
    parts = marked_parts(shown.log_odds, np.arange(len(shown.images)))[1]
    tube, ball = (dict(zip(FEATURES, one, strict=True)) for one in features_of(parts, shown))
    assert ball["log of the volume in mm3"] == pytest.approx(np.log(4 / 3 * np.pi * 8**3), abs=0.15)
    assert ball["solid beyond its first and last slice by its area there"] == 0
    assert tube["solid beyond its first and last slice by its area there"] > 0.8
    assert tube["log of the longest by the middle axis"] > 3 * abs(
        ball["log of the longest by the middle axis"]
    )
    assert ball["mean log-odds"] == ball["highest log-odds"] == 3
    assert ball["share of what surrounds it in its slices that is solid"] == 0
    assert ball["spread of its grey values"] == pytest.approx(0, abs=1e-6)
    assert ball["depth in the organ in cm"] > 1.5
    assert (
        ball["share of what surrounds it that is no air"]
        == 0
        < tube["share of what surrounds it that is no air"]
    )


def test_parts_that_are_no_tumors_are_let_go(shown: Shown) -> None:
    judge, every = judge_of(bias=2.0, solid=-5.0), np.arange(len(shown.images))
    judged = judge.of(shown, slices=every, least=0.5)
    ball = shown.log_odds == 3
    np.testing.assert_array_equal(judged.log_odds >= 0, ball)
    chance = judged.chance
    assert chance[ball].min() == chance.max() == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)
    tube = shown.log_odds == -1
    assert 0 < chance[tube].max() < 0.2
    assert not chance[~ball & ~tube].any()


def test_each_part_is_cut_at_half_of_its_own_peak(shown: Shown) -> None:
    judged = judge_of(bias=1.0).of(shown, slices=np.arange(len(shown.images)), least=0.5)
    assert (judged.log_odds >= 0)[shown.log_odds == -1].all(), "a weak part, beside one that is sure"
    flat = shown._replace(images=np.full_like(shown.images, -0.8))
    elsewhere = judge_of(bias=1.0).of(flat, slices=np.array([0, 1]), least=0.5)
    assert not elsewhere.chance[2:].any(), "other slices hold no parts"


def test_parts_near_a_surer_one_do_not_count() -> None:
    box = np.ones((1, 4, 4), bool)
    parts = [Part((slice(0, 1), slice(0, 4), slice(first, first + 4)), box) for first in (0, 9, 20)]
    chances, shape = np.array([0.4, 0.9, 0.2]), (3, 24, 24)
    assert list(apart(parts, chances, shape=shape, spacing_mm=(5.0, 1.0, 1.0))) == [1]
    assert list(apart(parts, chances, shape=shape, spacing_mm=(5.0, 2.0, 2.0))) == [1, 0, 2]


def test_nothing_is_marked_and_nothing_judged(shown: Shown) -> None:
    quiet = shown._replace(log_odds=np.full_like(shown.log_odds, -6), images=np.full_like(shown.images, -0.8))
    judged = judge_of().of(quiet, slices=np.arange(len(shown.images)), least=0.5)
    assert not judged.chance.any()
    assert (judged.log_odds < 0).all()


def test_a_part_that_fills_a_scan_has_features(shown: Shown) -> None:
    everything = Part(tuple(slice(0, edge) for edge in shown.images.shape), np.ones(shown.images.shape, bool))
    features = dict(zip(FEATURES, features_of([everything], shown)[0], strict=True))
    assert np.isfinite(list(features.values())).all()
    assert features["share of what surrounds it that is no air"] == 1
    assert features["grey value above that within 4 mm"] == 0


def test_a_judge_is_kept_in_the_facts_of_weights() -> None:
    judge = judge_of(bias=0.25, depth=-1.5)
    assert PartJudge.from_json(judge.to_json()) == judge
    with pytest.raises(ValueError, match="13 features"):
        PartJudge.from_json(replace(judge, mean=(0.0,)).to_json())


@pytest.fixture
def chest() -> Volume:
    """Two lungs with a nodule in one."""
    hu = np.full((64, 96, 10), -1000.0, np.float32)
    hu[4:60, 10:80] = 20.0
    hu[8:28, 16:72] = hu[36:56, 16:72] = -860.0
    hu[44:47, 40:43, 5:7] = 0.0
    return Volume(hu, np.diag([-4.0, -3.0, 8.0, 1.0]), modality="CT")


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_a_scan_is_as_sure_as_its_surest_part(tiny_tumor_model: Path, chest: Volume) -> None:
    trained, facts = network.load(tiny_tumor_model / network.FILE)
    own = tiny_tumor_model / network.file_alone("lung")
    found = {}
    try:
        for bias in (-3.0, 2.0):
            network.save(own, trained, facts | {"parts": judge_of(bias).to_json()})
            options = TumorOptions(refinement=None, closer=None, appearance=None)
            segmenter = ls.load("tumor", backbone=tiny_tumor_model, options=options)
            assert isinstance(segmenter, TumorSegmenter)
            found[bias] = segmenter(chest, "lung tumor")["lung tumor"]
        network.save(own, trained, facts | {"parts": "{}"})
        with pytest.raises(ModelError, match="judge of parts"):
            ls.load("tumor", backbone=tiny_tumor_model)
    finally:
        own.unlink()
    assert found[2.0].mask.any()
    assert found[2.0].presence == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-4)
    assert not found[-3.0].mask.any()
    assert found[-3.0].presence < 0.5
    evidence = found[2.0].evidence
    np.testing.assert_allclose(evidence.certainty.max((1, 2)), evidence.scores)
    picture = Volume(chest.array[:, :, 5:6], chest.affine_ras_mm, modality="CT")
    assert segmenter(picture, "lung tumor")["lung tumor"].presence != found[2.0].presence, (
        "no shape in a slice"
    )


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_what_is_judged_is_the_mean_of_the_map_and_of_what_sees_the_picture(
    tiny_tumor_model: Path, chest: Volume, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_tumor_model, folder)
    trained, facts = network.load(folder / network.FILE)
    judge = judge_of(-3.0, mean=1.0).to_json()
    network.save(folder / network.file_alone("lung"), trained, facts | {"parts": judge})
    options = TumorOptions(refinement=None, closer=None, appearance=None, across_mm=0.0)
    segmenter = ls.load("tumor", backbone=folder, options=options)
    assert isinstance(segmenter, TumorSegmenter)
    config = PictureConfig(widths=(8, 8, 8, 16), edge=64, findings=("lung tumor",), share=1.0)
    sure = PictureNetwork(FeatureNetwork(tiny_state()), config).eval()
    torch.nn.init.zeros_(sure.out[-1].weight)
    torch.nn.init.constant_(sure.out[-1].bias, 5.0)
    lung = replace(segmenter.networks.alone["lung"], picture=sure)
    segmenter.networks = replace(segmenter.networks, alone={"lung": lung})
    prepared = segmenter.prepare(chest)
    found = {prompt: segmenter.predict(prepared, prompt) for prompt in ("lung tumor", "NSCLC")}
    attention = found["lung tumor"].evidence.attention
    looked_at = attention.max((1, 2)) > 0.99
    assert looked_at.any()
    np.testing.assert_allclose(attention[looked_at], 1 / (1 + np.exp(-5)), atol=1e-3)
    assert found["lung tumor"].presence > 0.5
    assert found["NSCLC"].evidence.attention.max() < 0.99, "the network was not asked for it"
