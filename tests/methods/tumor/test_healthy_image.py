"""The pseudo-healthy image that is shown."""

from __future__ import annotations

import numpy as np
import torch

from latentseg.methods.diffugts.inpainting import smooth_fill
from latentseg.methods.tumor.healthy_image import GRAIN, continued, grain


def noisy_shading(side: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A slice that becomes brighter to the right, with noise, and a disk in it; ``(1, 1, H, W)`` each."""
    rng = np.random.default_rng(0)
    rows, columns = np.indices((side, side))
    image = columns / side - 0.5 + rng.normal(0, 0.1, (side, side))
    hole = (rows - side // 2) ** 2 + (columns - side // 2) ** 2 < (side // 4) ** 2
    return torch.tensor(image, dtype=torch.float32)[None, None], torch.tensor(hole)[None, None]


def test_a_hole_holds_the_shading_and_the_grain_of_what_is_around_it() -> None:
    image, hole = noisy_shading()
    lesion = torch.where(hole, torch.ones_like(image), image)
    smooth = smooth_fill(lesion, hole)
    shown = continued(lesion, hole.float())
    assert torch.equal(shown[~hole], image[~hole]), "outside of the hole is the scan itself"
    expected = torch.arange(64).expand(64, 64)[hole[0, 0]] / 64 - 0.5
    assert float((shown[hole] - expected).mean().abs()) < 0.05
    assert 0.4 < float((shown - smooth)[hole].std() / 0.1) < 1.0, "as noisy as the scan, nearly"


def test_what_has_no_hole_stays_as_it_is() -> None:
    image, hole = noisy_shading()
    assert torch.equal(continued(image, torch.zeros_like(hole)), image)
    both = continued(torch.cat([image, image]), torch.cat([hole, torch.zeros_like(hole)]))
    assert torch.equal(both[1:], image)
    assert not torch.equal(both[:1], image)


def test_grain_is_mirrored_along_the_border_and_holds_no_edge() -> None:
    image, hole = noisy_shading()
    values, inside = image[0, 0].numpy(), hole[0, 0].numpy()
    plain = grain(values, inside)
    assert not plain[~inside].any()
    edge = values.copy()
    edge[:, :20] += 1.0  # a border of an organ beside the hole
    assert np.abs(grain(edge, inside)).max() < 3 * np.abs(plain).max(), "its edge is no grain"
    assert not grain(values, np.ones_like(inside)).any(), "an image that is nothing but a hole has none"
    block = np.stack([values] * 3)
    assert grain(block, np.stack([inside] * 3)).shape == block.shape
    assert 0 < GRAIN <= 1
