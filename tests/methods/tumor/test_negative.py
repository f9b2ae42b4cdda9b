"""CT of a limb as its negative: grey values by hand, and which prompts look at it in which scan."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.imaging import Volume
from latentseg.imaging.network_input import square_slices
from latentseg.methods.tumor import network
from latentseg.methods.tumor.negative import SOFT_TISSUE, negative
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import Phantom

SEEN = {"air": (-1000, -1.0), "fat": (-100, 0.77), "muscle": (50, -0.38), "bone": (700, -1.0)}


def test_fat_is_bright_and_muscle_dark_in_a_negative_and_air_and_bone_are_black() -> None:
    hu = np.repeat([value for value, _ in SEEN.values()], 16)[:, None, None]
    scan = Volume(np.broadcast_to(hu, (64, 64, 5)).astype(np.int16), np.diag([-1.0, -1.0, 2.0, 1.0]), "CT")
    columns = negative(square_slices(scan, 64)).images[2, 32]
    assert columns[[8, 24, 40, 56]] == pytest.approx([bright for _, bright in SEEN.values()], abs=0.02)


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
@pytest.mark.parametrize("trunk", [False, True])
def test_a_sarcoma_is_looked_for_in_the_negative_of_a_ct_without_organs(
    tiny_tumor_model: Path, tmp_path: Path, searched: Phantom, trunk: bool
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_tumor_model, folder)
    trained, facts = network.load(folder / network.FILE)
    config = trained.config.model_copy(update={"negative": True})
    changed = network.TumorNetwork(config, trained.channels, organs=("liver", "spleen"))
    changed.attention, changed.views = trained.attention, trained.views
    assert changed.organs.classify is not None
    changed.organs.classify.weight.data.zero_()
    changed.organs.classify.bias.data[1 if trunk else 0] = 9.0
    network.save(folder / network.FILE, changed, facts)
    segmenter = ls.load("tumor", backbone=folder, options=TumorOptions(refinement=None, closer=None))
    assert isinstance(segmenter, TumorSegmenter)
    ct = segmenter.prepare(searched.image)
    segmenter.predict(ct, "tumor")
    assert not ct.alone
    found = segmenter.predict(ct, "soft tissue sarcoma")
    assert found.mask.shape == searched.image.shape
    assert list(ct.alone) == [] if trunk else [SOFT_TISSUE]
    mr = segmenter.prepare(replace(searched.image, modality="MR"))
    segmenter.predict(mr, "sarcoma")
    assert not mr.alone
