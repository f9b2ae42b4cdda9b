"""The matching prior by hand, with vectors that are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork, headless, read_feature_network
from latentseg.backbones.weights import write_weights
from latentseg.errors import ModelError
from latentseg.methods.fewshot.matching import MatchingSupport, best, matching_prior, places, scan_prior
from latentseg.methods.fewshot.matching_features import MatchingFeatures, on_grid


def field(target: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features ``(1, 2, 4, 4)``, (1, 0) in one cell and (0, 1) elsewhere, and the mask of that cell."""
    features, mask = torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8)
    features[0, 1] = 1
    features[0, :, target[0], target[1]] = torch.tensor([1.0, 0.0])
    mask[0, 2 * target[0] : 2 * target[0] + 2, 2 * target[1] : 2 * target[1] + 2] = 1
    return features, mask


def test_a_target_is_found_wherever_it_is() -> None:
    support = MatchingSupport.of(*field((0, 0)))
    query, _ = field((1, 0))
    prior = matching_prior(query, support)
    assert prior.shape == (1, 3, 4, 4)
    plain, near, similar = prior[0]
    assert plain[1, 0] == pytest.approx(10)  # cosine 1 to the target, 0 to what is beside it
    assert plain[3, 3] == pytest.approx(-10)
    assert near[1, 0] < plain[1, 0]  # a quarter of the slice away
    assert similar[1, 0] == pytest.approx(10 * (1 - 2 / 16 - 0.8))
    assert (plain > 0).sum() == 1


def test_distance_decides_between_two_of_a_kind() -> None:
    support = MatchingSupport.of(*field((0, 0)))
    query = field((0, 0))[0]
    query[0, :, 3, 3] = torch.tensor([1.0, 0.0])
    plain, near, _ = matching_prior(query, support)[0]
    assert plain[0, 0] == plain[3, 3]
    assert near[0, 0] > near[3, 3]


def test_each_query_has_its_own_support() -> None:
    shown = [field((0, 0)), field((2, 2))]
    features, masks = (torch.cat(parts) for parts in zip(*shown, strict=True))
    support = MatchingSupport.of(features, masks)
    queries = torch.cat([field((2, 2))[0], field((0, 0))[0], field((2, 2))[0]])
    both = matching_prior(queries, support, group=torch.tensor([1, 0, 0]))
    alone = matching_prior(queries[:1], MatchingSupport.of(*shown[1]))
    torch.testing.assert_close(both[:1], alone)
    joint = MatchingSupport.of(features, masks, shots=2)
    assert joint.features.shape == (1, 2, 32)
    assert matching_prior(queries, joint)[:, 0, 2, 2].min() > 0 or joint.masks.sum() == 2


def test_the_own_support_and_all_count_half_each() -> None:
    shown = [field((0, 0)), field((2, 2))]
    support = MatchingSupport.of(*(torch.cat(parts) for parts in zip(*shown, strict=True)))
    queries = torch.cat([field((0, 1))[0], field((2, 1))[0], field((2, 2))[0]])
    group = torch.tensor([0, 0, 0])
    own = matching_prior(queries, support, group=group)
    every = matching_prior(queries, support.joined())
    assert every[2, 1, 2, 2] > own[2, 1, 2, 2]  # the second support shows it in this very place
    torch.testing.assert_close(scan_prior(queries, support, group=group), (own + every) / 2)
    torch.testing.assert_close(scan_prior(queries, support, group=group, slab=2), (own + every) / 2)


def test_the_mean_of_the_three_best() -> None:
    assert best(torch.tensor([[[0.9, 0.5, 0.1, 0.0]]])).item() == pytest.approx(0.5)
    assert best(torch.tensor([[[0.9]]])).item() == pytest.approx(0.9)
    assert best(torch.zeros(1, 1, 0)).item() == -1


def test_queries_need_a_group() -> None:
    shown = [field((0, 0)), field((2, 2))]
    support = MatchingSupport.of(*(torch.cat(parts) for parts in zip(*shown, strict=True)))
    with pytest.raises(ValueError, match="3 queries and 2 supports"):
        matching_prior(torch.cat([field((0, 0))[0]] * 3), support)


def test_a_mask_that_fills_the_slice_has_nothing_beside_it() -> None:
    features, mask = field((0, 0))
    prior = matching_prior(features, MatchingSupport.of(features, torch.ones_like(mask)))
    assert prior[:, 0].min() == pytest.approx(10 * (1 + 1 / 3))  # one of the three best is the cell itself


def test_grids() -> None:
    assert places(2, 2).tolist() == [[0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5]]
    assert (
        on_grid(torch.ones(1, 1, 8, 8), 4).shape == on_grid(torch.ones(1, 1, 2, 2), 4).shape == (1, 1, 4, 4)
    )


def test_features_are_unit_vectors_and_survive_the_disk(tmp_path: Path) -> None:
    network = FeatureNetwork(tiny_state())
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    features = MatchingFeatures(network, grid=8)(images)
    assert features.shape == (2, 12, 8, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 8, 8))
    write_weights(tmp_path / "matching.safetensors", headless(network))
    again = read_feature_network(tmp_path / "matching.safetensors")
    torch.testing.assert_close(MatchingFeatures(again, grid=8)(images), features, atol=2e-2, rtol=0)
    with pytest.raises(ValueError, match="without its head"):
        again.pooled(images)
    (tmp_path / "bad.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read"):
        read_feature_network(tmp_path / "bad.safetensors")


def test_the_margin_with_distance_may_be_asked_for_alone() -> None:
    shown = [field((0, 0)), field((3, 1))]
    support = MatchingSupport.of(*(torch.cat(parts) for parts in zip(*shown, strict=True)))
    queries, group = torch.cat([one[0] for one in shown] * 2), torch.tensor([1, 0, 0, 1])
    every = scan_prior(queries, support, group=group)
    alone = scan_prior(queries, support, group=group, near_only=True)
    assert alone.shape == (4, 1, *every.shape[2:])
    torch.testing.assert_close(alone, every[:, 1:2])
