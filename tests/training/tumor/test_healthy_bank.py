"""Making a bank of healthy cells from a small pack."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers import tiny_features
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.methods.tumor.healthy_bank import RetrievalOptions, cell_features
from latentseg.training.pack import Pack
from latentseg.training.tumor.healthy_bank import (
    BankMaker,
    BankOptions,
    body_mask,
    healthy_cells,
    prepared,
    principal_axes,
)

OPTIONS = BankOptions(
    groups={"CT abdomen": ("phantom",)}, findings=("spleen",), slices=3, cells=50, dimensions=5
)


@pytest.fixture
def maker(backbone: CompactBackbone, monkeypatch: pytest.MonkeyPatch) -> BankMaker:
    network = FeatureNetwork(tiny_features.tiny_state())
    monkeypatch.setattr(backbone, "encode", lambda images: torch.zeros(len(images), 4, 32, 32))
    return BankMaker(backbone, network, OPTIONS)


def test_a_bank_knows_the_slices_it_was_made_of(packed: Pack, maker: BankMaker) -> None:
    bank = maker(packed)
    cells = bank.groups["CT abdomen"]
    assert cells.directions.shape == (50, 5)
    assert cells.places.shape == (50, 2)
    assert cells.latents.shape == (50, 4)
    assert float(cells.places.min()) > 0
    assert float(cells.places.max()) < 1
    torch.testing.assert_close(cells.directions.norm(dim=1), torch.ones(50))


def test_cells_of_a_slice_in_the_bank_are_found_again(packed: Pack, maker: BankMaker) -> None:
    every = OPTIONS.model_copy(update={"cells": 10**6, "findings": ()})
    bank = BankMaker(maker.backbone, maker.network, every)(packed)
    first = slice(0, 8)  # a scan is cut to one box
    chosen = [0, 3, 7]
    images, ill = prepared(packed.images[first][chosen], np.zeros((3, 64, 64), bool), "CT")
    options = RetrievalOptions(nearest=1)
    found = bank.compare(cell_features(maker.network, images), "CT abdomen", options=options)
    kept = healthy_cells(images, ill)
    assert int(kept.sum()) > 300
    assert float(found.distance[:, 0][kept].max()) < 5e-3


def test_the_draw_depends_on_the_seed_alone(packed: Pack, maker: BankMaker) -> None:
    one, again = (maker(packed).groups["CT abdomen"].places for _ in range(2))
    assert torch.equal(one, again)


def test_groups_without_scans(packed: Pack, maker: BankMaker) -> None:
    empty = OPTIONS.model_copy(update={"groups": {"MR knee": ("knees",)}})
    with pytest.raises(ValueError, match="no scan of the pack belongs to 'MR knee'"):
        BankMaker(maker.backbone, maker.network, empty)(packed)


def test_cells_beside_findings_are_left_out() -> None:
    images, ill = torch.ones(1, 1, 256, 256), torch.zeros(1, 1, 256, 256, dtype=torch.bool)
    images[..., [0, -1], :] = -1  # air in the corners
    images[..., :128] = -1
    ill[..., 80:88, 200:208] = True
    kept = healthy_cells(images, ill)[0]
    assert not kept[:, :16].any()
    assert int((~kept[:, 16:]).sum()) == 9
    assert not kept[9:12, 24:27].any()


@pytest.mark.parametrize("air", [-1.0, -0.7])
def test_lungs_belong_to_the_body_and_air_around_it_does_not(air: float) -> None:
    image = np.full((256, 256), air, np.float32)
    image[40:220, 30:230], image[90:170, 60:120] = 0.5, air + 0.05
    body = body_mask(image)
    assert body[46:214, 36:224].all()
    assert 0.99 * 180 * 200 < body.sum() <= 180 * 200  # corners are rounded


def test_masks_are_cut_with_their_slices(packed: Pack) -> None:
    index = 4
    image = packed.images[index : index + 1]
    images, masks = prepared(image, image > 200, "CT")
    assert images.shape == masks.shape == (1, 1, 64, 64)
    assert float(images[masks].mean()) > float(images[~masks].mean()) + 0.3


def test_principal_axes() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(500, 4, generator=generator) * torch.tensor([1.0, 9.0, 0.1, 4.0])
    axes = principal_axes(features - features.mean(0), 2)
    assert axes.abs().argmax(0).tolist() == [1, 3]
