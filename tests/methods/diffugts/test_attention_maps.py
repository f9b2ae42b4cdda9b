"""AOVA: shapes in 2-D and 3-D, what the maps mean, and that they can learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentseg.methods.diffugts.adapters import Adapters, ResidualAdapter, stages_of
from latentseg.methods.diffugts.attention_maps import ABNORMAL, AnomalyAttention, Pyramid, resized, top_mean
from latentseg.training.tumor.losses import dice, focal, image_loss, pixel_loss, text_loss

TEXT_DIM = 24


def stages(n: int = 3, *, dims: int = 2, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(n, width, *[side] * dims, generator=generator)
        for width, side in ((8, 16), (12, 8), (16, 4))
    ]


def texts(n: int = 3, *, seed: int = 1) -> Tensor:
    vectors = torch.randn(n, 2, TEXT_DIM, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=2)


def network(*, trained: bool = False) -> AnomalyAttention:
    torch.manual_seed(0)
    return AnomalyAttention([[8], [12], [16]], text_dim=TEXT_DIM).requires_grad_(trained)


@pytest.mark.parametrize("dims", [2, 3])
def test_shapes(dims: int) -> None:
    maps = network()(stages(dims=dims), texts())
    assert maps.logits.shape == (3, 2, *[16] * dims)
    assert maps.margin.sigmoid().shape == (3, 1, *[16] * dims)
    assert maps.class_embeddings.shape == (3, 2, TEXT_DIM)
    assert maps.score.shape == (3,)
    assert 0 <= float(maps.margin.sigmoid().min()) <= float(maps.margin.sigmoid().max()) <= 1


@pytest.mark.parametrize("dims", [2, 3])
def test_a_pyramid_lets_fine_levels_see_coarse_ones(dims: int) -> None:
    torch.manual_seed(0)
    pyramid = Pyramid([8, 12, 16], 8, dims=dims)
    levels = stages(dims=dims)
    before = pyramid(levels)
    assert [level.shape[1] for level in before] == [8, 8, 8]
    levels[2] = levels[2] + 1
    assert all(not torch.allclose(a, b) for a, b in zip(before, pyramid(levels), strict=True))


def test_the_map_alone_makes_the_score_where_nothing_else_has_a_say() -> None:
    torch.manual_seed(0)
    model = AnomalyAttention([[8], [12], [16]], text_dim=TEXT_DIM)
    judged = model(stages(), texts())
    model.judge = None
    alone = model(stages(), texts())
    assert torch.equal(alone.logits, judged.logits)
    torch.testing.assert_close(alone.score, top_mean(alone.margin[:, 0]))
    assert not torch.allclose(alone.score, judged.score)


def test_stages_of_one_grid_attend_together() -> None:
    torch.manual_seed(0)
    model = AnomalyAttention([[8], [12, 4], [16]], text_dim=TEXT_DIM, pyramid=8)
    first, second, third = stages()
    assert model([first, second, second[:, :4], third], texts()).logits.shape == (3, 2, 16, 16)


def test_swapping_the_texts_swaps_the_maps() -> None:
    model, features, said = network(), stages(), texts()
    there, back = model(features, said), model(features, said.flip(1))
    torch.testing.assert_close(there.margin.sigmoid(), 1 - back.margin.sigmoid())
    torch.testing.assert_close(there.class_embeddings, back.class_embeddings.flip(1))


def test_items_of_a_batch_do_not_see_each_other() -> None:
    model, features, said = network(), stages(), texts()
    alone = model([stage[1:2] for stage in features], said[1:2])
    torch.testing.assert_close(alone.logits[0], model(features, said).logits[1])


def test_untrained_maps_are_near_even() -> None:
    """Not above one half everywhere, as a sigmoid of summed softmaxes would be."""
    maps = network()(stages(), texts())
    assert 0.25 < float((maps.margin.sigmoid() > 0.5).float().mean()) < 0.75


def test_the_adapter_is_residual() -> None:
    features = torch.randn(2, 8, 5, 5)
    normalized = torch.nn.functional.layer_norm(features.movedim(1, -1), [8]).movedim(-1, 1)
    torch.testing.assert_close(ResidualAdapter(8, ratio=0.0)(features), normalized)
    changed = ResidualAdapter(8, ratio=0.1)(features)
    assert 0 < float((changed - normalized).abs().mean()) < 0.3
    assert len(Adapters([8, 12])) == 2


@pytest.mark.parametrize("dims", [2, 3])
def test_stages_are_picked_and_pooled(dims: int) -> None:
    features = stages(dims=dims)
    assert [s.shape[1] for s in stages_of(features, [0, 2])] == [8, 16]
    pooled = stages_of(features, [0, 1, 2], grid=[8] * dims)
    assert [s.shape[2] for s in pooled] == [8, 8, 4]
    assert float(pooled[0][0, 0].mean()) == pytest.approx(float(features[0][0, 0].mean()), abs=1e-5)


def test_top_mean() -> None:
    assert top_mean(torch.arange(200.0).reshape(1, 10, 20), share=0.01).tolist() == [198.5]
    assert top_mean(torch.tensor([[1.0, 5.0]])).tolist() == [5.0]


def test_resized() -> None:
    maps = torch.randn(1, 2, 4, 4)
    assert resized(maps, (4, 4)) is maps
    assert resized(maps, (9, 9)).shape == (1, 2, 9, 9)
    assert resized(torch.randn(1, 2, 4, 4, 4), (8, 8, 8)).shape == (1, 2, 8, 8, 8)


def test_it_learns_to_find_what_differs() -> None:
    """A patch of other features, outlined in half of the images and only announced in the others."""
    generator = torch.Generator().manual_seed(3)
    model, said = network(trained=True), texts(1).expand(8, -1, -1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    abnormal = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    outlined = torch.tensor([True, True, False, False, True, True, False, False])

    def batch() -> tuple[list[Tensor], Tensor]:
        features = [0.3 * torch.randn(8, width, 16, 16, generator=generator) for width in (8, 12, 16)]
        masks = torch.zeros(8, 1, 16, 16)
        for item in range(4):
            row, column = torch.randint(0, 11, (2,), generator=generator).tolist()
            masks[item, :, row : row + 5, column : column + 5] = 1
        return [f + masks * torch.linspace(-1, 1, f.shape[1])[:, None, None] for f in features], masks

    for _ in range(120):
        features, masks = batch()
        maps = model(features, said)
        loss = pixel_loss(maps, masks, outlined) + image_loss(maps, abnormal) + 0.1 * text_loss(maps, said)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    features, masks = batch()
    maps = model(features, said)
    found = (maps.margin.sigmoid() > 0.5).float()
    assert float((1 - dice(found[:4, 0], masks[:4, 0])).mean()) > 0.8
    assert float(found[4:].mean()) < 0.02
    assert ((maps.score > 0) == (abnormal > 0)).all()


def test_focal_and_dice() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :2] = 1
    logits = torch.stack([1 - 2 * masks, 2 * masks - 1], 1) * 5
    assert float(focal(logits, masks).max()) < 1e-4
    assert float(focal(-logits, masks).min()) > 5
    assert dice(masks, masks).tolist() == [0, 0]
    assert float(dice(1 - masks, masks)[0]) > 0.9


def test_losses_of_images_without_outlines() -> None:
    maps = network(trained=True)(stages(), texts())
    loss = pixel_loss(maps, torch.zeros(3, 1, 32, 32), torch.zeros(3, dtype=torch.bool))
    assert float(loss.detach()) == 0
    loss.backward()  # and there is still a graph


def test_the_text_loss_prefers_the_right_text_and_forgives_equal_ones() -> None:
    said = texts()
    maps = network()(stages(), said)
    right = maps._replace(class_embeddings=said)
    wrong = maps._replace(class_embeddings=said.flip(1))
    assert float(text_loss(right, said)) < 0.05
    assert float(text_loss(wrong, said)) > 1
    same = said[:1].expand(3, -1, -1)
    assert float(text_loss(maps._replace(class_embeddings=same), same)) == pytest.approx(
        float(torch.log(torch.tensor(3.0))), abs=0.05
    )


def test_the_abnormal_channel_is_the_second() -> None:
    assert ABNORMAL == 1
