"""The feature network, the perceptual distance and the Frechet distance."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.tiny_features import tiny_state
from image_quality import Subspace, frechet_distance, perceptual_distance
from latentseg.backbones import image_features
from latentseg.backbones.image_features import FeatureNetwork, load_feature_network
from latentseg.errors import ModelError


def images(n: int = 3, *, seed: int = 0) -> Tensor:
    return torch.rand(n, 1, 64, 64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def network() -> FeatureNetwork:
    return FeatureNetwork(tiny_state())


def test_shapes(network: FeatureNetwork) -> None:
    assert [m.shape for m in network.maps(images())] == [(3, 4, side, side) for side in (32, 16, 8, 4, 2)]
    assert network.pooled(images()).shape == (3, 12)
    assert not any(p.requires_grad for p in network.parameters())


def test_distance_is_zero_for_equal_images_and_grows(network: FeatureNetwork) -> None:
    a = images()
    near, far = a + 0.02 * images(seed=1), images(seed=2)
    assert perceptual_distance(network, a, a).abs().max() < 1e-9
    assert (perceptual_distance(network, a, near) < perceptual_distance(network, a, far)).all()


def test_distance_inside_a_mask_sees_what_is_there_alone(network: FeatureNetwork) -> None:
    a, mask = images(1), torch.zeros(1, 1, 64, 64)
    mask[..., :8, :8] = 1
    b = a.clone()
    b[..., 40:, 40:] = 0
    inside = perceptual_distance(network, a, b, inside=mask)
    assert float(inside) < 0.5 * float(perceptual_distance(network, a, b, inside=1 - mask))


def test_frechet_distance_of_known_normals() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20000, 3))
    b = rng.standard_normal((20000, 3)) * [1, 2, 1] + [3, 0, 0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(9 + 1, abs=0.15)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance(a @ turn, b @ turn) == pytest.approx(frechet_distance(a, b), rel=1e-6)


def test_frechet_distance_in_a_subspace_with_few_images() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.standard_normal((5, 200))
    a, b, c = ((rng.standard_normal((60, 5)) + shift) @ mixing for shift in (0, 0, 3))
    space = Subspace.of(a, components=5)
    assert space.project(a).shape == (60, 5)
    near, far = (frechet_distance(space.project(a), space.project(other)) for other in (b, c))
    assert near < far / 5


def test_missing_and_damaged_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"broken")
    with pytest.raises(ModelError, match="unreadable weights"):
        load_feature_network(path)
    torch.save({"_conv_stem.weight": torch.zeros(2, 3, 3, 3)}, path)
    with pytest.raises(ModelError, match="unreadable weights"):
        load_feature_network(path)
    torch.save(tiny_state(), path)
    assert load_feature_network(path).pooled(images(1)).shape == (1, 12)

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(image_features.importlib.metadata, "distribution", missing)
    with pytest.raises(ModelError, match=r"pip install 'latentseg\[train\]'"):
        load_feature_network()


def installed() -> bool:
    try:
        load_feature_network()
    except ModelError:
        return False
    return True


@pytest.mark.skipif(not installed(), reason="the extra latentseg[bench] is not installed")
def test_the_pretrained_network_tells_edges_from_noise() -> None:
    network = load_feature_network()
    square = torch.full((1, 1, 64, 64), -0.5)
    square[..., 20:40, 20:40] = 0.5
    moved, noise = square.roll(1, 3), images(1)
    assert network.pooled(square).shape == (1, 1280)
    assert float(perceptual_distance(network, square, moved)) < float(
        perceptual_distance(network, square, noise)
    )
