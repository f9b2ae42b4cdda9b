"""Baselines on inputs whose answer is known."""

from __future__ import annotations

import numpy as np
import torch

from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching, layouts
from latentseg.evaluation.registration import Registration
from latentseg.evaluation.slices import SupportSlices


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


def test_mask_copy_takes_the_most_similar_support_slice() -> None:
    left, right = bright_box(slice(8, 24), slice(0, 12)), bright_box(slice(8, 24), slice(20, 32))
    support = SupportSlices(np.stack([left[0], right[0]]), np.stack([left[1], right[1]]))
    query = np.stack([bright_box(slice(8, 24), slice(18, 30))[0], bright_box(slice(8, 20), slice(2, 12))[0]])
    answer = MaskCopy()(support, query) > 0.5
    assert np.array_equal(answer, np.stack([right[1], left[1]]))


def test_layouts_are_coarse_averages_of_any_size() -> None:
    image = np.repeat(np.repeat(np.arange(64, dtype=np.float32).reshape(8, 8), 3, 0), 4, 1)
    coarse = np.arange(64) - 31.5
    assert np.allclose(layouts(image[None])[0], coarse / np.linalg.norm(coarse), atol=1e-6)
    assert np.isfinite(layouts(np.zeros((2, 9, 11), np.float32))).all()


def blob(row: float, column: float) -> tuple[np.ndarray, np.ndarray]:
    """A body with an organ and a spine in it, 128 pixels, smooth enough to be registered."""
    y, x = np.mgrid[:128, :128]
    body = np.exp(-(((y - row) / 44) ** 4) - ((x - column) / 36) ** 4)
    organ = np.exp(-(((y - row + 12) / 14) ** 2) - ((x - column - 10) / 14) ** 2)
    spine = np.exp(-(((y - row - 26) / 8) ** 2) - ((x - column) / 8) ** 2)
    return (body + 0.8 * organ - 0.6 * spine - 1).astype(np.float32), organ > 0.5


def test_registration_carries_the_mask_along_and_repeats() -> None:
    image, mask = blob(60, 58)
    query, truth = blob(68, 66)
    support = SupportSlices(image[None], mask[None])
    first = Registration()(support, query[None])
    assert first.shape == (1, 128, 128)
    assert 0 <= first.min() <= first.max() <= 1
    found = first[0] >= 0.5
    copied = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
    assert copied < 0.7
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    assert np.array_equal(Registration()(support, query[None]), first)


def test_a_slice_that_cannot_be_registered_gets_the_mask_as_it_is() -> None:
    image, mask = blob(60, 58)
    empty = np.full((1, 128, 128), -1, np.float32)
    answer = Registration()(SupportSlices(image[None], mask[None]), empty)
    assert np.isfinite(answer).all()
    assert np.array_equal(answer[0] > 0.5, mask)


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
