"""Synthetic lesions: inside the organ, of the asked size, visible, reproducible, in 2-D and 3-D."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from latentseg.imaging.intensity import scan_noise
from latentseg.training.tumor.lesions import (
    Image,
    Lesion,
    LesionOptions,
    Mask,
    add_lesion,
    borrowed_lesion,
)


def organ_in_image(shape: tuple[int, ...] = (96, 96), radius: float = 30) -> tuple[Image, Mask]:
    """A textured ball at -0.2 in the dark."""
    offsets = np.indices(shape) - np.reshape([n / 2 for n in shape], (-1, *[1] * len(shape)))
    organ = np.linalg.norm(offsets, axis=0) < radius
    texture = 0.03 * np.random.default_rng(0).standard_normal(shape)
    return np.where(organ, -0.2 + texture, -1).astype(np.float32), organ


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_lesion_lies_in_the_organ_and_can_be_seen(seed: int) -> None:
    image, organ = organ_in_image()
    lesion = add_lesion(image, organ, np.random.default_rng(seed))
    assert lesion.image.shape == image.shape
    assert lesion.image.dtype == np.float32
    assert np.abs(lesion.image).max() <= 1
    outside = lesion.mask & ~organ
    assert outside.sum() <= 0.1 * lesion.mask.sum() + 4  # a blurred border may reach over
    if lesion.mask.sum() > 30:
        assert np.abs(lesion.image[lesion.mask] + 0.2).mean() > 0.04


def test_it_is_a_function_of_the_generator() -> None:
    image, organ = organ_in_image()
    a, b = (add_lesion(image, organ, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.mask, b.mask)
    c = add_lesion(image, organ, np.random.default_rng(4))
    assert not np.array_equal(a.mask, c.mask)
    assert np.array_equal(image, organ_in_image()[0])  # the input stays as it is


def test_sizes_follow_the_options() -> None:
    image, organ = organ_in_image()
    small = LesionOptions(radius=(3, 4), irregular=0.1)
    large = LesionOptions(radius=(18, 20), irregular=0.1)
    areas = [
        np.mean([add_lesion(image, organ, np.random.default_rng(i), options=o).mask.sum() for i in range(20)])
        for o in (small, large)
    ]
    assert np.pi * 3**2 * 0.5 < areas[0] < np.pi * 4**2 * 1.5
    assert np.pi * 18**2 * 0.6 < areas[1] < np.pi * 20**2 * 1.4


def test_lesions_differ_in_contrast_rim_and_core() -> None:
    image, organ = organ_in_image()
    medians = [
        float(np.median(lesion.image[lesion.mask]))
        for lesion in (add_lesion(image, organ, np.random.default_rng(i)) for i in range(40))
        if lesion.mask.any()
    ]
    assert min(medians) < -0.35
    assert max(medians) > 0


def test_mass_effect_pushes_the_surroundings_away() -> None:
    image, organ = organ_in_image((96, 96), 40)
    stripes = np.where(np.indices(image.shape)[0] % 8 < 4, 0.2, -0.2).astype(np.float32)
    options = [LesionOptions(radius=(12, 12), mass_effect=strength) for strength in (0.0, 0.6)]
    still, pushed = (add_lesion(stripes, organ, np.random.default_rng(5), options=o) for o in options)
    around = ~still.mask & ~pushed.mask
    assert np.abs(still.image - stripes)[around].mean() < np.abs(pushed.image - stripes)[around].mean()


def test_three_dimensions() -> None:
    image, organ = organ_in_image((32, 40, 40), 14)
    lesion = add_lesion(image, organ, np.random.default_rng(1), options=LesionOptions(radius=(5, 8)))
    assert lesion.mask.ndim == 3
    assert lesion.mask.any(axis=(1, 2)).sum() > 3


@pytest.mark.parametrize("pixels", [0, 1, 5])
def test_organs_without_room(pixels: int) -> None:
    image, organ = organ_in_image()
    organ = np.zeros_like(organ)
    organ.flat[4000 : 4000 + pixels] = True
    lesion = add_lesion(image, organ, np.random.default_rng(0))
    assert lesion.mask.sum() <= max(2 * pixels, 0)
    if pixels == 0:
        assert np.array_equal(lesion.image, image)


def test_shapes_must_agree() -> None:
    image, organ = organ_in_image()
    with pytest.raises(ValueError, match="in an image of shape"):
        add_lesion(image, organ[:-1], np.random.default_rng(0))


def test_a_lesion_with_room_may_leave_its_organ() -> None:
    image, organ = organ_in_image()
    room = np.ones_like(organ)
    options = LesionOptions(radius=(10, 12))
    left = [
        (add_lesion(image, organ, np.random.default_rng(i), room=room, options=options).mask & ~organ).sum()
        for i in range(12)
    ]
    assert max(left) > 20


def test_a_lesion_in_air_is_solid_and_no_fainter_than_noise() -> None:
    air = np.full((96, 96), -1, np.float32)
    lesion = add_lesion(air, air < 0, np.random.default_rng(2), options=LesionOptions(radius=(8, 10)))
    assert float(np.median(lesion.image[lesion.mask])) > -0.8
    noisy = 0.3 * np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
    assert scan_noise(noisy) == pytest.approx(0.3, rel=0.15)
    assert scan_noise(air) == 0


def test_a_lesion_at_a_border_is_told_from_the_organ_and_not_from_the_fat() -> None:
    """Of dark lesions that grow into fat, none is darker than the fat by the contrast to the organ."""
    image, organ = organ_in_image(radius=8)
    image[~organ] = -0.6
    options = LesionOptions(radius=(18, 20), contrast=(0.2, 0.2), dark=1, rim=0, core=0, texture=0)
    room = np.ones_like(organ)
    for seed in range(10):
        lesion = add_lesion(image, organ, np.random.default_rng(seed), room=room, options=options)
        grown = lesion.mask & ~organ
        assert grown.sum() > lesion.mask.sum() / 2
        assert float(np.median(lesion.image[grown])) > -0.58


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_a_borrowed_lesion_keeps_its_grey_value_and_stays_in_its_room(seed: int) -> None:
    image, organ = organ_in_image()
    lent = np.zeros(image.shape, bool)
    lent[10:22, 60:68] = True
    lender = Lesion(np.where(lent, 0.7, -0.9).astype(np.float32), lent)
    rng = np.random.default_rng(seed)
    lesion = borrowed_lesion(image, organ, rng, room=organ, lender=lender, zoom=(0.8, 1.25))
    assert not (lesion.mask & ~organ).any()
    beside = ~ndimage.binary_dilation(organ, iterations=3)
    np.testing.assert_allclose(lesion.image[beside], image[beside], atol=1e-3)
    inside = ndimage.binary_erosion(lesion.mask, iterations=2)
    if ndimage.binary_erosion(organ, iterations=12)[lesion.mask].all():
        assert 0.4 * lent.sum() < lesion.mask.sum() < 1.8 * lent.sum()
        assert lesion.image[inside].mean() == pytest.approx(0.7, abs=0.05)
    far = ~ndimage.binary_dilation(lesion.mask, iterations=5)
    np.testing.assert_array_equal(lesion.image[far], image[far])


def test_nothing_is_borrowed_of_a_healthy_slice_nor_for_an_organ_that_is_not_shown() -> None:
    image, organ = organ_in_image()
    empty = np.zeros(image.shape, bool)
    for lent, host in ((empty, organ), (organ, empty)):
        lesion = borrowed_lesion(
            image, host, np.random.default_rng(0), room=organ, lender=Lesion(image, lent)
        )
        assert not lesion.mask.any()
        np.testing.assert_array_equal(lesion.image, image)
