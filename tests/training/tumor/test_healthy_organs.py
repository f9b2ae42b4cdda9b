"""Healthy tissue of an organ by hand: what differs stands out, whatever the brightness of the scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import latentseg as ls
from healthy_organs import GRID, Beside, Tissue, deep, filled, grey, organ_features
from latentseg.methods.tumor import beside_map
from latentseg.methods.tumor.beside_map import with_evidence
from latentseg.methods.tumor.options import RECOMMENDED
from latentseg.methods.tumor.preparing import alone
from latentseg.methods.tumor.slice_attention import Attention
from latentseg.phantom.bodies import Phantom

EVERYWHERE = np.ones((1, 32, 32), bool)


def features(seed: int, *, shift: float = 0.0) -> Tensor:
    """Features ``(1, 3, 32, 32)`` whose channels vary by 1, 2 and 4."""
    noise = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return noise * torch.tensor([1.0, 2.0, 4.0]).view(1, 3, 1, 1) + shift


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return Tissue.of([(features(seed), EVERYWHERE) for seed in range(4)])


def test_deviations_are_brought_to_a_variance_of_one(tissue: Tissue) -> None:
    covariance = torch.cov(((features(9).movedim(1, -1).reshape(-1, 3) - tissue.mean) @ tissue.axes).T)
    assert 0.85 < covariance.diagonal().max() < 1.1
    assert covariance.fill_diagonal_(0).abs().max() < 0.1


def test_what_is_unlike_healthy_tissue_stands_out_by_spreads(tissue: Tissue) -> None:
    image = features(7)
    healthy = tissue.compared(image, EVERYWHERE)
    assert abs(float(healthy.median())) < 1e-5
    assert 0.8 < float(healthy.std()) < 1.2, "of another healthy person"
    image[0, 0, 10:20, 10:20] += 6.0
    assert tissue.compared(image, EVERYWHERE)[0, 12:18, 12:18].min() > 2


def test_a_scan_that_differs_everywhere_is_compared_with_itself(tissue: Tissue) -> None:
    assert abs(float(tissue.compared(features(7, shift=5.0), EVERYWHERE).median())) < 1e-5


def test_gaps_and_notches_of_an_organ_are_filled() -> None:
    organ = np.zeros((32, 32), bool)
    organ[8:24, 0:20] = True
    organ[14:18, 8:12] = False
    organ[15:17, 16:20] = False
    assert filled(organ)[8:24, :19].all()
    assert not filled(organ)[:6].any()
    assert not filled(np.zeros((8, 8), bool)).any()


def test_a_smooth_mass_in_a_textured_organ_is_unlike_it() -> None:
    photographs = ls.load("tumor").networks.stages.photographs
    assert photographs is not None
    noise = torch.rand(6, 1, 256, 256, generator=torch.Generator().manual_seed(0)) * 0.2
    mask = np.zeros((6, GRID, GRID), bool)
    mask[:, 16:48, 16:48] = True
    healthy = Tissue.of([(organ_features(photographs, noise), mask)])
    noise[2, 0, 112:144, 112:144] -= 0.3
    far = healthy.compared(organ_features(photographs, noise), mask)
    assert far[2, 29:35, 29:35].mean() > 1 > far[1, 29:35, 29:35].mean()


def test_controls_say_how_deep_and_how_bright() -> None:
    mask = np.zeros((1, GRID, GRID), bool)
    mask[:, 16:48, 16:48] = True
    images = torch.zeros(1, 1, 256, 256)
    images[0, 0, 80:100, 80:100] = 0.5
    assert deep(images, mask)[0, 32, 32] > 1 > deep(images, mask)[0, 17, 32]
    assert grey(images, mask)[0, 22, 22] > 1 > grey(images, mask)[0, 40, 40]


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_evidence_is_added_within_the_liver_alone(searched: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter = ls.load("tumor")
    prepared, networks = segmenter.prepare(searched.image), segmenter.networks
    query = networks.queries("liver tumor", "CT")
    liver = alone(prepared, query, networks, RECOMMENDED)
    attention, rows = Attention(liver.networks, RECOMMENDED), np.arange(len(liver.images))
    found, cells = attention.of_scan(liver, query), liver.inside("liver")
    assert cells is not None
    assert with_evidence(attention, liver, found, rows) is found
    monkeypatch.setattr(beside_map, "KINDS", (*beside_map.KINDS, Beside(deep, 1.0)))
    change = (with_evidence(attention, liver, found, rows).log_odds - found.log_odds)[:, 0]
    inside = torch.from_numpy(cells.repeat(4, 1).repeat(4, 2))
    assert change[inside].abs().mean() > 0.3
    assert change[~inside].abs().mean() < 0.05 * change[inside].abs().mean()
    assert with_evidence(attention, liver, found, rows[:0]) is found
