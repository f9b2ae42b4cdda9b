"""Inpainting with a denoiser that is known in closed form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import toys
from image_quality import paste
from latentseg.errors import UsageError
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask, smooth_fill


def scene(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Latents that the toy would not expect, holes in the middle, keys."""
    latents = torch.full((n, 3, 8, 8), 5.0)
    holes = torch.zeros(n, 1, 8, 8)
    holes[:, :, 2:6, 2:6] = 1
    return latents, holes, [f"slice {i}" for i in range(n)]


@pytest.mark.parametrize("resample", [1, 3])
def test_the_hole_is_what_the_model_expects_and_the_rest_is_untouched(resample: int) -> None:
    latents, holes, keys = scene(40)
    options = InpaintingOptions(steps=25, resample=resample)
    filled = inpaint(toys.GaussianBackbone(), latents, holes, toys.tokens(), keys=keys, options=options)
    inside = holes.bool().expand_as(filled)
    assert torch.equal(filled[~inside], latents[~inside])
    assert float(filled[inside].mean()) == pytest.approx(0.5, abs=0.05)
    assert float(filled[inside].std()) == pytest.approx(0.7, abs=0.06)


def test_an_early_start_keeps_some_of_the_content() -> None:
    latents, holes, keys = scene()
    kept = [
        float(
            inpaint(
                toys.GaussianBackbone(),
                latents,
                holes,
                toys.tokens(),
                keys=keys,
                options=InpaintingOptions(steps=20, start=start),
            )[:, :, 2:6, 2:6].mean()
        )
        for start in (0.2, 0.6, 1.0)
    ]
    assert kept[0] > kept[1] > kept[2]


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_neither_batch_nor_order_changes_an_item(order: list[int], slab: int) -> None:
    latents, holes, keys = scene(6)
    backbone = toys.GaussianBackbone()
    options = InpaintingOptions(steps=3, resample=2)
    whole = inpaint(backbone, latents, holes, toys.tokens(), keys=keys, options=options)
    shuffled = inpaint(
        backbone,
        latents[order],
        holes[order],
        toys.tokens(),
        keys=[keys[i] for i in order],
        options=InpaintingOptions(steps=3, resample=2, slab=slab),
    )
    torch.testing.assert_close(shuffled, whole[order])


def test_items_without_a_hole_cost_nothing() -> None:
    latents, holes, keys = scene(3)
    holes[:] = 0
    backbone = toys.GaussianBackbone()
    assert torch.equal(inpaint(backbone, latents, holes, toys.tokens(), keys=keys), latents)
    assert backbone.calls == 0


def test_three_dimensions() -> None:
    latents, holes = torch.zeros(2, 3, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4)
    holes[:, :, 1:3, 1:3, 1:3] = 1
    filled = inpaint(toys.GaussianBackbone(), latents, holes, toys.tokens(), keys=["a", "b"])
    assert filled.shape == latents.shape
    assert float(filled[:, :, 1:3, 1:3, 1:3].abs().min()) > 0


def test_a_mask_smaller_than_a_cell_stays() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[0, 0, 13, 42] = 1
    pooled = pool_mask(mask, 8)
    assert pooled.shape == (1, 1, 8, 8)
    assert pooled.nonzero().tolist() == [[0, 0, 1, 5]]
    assert pool_mask(torch.ones(1, 1, 8, 8, 8), 4).shape == (1, 1, 2, 2, 2)


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 1, 16, 16, 16)])
def test_paste(shape: tuple[int, ...]) -> None:
    images, filled = torch.zeros(shape), torch.ones(shape)
    mask = torch.zeros(shape)
    mask[..., 6:10, 6:10] = 1
    pasted = paste(images, filled, mask, seam=2)
    assert torch.equal(pasted[mask > 0], filled[mask > 0])
    assert 0 < float(pasted[..., 5, 7].max()) < 1
    assert float(pasted[..., :2, :].max()) == 0
    assert torch.equal(paste(images, filled, mask, seam=0), mask)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "0 inpainting steps"),
        ({"resample": 0}, "each taken 0 times"),
        ({"start": 0.0}, "cannot start at time 0"),
        ({"start": 1.5}, "cannot start at time 1.5"),
    ],
)
def test_bad_options(options: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        InpaintingOptions(**options)  # type: ignore[arg-type]


def test_parts_that_do_not_belong_together() -> None:
    latents, holes, keys = scene(3)
    backbone = toys.GaussianBackbone()
    with pytest.raises(UsageError, match=r"holes \(3, 1, 4, 4\)"):
        inpaint(backbone, latents, holes[..., :4, :4], toys.tokens(), keys=keys)
    with pytest.raises(UsageError, match="2 keys"):
        inpaint(backbone, latents, holes, toys.tokens(), keys=keys[:2])


def test_a_smooth_fill_continues_a_shading() -> None:
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    images = (0.5 * rows + 0.3 * columns)[None, None]
    holes = torch.zeros_like(images)
    holes[..., 20:40, 15:45] = 1
    spoiled = torch.where(holes.bool(), torch.ones_like(images), images)
    filled = smooth_fill(spoiled, holes)
    assert torch.equal(filled[holes == 0], images[holes == 0])
    assert float((filled - images).abs().max()) < 0.05


def test_a_smooth_fill_of_volumes_and_of_nothing_but_a_hole() -> None:
    volume = torch.full((1, 1, 9, 8, 7), 0.3)
    holes = torch.zeros_like(volume)
    holes[..., 2:6, 2:6, 2:6] = 1
    torch.testing.assert_close(smooth_fill(volume, holes), volume)
    noise = torch.rand(2, 1, 16, 16)
    whole = smooth_fill(noise, torch.ones_like(noise))
    torch.testing.assert_close(whole, noise.mean((2, 3), keepdim=True).expand_as(noise))
