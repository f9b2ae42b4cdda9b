"""Baselines on inputs whose answer is known."""

from __future__ import annotations

import numpy as np
import torch

from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching
from latentseg.evaluation.protocols import SupportSlices


class Brightness:
    """Two scales of a feature that points one way for dark pixels and another for bright ones."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.batches.append(len(images))
        both = torch.cat([1 - images, 1 + images], dim=1)
        return [both, torch.nn.functional.avg_pool2d(both, 2)]


def bright_box(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    mask = np.zeros((32, 32), bool)
    mask[rows, columns] = True
    return np.where(mask, 0.9, -0.9).astype(np.float32), mask


def test_mask_copy_ignores_the_query() -> None:
    image, mask = bright_box(slice(4, 12), slice(4, 12))
    other = np.stack([bright_box(slice(16, 24), slice(16, 24))[0]] * 3)
    answer = MaskCopy()(SupportSlices(image[None], mask[None]), other)
    assert answer.shape == other.shape
    assert all(np.array_equal(one > 0.5, mask) for one in answer)


def test_prototypes_find_what_looks_like_the_support() -> None:
    image, mask = bright_box(slice(4, 12), slice(4, 12))
    query, truth = bright_box(slice(16, 26), slice(14, 24))
    backbone = Brightness()
    method = PrototypeMatching(backbone, grid=32, batch=2)
    answer = method(SupportSlices(image[None], mask[None]), np.stack([query] * 3))
    assert backbone.batches == [1, 2, 1]
    assert answer.dtype == np.float32
    found = answer[0] >= 0.5
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
    assert 0 <= answer.min() < answer.max() <= 1
    assert np.allclose(answer[0], answer[2], atol=1e-6)


def test_a_vanishing_mask_gives_a_finite_answer() -> None:
    image, mask = bright_box(slice(0, 0), slice(0, 0))
    answer = PrototypeMatching(Brightness(), grid=8)(SupportSlices(image[None], mask[None]), image[None])
    assert np.isfinite(answer).all()
