"""What is evaluated is what is shipped: `evaluate` and `segment` give one answer for one scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.evaluation.datasets.base import Dataset
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP2, Outcome, run_protocol
from latentseg.evaluation.tumor_methods import DiffuGTS
from latentseg.imaging import write_like
from latentseg.methods.fewshot.parts import SegmentOptions
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.tumor.options import TumorOptions
from latentseg.phantom import abdomen

ORGANS = {"liver": 1, "spleen": 4, "two slices": 20, "one voxel": 21, "everywhere": 22}
SIDE = 300  # pixels, so that slices and masks shrink on their way to the networks


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Scan 1 is searched, scan 2 is the support; beside organs it has targets that are hard to show."""
    root = tmp_path_factory.mktemp("phantoms")
    for case in ("1", "2"):
        phantom = abdomen(seed=int(case), shape=(SIDE, SIDE - 40, 10))
        labels = phantom.labels.array.copy()
        labels[100:130, 100:120, 4:6] = ORGANS["two slices"]
        for k in range(3, 7):
            labels[150 + 17 * k, 150 + 6 * k, k] = ORGANS["one voxel"]
        labels[:4, :4] = ORGANS["everywhere"]
        for kind, array in (("image", phantom.image.array), ("label", labels)):
            path = root / f"{kind}_{case}.nii.gz"
            write_like(array, like=phantom.image, path=path, kind="image" if kind == "image" else "labels")
    names = {name: value for value, name in phantom.names.items() if value not in (1, 4)} | ORGANS
    return Dataset("phantoms", "", "CT", ("1", "2"), folds=((0, 1),), label_of=names, root=root)


@pytest.fixture(scope="module")
def segmenter(tiny_model: Path) -> FewShotSegmenter:
    return ls.load(backbone=tiny_model, options=SegmentOptions(min_presence=0.0))


@pytest.fixture(scope="module")
def evaluated(phantoms: Dataset, segmenter: FewShotSegmenter) -> dict[str, Outcome]:
    protocol = EP2(phantoms, support_index=1, support_slices=3, organs=tuple(ORGANS))
    outcomes = run_protocol(protocol, methods=[FewShotMethod(segmenter)])
    return {outcome.row.organ: outcome for outcome in outcomes}


@pytest.mark.parametrize("organ", ORGANS)
def test_a_scan_is_evaluated_as_it_is_segmented(
    organ: str, phantoms: Dataset, segmenter: FewShotSegmenter, evaluated: dict[str, Outcome]
) -> None:
    files = [(phantoms.path / "image_2.nii.gz", phantoms.path / "label_2.nii.gz")]
    support = ls.Support.from_files(files, name=organ, label=ORGANS[organ], modality="CT")
    scan = ls.read(phantoms.path / "image_1.nii.gz", modality="CT")
    shipped, outcome = segmenter(scan, [support])[organ], evaluated[organ]
    chance = outcome.query.restore(outcome.probability)
    if organ != "one voxel":
        assert shipped.mask.any()
    np.testing.assert_allclose(chance.clip(0, 1), shipped.probability, atol=1e-4)
    assert np.count_nonzero(outcome.mask != shipped.mask) <= 1e-4 * shipped.mask.size
    assert outcome.row.presence is None or outcome.row.presence == pytest.approx(shipped.presence, abs=1e-4)


def test_a_tumor_is_evaluated_as_it_is_segmented(tiny_tumor_model: Path) -> None:
    options = TumorOptions(refinement=None, min_presence=0.0, closer=None)
    segmenter = ls.load("tumor", backbone=tiny_tumor_model, options=options)
    scan = abdomen(seed=1, shape=(64, 60, 6)).image
    found, shipped = DiffuGTS(segmenter)(scan, "liver tumor"), segmenter(scan, ["liver tumor"])["liver tumor"]
    np.testing.assert_array_equal(found.mask, shipped.mask)
    assert float(found.scores.max()) == pytest.approx(shipped.presence)
