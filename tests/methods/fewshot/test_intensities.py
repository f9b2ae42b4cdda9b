"""Weights of scans from their smallest to their largest value: every verb shows them scans in that way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import latentseg as ls
from conftest import TINY_UNET
from latentseg.errors import ModelError, UsageError
from latentseg.evaluation.methods import FewShotMethod
from latentseg.evaluation.protocols import EP1, run_protocol
from latentseg.evaluation.slices import SupportSlices
from latentseg.imaging import Volume
from latentseg.imaging.network_input import square_slices
from latentseg.methods.fewshot.parts import SegmentOptions
from latentseg.methods.fewshot.segmenter import FewShotSegmenter
from latentseg.methods.fewshot.support import Support
from latentseg.methods.sdfsmis import checkpoint
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.phantom.bodies import Phantom

LIVER = 1


def weights_with(model: Path, path: Path, **facts: str) -> Path:
    """The released network, without a prior, whose file says some facts."""
    from diffusers import UNet2DConditionModel

    trained = checkpoint.load(model / "fewshot.safetensors")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained.network = FewShotUNet.from_denoiser(UNet2DConditionModel(**TINY_UNET))
    trained.metadata |= facts
    checkpoint.save(path, weights=trained, dtype=torch.float32)
    return path


def segmenter_of(model: Path, weights: Path) -> FewShotSegmenter:
    options = SegmentOptions(compat="official", min_presence=0.0)
    return ls.load(backbone=model, weights=weights, options=options, device="cpu")


@pytest.fixture
def ranged(tiny_model: Path, tmp_path: Path) -> FewShotSegmenter:
    path = weights_with(tiny_model, tmp_path / "range.safetensors", intensities="range")
    return segmenter_of(tiny_model, path)


def examples_of(shown: Phantom, positions: slice) -> SupportSlices:
    """Slices of the liver as the evaluation takes them."""
    seen = square_slices(shown.image, 256, whole_range=True)
    support = Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    held = np.flatnonzero(seen.canonical.apply(shown.labels.array == LIVER).any((1, 2)))
    at = [int(held[int((k + 0.5) / 3 * len(held))]) for k in range(3)]
    return SupportSlices(seen.images[at], support.masks)[positions]


def test_segment_and_evaluate_give_the_same_answer(
    ranged: FewShotSegmenter, tiny_model: Path, shown: Phantom, searched: Phantom, tmp_path: Path
) -> None:
    support = Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    segmented = ranged(searched.image, [support])["liver"]
    seen = square_slices(searched.image, 256, whole_range=True)
    answer = FewShotMethod(ranged).scan(
        examples_of(shown, slice(None)), seen.images, spacing_mm=seen.spacing_mm
    )
    np.testing.assert_array_equal(segmented.probability, seen.back(answer.chance).clip(0, 1))
    plain = segmenter_of(tiny_model, weights_with(tiny_model, tmp_path / "plain.safetensors"))
    other = plain(searched.image, [support])["liver"]
    assert np.abs(other.probability - segmented.probability).max() > 1e-3


def test_examples_are_shown_in_the_same_way(shown: Phantom) -> None:
    one = Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    assert one.ranged is not None
    np.testing.assert_array_equal(one.ranged, examples_of(shown, slice(None)).images)
    both = Support.join([one, one])
    assert both.ranged is not None
    assert len(both.ranged) == 6
    assert Support.join([one, replace(one, ranged=None)]).ranged is None


def test_contradictions_are_one_sentence(
    ranged: FewShotSegmenter, tiny_model: Path, shown: Phantom, tmp_path: Path
) -> None:
    support = Support.from_volumes(shown.image, shown.labels, name="liver", label=LIVER)
    with pytest.raises(UsageError, match="want scans from their smallest to their largest value"):
        ranged.encode(replace(support, ranged=None))
    odd = weights_with(tiny_model, tmp_path / "odd.safetensors", intensities="median")
    with pytest.raises(ModelError, match="unknown intensities 'median'"):
        segmenter_of(tiny_model, odd)
    folder = tmp_path / "prior"
    shutil.copytree(tiny_model, folder)
    trained = checkpoint.load(folder / "fewshot.safetensors")
    trained.metadata["intensities"] = "range"
    checkpoint.save(folder / "fewshot.safetensors", weights=trained)
    with pytest.raises(ModelError, match="matching prior knows percentiles alone"):
        ls.load(backbone=folder)


def test_a_protocol_of_other_intensities_is_refused(
    ranged: FewShotSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentseg.evaluation.datasets import SABS

    monkeypatch.setattr(EP1, "check", lambda _: None)
    with pytest.raises(UsageError, match="intensities are percentiles, and the weights want range"):
        next(run_protocol(EP1(SABS), methods=[FewShotMethod(ranged)]))


def test_slices_alone_are_mapped_as_in_the_whole_scan(searched: Phantom) -> None:
    from latentseg.imaging import normalize

    array: Volume = searched.image
    whole = normalize(array.array, modality="CT", whole_range=True)
    some = normalize(array.array, modality="CT", whole_range=True, only=[3, 5])
    np.testing.assert_array_equal(some, whole[[3, 5]])
