"""Parts of a mask that are in no contact with the organ, or small beside another, are let go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import latentseg as ls
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.told import Told
from latentseg.methods.tumor.within_organ import within, without_lesser
from latentseg.phantom.bodies import Phantom


def test_parts_elsewhere_are_let_go_and_those_that_grow_out_of_the_organ_stay() -> None:
    organ = np.zeros((3, 16, 16), bool)
    organ[:, 4:8, 4:8] = True  # pixels 16 to 31, with a cell beside it 12 to 35
    chance = np.full((3, 64, 64), 0.2, np.float32)
    chance[0, 18:22, 18:22] = 0.9  # inside
    chance[1, 20:24, 28:52] = 0.8  # a third of it near
    chance[2, 50:60, 50:60] = 0.9  # elsewhere
    kept = within(chance, organ, own=0.25)
    assert (kept[:2] == chance[:2]).all()
    assert (kept[2, 50:60, 50:60] == 0).all()
    assert (kept[2, :50] == chance[2, :50]).all()
    assert (within(chance, organ, own=0.5)[1] >= 0.5).sum() == 0


def test_without_the_organ_nothing_stays_and_nothing_is_left_as_it_is() -> None:
    chance = np.zeros((1, 8, 8), np.float32)
    assert (within(chance, np.ones((1, 2, 2), bool), own=0.25) == chance).all()
    chance[0, 2:4, 2:4] = 0.7
    assert within(chance, np.zeros((1, 2, 2), bool), own=0.25).max() == 0


def test_parts_that_are_small_beside_the_largest_are_let_go() -> None:
    chance = np.full((2, 32, 32), 0.3, np.float32)
    chance[:, 2:12, 2:12] = 0.8  # 200 voxels
    chance[0, 20:31, 20:31] = 0.9  # 121: two thirds of it
    chance[1, 20:26, 4:10] = 0.9  # 36
    kept = without_lesser(chance, share=0.5)
    assert (kept[0] == chance[0]).all()
    assert (kept[1, 20:26, 4:10] == 0).all()
    assert (kept[1, :20] == chance[1, :20]).all()
    assert (without_lesser(chance, share=0.0) == chance).all()
    assert ((without_lesser(chance, share=1.0) >= 0.5) == (chance == np.float32(0.8))).all()


def test_of_no_part_none_is_let_go() -> None:
    chance = np.full((1, 8, 8), 0.4, np.float32)
    assert (without_lesser(chance, share=0.5) == chance).all()


def test_a_mass_that_fills_a_lung_lies_in_it(tiny_tumor_model: Path, searched: Phantom) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    assert isinstance(segmenter, TumorSegmenter)
    prepared, maps = segmenter.prepare(searched.image), segmenter.networks.network.organs
    maps.names, maps.quality = ("liver", "lung"), torch.ones(2)
    chances = torch.zeros(len(prepared.images), 3, 32, 32)
    chances[:, 2, 8:24, 4:12] = 1.0  # one lung, and what is left of the other
    chances[:, 2, 8:12, 20:28] = 1.0
    chances[:, 1, 26:31, 4:12] = 1.0
    prepared.__dict__["told"] = Told(chances)
    lungs, liver = prepared.found("lung"), prepared.found("liver")
    assert lungs is not None
    assert liver is not None
    chance = np.zeros((len(lungs), 128, 128), np.float32)
    chance[:, 64:92, 80:108] = 0.9  # where the lung was
    assert (within(chance, lungs, own=0.1) == chance).all()
    assert within(chance, liver, own=0.1).max() == 0
