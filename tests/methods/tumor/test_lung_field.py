"""Lungs are air in a chest, seen in a window that shows what is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import latentseg as ls
from latentseg.imaging import Volume
from latentseg.methods.tumor.lung_field import WINDOW_HU, closed, closed_apart, hounsfield, lower, lung_field
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.segmenter import TumorSegmenter

SHAPE = (64, 96, 10)  # columns, rows and slices of voxels of 4 x 3 x 8 mm
LIVER = 3  # slices from below that its dome reaches


def chest(*, nodule_hu: float = -600.0) -> Volume:
    """Two lungs, a dome under the first, a nodule in the second, trachea, table and blanket."""
    hu = np.full(SHAPE, -1000.0, np.float32)
    hu[4:60, 10:80] = 20.0
    hu[8:28, 16:72] = hu[36:56, 16:72] = -860.0
    hu[12:24, 24:60, :LIVER] = 60.0
    hu[44:47, 40:43, 5:7] = nodule_hu
    hu[30:34, 20:26, 6:] = -1000.0
    hu[2:62, 88:90] = 200.0
    affine = np.diag([-4.0, -3.0, 8.0, 1.0])
    return Volume(hu, affine, modality="CT")


def test_lungs_are_air_with_what_they_enclose() -> None:
    field = lung_field(chest(), 128)
    assert field is not None
    truth = np.zeros(SHAPE, bool)
    truth[8:28, 16:72] = truth[36:56, 16:72] = True
    truth[12:24, 24:60, :LIVER] = False
    found = field.seen.canonical.restore(field.seen.undo(field.inside))
    both = 2 * (found & truth).sum() / (found.sum() + truth.sum())
    assert both > 0.95
    assert found[44:47, 40:43, 5:7].all(), "a nodule belongs to its lung"
    assert not found[13:23, 26:58, :LIVER].any(), "the dome of the liver does not"
    assert not found[30:34, 20:26].any(), "nor does the trachea"


def test_what_lies_below_a_lung_is_far_from_it() -> None:
    field = lung_field(chest(), 128)
    assert field is not None
    away = field.away()
    assert away.shape == (10, 1, 128, 128)
    assert float(away[torch.from_numpy(field.inside)[:, None]].max()) == 0
    under = torch.from_numpy(field.below & ~field.inside)[:, None]
    assert float(away[under].min()) >= 0.2
    assert float(away.max()) <= 1


def test_the_window_shows_what_is_not_solid() -> None:
    field = lung_field(chest(), 128)
    assert field is not None
    images = field.seen.canonical.restore(field.seen.undo(field.seen.images))
    low, high = WINDOW_HU
    assert images[45, 41, 6] == pytest.approx(2 * (-600 - low) / (high - low) - 1, abs=0.05)
    assert images[40, 30, 6] == pytest.approx(2 * (-860 - low) / (high - low) - 1, abs=0.02)


def test_pictures_tell_air_from_tissue() -> None:
    grey = np.array([[[38.0] * 6 + [215.0] * 4]])
    hu = hounsfield(grey)
    assert hu is not None
    assert hu[0, 0, 0] == pytest.approx(-1000)
    assert hu[0, 0, 9] == pytest.approx(30)


def test_lungs_that_are_black_show_nothing() -> None:
    hu = chest().array
    black = ((hu + 125) / 400 * 255).clip(0, 255).round()
    picture = Volume(black.astype(np.float32), chest().affine_ras_mm, modality="CT")
    assert lung_field(picture, 128) is None


def test_an_abdomen_with_gas_has_no_lungs() -> None:
    hu = np.full(SHAPE, -1000.0, np.float32)
    hu[4:60, 10:80] = 20.0
    hu[20:30, 20:30] = -1000.0
    assert lung_field(Volume(hu, chest().affine_ras_mm, modality="CT"), 128) is None


def test_closing_by_hand() -> None:
    air = np.zeros((20, 20), bool)
    air[4:16, 4:16] = True
    air[8:12, 8:12] = False  # enclosed
    air[4:7, 9] = False  # a narrow notch
    filled = closed(air, 2)
    assert filled[5:16, 4:16].all()
    assert not filled[:4].any()


def test_a_mass_beside_the_mediastinum_belongs_to_its_lung() -> None:
    hu = chest().array.copy()
    hu[36:44, 38:48, 3:7] = 40.0  # of the second lung's medial border, solid
    field = lung_field(Volume(hu, chest().affine_ras_mm, modality="CT"), 128)
    assert field is not None
    restored = [field.seen.canonical.restore(field.seen.undo(mask)) for mask in (field.lung, field.inside)]
    mass, between = (slice(36, 44), slice(38, 48), slice(3, 7)), (slice(29, 35), slice(40, 50), slice(3, 6))
    assert restored[0][mass].mean() < 0.6
    assert restored[1][mass].mean() > 0.75
    assert not restored[1][between].any(), "what lies between the lungs is of neither"


def test_closing_apart_does_not_join_lungs() -> None:
    air = np.zeros((20, 30), bool)
    air[4:16, 2:13] = air[4:16, 17:28] = True
    air[8:12, 9:13] = False
    filled = closed_apart(air, 4, 15)
    assert filled[8:12, 9:12].all()
    assert not filled[:, 13:17].any()


def test_lower_looks_down() -> None:
    air = np.zeros((3, 1, 2), bool)
    air[0, 0, 0] = air[2, 0, 1] = True
    assert lower(air)[:, 0].tolist() == [[True, False], [True, False], [True, True]]


def test_a_lung_tumor_alone_is_looked_for_in_lungs() -> None:
    segmenter = ls.load("tumor", options=TumorOptions(refinement=None, closer=None))
    assert "lung" in segmenter.networks.alone
    prepared = segmenter.prepare(chest())
    segmenter.predict(prepared, "liver tumor")
    assert "lung" not in prepared.alone
    found = segmenter.predict(prepared, "lung tumor")
    field = prepared.alone["lung"]
    assert field is not None
    assert field.lungs is not None
    assert found.evidence.seen is field.seen
    assert found.mask.shape == SHAPE
    plain = replace(segmenter.networks, alone={})
    before = TumorSegmenter(plain, options=segmenter.options).predict(prepared, "lung tumor")
    assert before.evidence.seen is prepared.seen
