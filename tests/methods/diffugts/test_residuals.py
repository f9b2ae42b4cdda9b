"""From two images to a mask."""

from __future__ import annotations

import pytest
import torch

from latentseg.methods.diffugts.residuals import Fusion, Residuals, otsu_masks, residuals, weighted_sum


def scene() -> tuple[torch.Tensor, Residuals]:
    """A 6 x 6 lesion in the first of two images that inpainting removed; the second image did not change."""
    truth = torch.zeros(2, 1, 24, 24)
    truth[0, 0, 8:14, 8:14] = 1
    noise = 0.02 * torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    found = residuals(
        0.8 * truth + noise, noise.flip(3), before=0.1 + 0.8 * truth, after=torch.full_like(truth, 0.2)
    )
    return truth, found


def test_residuals() -> None:
    truth, found = scene()
    assert float(found.pixel[truth > 0].min()) > 0.7
    assert float(found.pixel[truth == 0].max()) <= 0.02
    assert found.feature[truth > 0].tolist() == pytest.approx([0.7] * 36)
    assert float(found.feature[truth == 0].max()) == 0  # a rise of the abnormal probability is no residual


def test_otsu_inside_finds_the_lesion() -> None:
    truth, found = scene()
    inside = torch.zeros_like(truth)
    inside[:, :, 5:17, 5:17] = 1
    masks = otsu_masks(weighted_sum(found), inside)
    assert torch.equal(masks[0], truth[0] > 0)
    assert not (masks & (inside == 0)).any()


def test_nothing_inside_nothing_found() -> None:
    truth, found = scene()
    assert not otsu_masks(weighted_sum(found), torch.zeros_like(truth)).any()
    assert not otsu_masks(torch.ones_like(truth), torch.ones_like(truth)).any()  # one value has no threshold


def test_the_weighted_sum_is_scaled_per_image() -> None:
    _, found = scene()
    assert weighted_sum(found).amax((1, 2, 3)).tolist() == pytest.approx([1.0, 0.5])
    only_pixels = weighted_sum(found, pixel=1, feature=0)
    torch.testing.assert_close(only_pixels[0], found.pixel[0] / found.pixel[0].max())


@pytest.mark.parametrize("dims", [2, 3])
def test_fusion_learns(dims: int) -> None:
    torch.manual_seed(0)
    fusion = Fusion()
    truth = torch.zeros(2, 1, *[12] * dims)
    truth[0, 0, 3:8] = 1
    generator = torch.Generator().manual_seed(1)

    def evidence() -> tuple[torch.Tensor, Residuals]:
        def noisy(strength: float) -> torch.Tensor:
            return (strength * truth + 0.3 * torch.rand(truth.shape, generator=generator)).clamp(0, 1)

        return noisy(0.3), Residuals(noisy(0.5), noisy(0.2))

    optimizer = torch.optim.AdamW(fusion.parameters(), lr=0.02)
    for _ in range(80):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(fusion(*evidence()), truth).backward()
        optimizer.step()
    found = fusion(*evidence()) > 0
    assert found.shape == truth.shape
    assert float((found == (truth > 0)).float().mean()) > 0.97
