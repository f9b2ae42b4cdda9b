"""Healthy tissue without a map: patches cover a region once, and cells of healthy people are found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from healthy_tissue import (
    BankMaker,
    BankOptions,
    Cells,
    HealthyBank,
    RetrievalOptions,
    body_mask,
    cell_features,
    complementary_holes,
    filled_by,
    filled_smoothly,
    grid_places,
    healthy_cells,
    load_bank,
    prepared,
    principal_axes,
    save_bank,
)
from helpers import packs, tiny_features
from latentseg.backbones.compact import (
    CompactAutoencoder,
    CompactBackbone,
    new_denoiser,
    save_autoencoder,
    save_denoiser,
)
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.training.pack import Pack

WIDTH, EDGE = 6, 4
OPTIONS = BankOptions(
    groups={"CT abdomen": ("phantom",)}, findings=("spleen",), slices=3, cells=50, dimensions=5
)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), edge=st.integers(1, 30), size=st.integers(4, 60))
def test_every_pixel_of_a_region_is_filled_once(seed: int, edge: int, size: int) -> None:
    region = np.random.default_rng(seed).random((size, size)) < 0.6
    holes = complementary_holes(region, edge=edge)
    assert holes.shape == (4, size, size)
    assert np.array_equal(holes.sum(0), region.astype(int))


def test_patches_of_a_turn_do_not_touch() -> None:
    holes = complementary_holes(np.ones((64, 64), bool), edge=8)
    assert [int(hole.sum()) for hole in holes] == [1024] * 4
    assert np.array_equal(holes[0][:24, :24], np.kron([[1, 0, 1], [0, 0, 0], [1, 0, 1]], np.ones((8, 8))))


@pytest.fixture
def image_and_holes() -> tuple[Tensor, Tensor]:
    rows, columns = np.indices((64, 64))
    image = (rows / 64 + 0.3 * np.sin(columns / 5) - 0.5).astype(np.float32)
    region = np.zeros((64, 64), bool)
    region[8:56, 8:56] = True
    holes = torch.from_numpy(complementary_holes(region, edge=16)).float()[:, None]
    return torch.from_numpy(image)[None, None], holes


def test_a_spot_is_gone_from_its_own_filling(image_and_holes: tuple[Tensor, Tensor]) -> None:
    image, holes = image_and_holes
    spotted = image.clone()
    spotted[..., 20:26, 20:26] = 1.0
    plain, filled = filled_smoothly(image, holes), filled_smoothly(spotted, holes)
    inside = holes.sum(0)[0] > 0
    torch.testing.assert_close(filled[..., 20:26, 20:26], plain[..., 20:26, 20:26], atol=0.2, rtol=0)
    assert torch.equal(filled[0, 0][~inside], spotted[0, 0][~inside])


def test_versions_differ_in_their_noise_alone(
    image_and_holes: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packs.shrink_networks(monkeypatch)
    torch.manual_seed(0)
    save_autoencoder(CompactAutoencoder(), tmp_path)
    save_denoiser(new_denoiser(holes=True), tmp_path)
    backbone = CompactBackbone.from_folder(tmp_path)
    image, holes = image_and_holes
    options, nothing = InpaintingOptions(steps=2), torch.zeros(1, 4, 384)
    versions = filled_by(backbone, image, holes, nothing, keys=["a", "b", "a"], options=options)
    assert versions.shape == (3, 1, 64, 64)
    assert torch.equal(versions[0], versions[2])
    assert not torch.equal(versions[0], versions[1])
    outside = holes.sum(0)[0] == 0
    decoded = backbone.decode(backbone.encode(image))[0, 0]
    torch.testing.assert_close(versions[1, 0][outside], decoded[outside])
    untouched = filled_by(backbone, image, 0 * holes, nothing, keys=["a"], options=options)
    torch.testing.assert_close(untouched[0, 0], decoded)


def bank(count: int = 40) -> HealthyBank:
    """Cells in random directions, whose latent is the number of the cell."""
    generator = torch.Generator().manual_seed(0)
    directions = F.normalize(torch.randn(count, WIDTH, generator=generator), dim=1)
    latents = torch.arange(float(count))[:, None].expand(-1, 2)
    cells = Cells(directions, torch.rand(count, 2, generator=generator), latents)
    return HealthyBank({"CT abdomen": cells}, torch.eye(WIDTH), torch.zeros(WIDTH))


def features_of(directions: Tensor) -> Tensor:
    """One slice ``(1, D, EDGE, EDGE)`` whose first cells have these directions."""
    filled = torch.ones(EDGE * EDGE, WIDTH)
    filled[: len(directions)] = directions
    return filled.T.reshape(1, WIDTH, EDGE, EDGE)


def test_what_is_in_the_bank_is_found() -> None:
    cells = bank().groups["CT abdomen"]
    options = RetrievalOptions(nearest=1, pull=0.0)
    found = bank().compare(features_of(3 * cells.directions[[7, 11]]), "CT abdomen", options=options)
    assert found.distance.shape == (1, 1, EDGE, EDGE)
    assert found.latents.shape == (1, 2, EDGE, EDGE)
    assert found.latents[0, :, 0, :2].tolist() == [[7, 11], [7, 11]]
    torch.testing.assert_close(found.distance[0, 0, 0, :2], torch.zeros(2), atol=1e-5, rtol=0)
    assert float(found.distance[0, 0, 1:].min()) > 0.01


def test_neighbors_are_averaged() -> None:
    every = RetrievalOptions(nearest=999, pull=0.0)
    found = bank(10).compare(features_of(torch.zeros(0, WIDTH)), "CT abdomen", options=every)
    torch.testing.assert_close(found.latents, torch.full_like(found.latents, 4.5))


def test_the_pull_prefers_the_same_place() -> None:
    places = grid_places(EDGE)
    same = F.normalize(torch.ones(len(places), WIDTH), dim=1)
    cells = Cells(same, places, torch.arange(float(len(places)))[:, None])
    aligned = HealthyBank({"x": cells}, torch.eye(WIDTH), torch.zeros(WIDTH))
    options = RetrievalOptions(nearest=1, pull=1.0)
    found = aligned.compare(features_of(torch.zeros(0, WIDTH)), "x", options=options)
    assert found.latents.flatten().tolist() == list(range(EDGE * EDGE))
    torch.testing.assert_close(found.distance, torch.zeros_like(found.distance), atol=1e-5, rtol=0)


def test_places_are_those_of_a_flattened_grid() -> None:
    assert grid_places(2).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


def test_banks_on_disk(tmp_path: Path) -> None:
    save_bank(bank(), tmp_path / "bank.safetensors")
    again = load_bank(tmp_path / "bank.safetensors")
    assert again.groups.keys() == {"CT abdomen"}
    for one, other in zip(again.groups["CT abdomen"], bank().groups["CT abdomen"], strict=True):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


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
    every = replace(OPTIONS, cells=10**6, findings=())
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
    empty = replace(OPTIONS, groups={"MR knee": ("knees",)})
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
