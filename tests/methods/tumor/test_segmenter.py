"""The tumor segmenter on random weights: grids, determinism, evidence, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import latentseg as ls
from latentseg.errors import LatentsegWarning, ModelError, UsageError
from latentseg.imaging import Volume
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.methods.diffugts.refinement import RefinementOptions, Refiner
from latentseg.methods.tumor.along_slices import bridged, grown, smooth
from latentseg.methods.tumor.cut import leveled
from latentseg.methods.tumor.evidence import TumorSegmentation
from latentseg.methods.tumor.options import PAPER_LIKE, PRESETS, TumorOptions
from latentseg.methods.tumor.pseudo_healthy import undecided
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import Phantom

QUICK = RefinementOptions(inpainting=InpaintingOptions(steps=2))
ALL = TumorOptions(refinement=QUICK, healthy="inpainted", min_presence=0.0, extra_seeds=0)


@pytest.fixture
def scan(searched: Phantom) -> Volume:
    return searched.image


def run(
    folder: Path, scan: Volume, options: TumorOptions = ALL, prompt: str = "liver tumor"
) -> TumorSegmentation:
    found = ls.load("tumor", backbone=folder, options=options)(scan, [prompt])[prompt]
    assert isinstance(found, TumorSegmentation)
    return found


def test_everything_lies_on_the_scans_grid(tiny_tumor_model: Path, scan: Volume) -> None:
    found = run(tiny_tumor_model, scan)
    for array in (found.mask, found.probability, found.attention_map, found.pseudo_healthy, found.residual):
        assert array.shape == scan.shape
    assert found.uncertainty.shape == scan.shape
    assert 0 <= found.presence <= 1
    assert found.evidence.refined.all()
    assert found.mask.any() == (found.probability >= 0.5).any()


def test_the_same_whatever_the_slab(tiny_tumor_model: Path, scan: Volume) -> None:
    whole, pieces = (run(tiny_tumor_model, scan, replace(ALL, slab=slab)) for slab in (8, 2))
    np.testing.assert_allclose(whole.pseudo_healthy, pieces.pseudo_healthy, atol=1e-4)
    np.testing.assert_allclose(whole.probability, pieces.probability, atol=1e-3)


def test_a_flipped_scan_gives_the_flipped_answer(tiny_tumor_model: Path, scan: Volume) -> None:
    affine = scan.affine_ras_mm.copy()
    affine[:3, 3] += affine[:3, 0] * (scan.shape[0] - 1)
    affine[:3, 0] *= -1
    flipped = replace(scan, array=scan.array[::-1].copy(), affine_ras_mm=affine)
    one, other = run(tiny_tumor_model, scan), run(tiny_tumor_model, flipped)
    np.testing.assert_allclose(one.attention_map, other.attention_map[::-1], atol=1e-4)


def test_nothing_suspicious_is_not_refined(tiny_tumor_model: Path, scan: Volume) -> None:
    found = run(tiny_tumor_model, scan, replace(ALL, min_presence=1.1))
    assert found.absent
    assert not found.evidence.refined.any()
    assert not found.residual.any()
    assert found.stats()["mean_uncertainty"] is None


def test_without_refinement_the_map_is_cut(tiny_tumor_model: Path, scan: Volume) -> None:
    found = run(tiny_tumor_model, scan, replace(ALL, refinement=None, level=None, appearance=None))
    np.testing.assert_allclose(found.probability, found.attention_map, atol=1e-6)


def test_a_map_is_cut_at_a_share_of_its_peak() -> None:
    faint = torch.tensor([[[[0.4, 0.15, 0.05]]], [[[0.9, 0.9, 0.9]]]]).logit()
    first = np.array([0])

    def inside(log_odds: torch.Tensor, level: float) -> list[bool]:
        return (leveled(log_odds, first, level=level)[0, 0, 0] > 0).tolist()

    assert inside(faint, 0.35) == [True, True, False]  # at 0.14
    assert inside(faint, 0.01) == [True, True, False]  # no lower than 0.1
    assert inside(torch.tensor([[[[0.99, 0.6, 0.4]]]]).logit(), 0.9) == [True, True, False]  # nor above 0.5
    assert torch.equal(leveled(faint, first, level=None), faint)
    assert torch.equal(leveled(faint, np.array([], int), level=0.35), faint)


def test_seeds_spread_and_repeat(tiny_tumor_model: Path, scan: Volume) -> None:
    several = replace(ALL, refinement=replace(QUICK, seeds=2, threshold=0.0))
    one, again = (run(tiny_tumor_model, scan, several) for _ in range(2))
    assert np.array_equal(one.uncertainty, again.uncertainty)
    assert one.uncertainty.max() > 0
    assert (
        run(tiny_tumor_model, scan, replace(ALL, refinement=replace(QUICK, threshold=0.0))).uncertainty.max()
        == 0
    )


def test_nothing_is_asked_of_the_denoiser_where_images_go_on(
    tiny_tumor_model: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refiner, "versions", None)
    found = run(tiny_tumor_model, scan, replace(ALL, healthy="continued")).evidence
    assert 0 < found.uncertainty.max() <= 0.5, "the standard deviation of what is either abnormal or not"
    assert found.refined.all()
    assert found.residual.max() > 0
    with pytest.raises(TypeError):
        run(tiny_tumor_model, scan, ALL)


def test_undecided_slices_get_more_seeds(tiny_tumor_model: Path, scan: Volume) -> None:
    doubtful = replace(ALL, refinement=replace(QUICK, threshold=0.0), undecided=-1.0, extra_seeds=1)
    assert run(tiny_tumor_model, scan, doubtful).uncertainty.max() > 0


def test_the_paper_like_preset_gives_masks_of_zero_and_one(tiny_tumor_model: Path, scan: Volume) -> None:
    assert PAPER_LIKE.refinement is not None
    assert PAPER_LIKE.refinement.fusion == "otsu"
    assert PRESETS["paper_like"] is PAPER_LIKE
    quick = replace(PAPER_LIKE.refinement, inpainting=InpaintingOptions(steps=2), threshold=0.0)
    found = run(tiny_tumor_model, scan, replace(PAPER_LIKE, refinement=quick, min_presence=0.0))
    assert set(np.unique(found.evidence.uncertainty)) == {0.0}
    assert found.probability.max() <= 1


def test_saved_files(tiny_tumor_model: Path, scan: Volume, tmp_path: Path) -> None:
    found = run(tiny_tumor_model, scan)
    written = found.save(tmp_path, what=("mask", "evidence", "attention", "uncertainty"))
    names = {path.name.removeprefix(scan.name) for path in written}
    assert names == {
        "_seg-liver_tumor.nii.gz",
        "_evidence-liver_tumor.png",
        "_attention-liver_tumor.nii.gz",
        "_uncertainty-liver_tumor.nii.gz",
    }
    saved = ls.read(next(path for path in written if "attention" in path.name))
    np.testing.assert_allclose(saved.array, found.attention_map, atol=1e-3)
    with pytest.raises(UsageError, match="unknown output 'maps'"):
        found.save(tmp_path, what=("maps",))


def test_prompts_that_cannot_be_looked_for(tiny_tumor_model: Path, scan: Volume) -> None:
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    for prompts, text in (
        (["liver"], "names an organ"),
        ([""], "is empty"),
        (["  ?"], "holds no word"),
        (["x" * 300], "300 characters"),
        (["healthy"], "names a state"),
        (["liver tumor", "liver_tumor"], "share one file name"),
    ):
        with pytest.raises(UsageError, match=text):
            segmenter(scan, prompts)


def test_another_modality_is_said(tiny_tumor_model: Path, scan: Volume) -> None:
    with pytest.warns(LatentsegWarning, match="says MR, and the scan is CT"):
        run(tiny_tumor_model, replace(scan, modality="CT"), prompt="MRI liver tumor")


def test_prompts_that_are_looked_for_everywhere_are_said(
    tiny_tumor_model: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("latentseg.text.embed", lambda phrases: np.ones((len(phrases), 384), np.float32))
    segmenter = ls.load("tumor", backbone=tiny_tumor_model)
    with pytest.warns(LatentsegWarning, match=r"does not know 'livr tumour'.*did you mean 'liver tumor'"):
        segmenter(scan, ["livr tumour"])
    with pytest.warns(LatentsegWarning, match="'cancer' names no organ.*'liver tumor'"):
        segmenter(scan, ["cancer"])


def test_weights_that_are_missing_or_of_another_backbone(
    tiny_model: Path, tiny_tumor_model: Path, tmp_path: Path
) -> None:
    from latentseg.methods.tumor import network

    with pytest.raises(ModelError, match="no tumor weights"):
        ls.load("tumor", backbone=tiny_model)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="unreadable"):
        ls.load("tumor", backbone=tiny_tumor_model, weights=tmp_path / "bad.safetensors")
    with pytest.raises(ModelError, match="not tumor weights"):
        ls.load("tumor", backbone=tiny_tumor_model, weights=tiny_tumor_model / "fewshot.safetensors")
    made, _ = network.load(tiny_tumor_model / "tumor.safetensors")
    network.save(tmp_path / "other.safetensors", made, {"backbone": "0123456789ab"})
    with pytest.raises(ModelError, match="made for another backbone"):
        ls.load("tumor", backbone=tiny_tumor_model, weights=tmp_path / "other.safetensors")


def test_a_lesion_of_one_pixel_does_not_vanish(tiny_tumor_model: Path) -> None:
    networks = ls.load("tumor", backbone=tiny_tumor_model).networks
    for parameter in networks.network.fusion.layers[2].parameters():
        parameter.zero_()  # adds nothing to the map, as a new fusion
    attention = torch.zeros(1, 1, 64, 64)
    attention[0, 0, 21, 33] = 0.9
    condition = networks.condition(("CT",))
    refiner = Refiner(networks.backbone, networks.network.fusion, torch.zeros_like, condition, QUICK)
    found = refiner(torch.rand(1, 1, 64, 64) - 0.5, attention, keys=["one"])
    assert float(found.probability[0, 0, 21, 33]) == pytest.approx(0.9, abs=0.01)
    assert int((found.probability >= 0.5).sum()) == 1
    assert float(found.residual.sum()) > 0  # its latent cell was filled


def test_what_lies_outside_of_the_body_is_air(tiny_tumor_model: Path, scan: Volume) -> None:
    found = run(tiny_tumor_model, scan)
    assert found.pseudo_healthy.min() >= -1.001
    assert found.pseudo_healthy.max() <= 1.2
    corner = found.pseudo_healthy[0, 0]
    assert np.abs(corner + 1).max() < 0.3


def test_gaps_between_suspicious_slices() -> None:
    suspicious = np.array([1, 0, 0, 1, 0, 0, 0, 1, 0], bool)
    assert bridged(suspicious, 3.4).tolist() == [True, True, True, True, False, False, False, True, False]
    assert bridged(suspicious, 4.0).tolist() == [True] * 8 + [False]
    assert bridged(suspicious, 0.0).tolist() == suspicious.tolist()
    assert not bridged(np.zeros(3, bool), 9.0).any()


def test_suspicion_grows_along_possible_slices() -> None:
    suspicious = np.array([0, 0, 1, 0, 0, 0, 0, 1], bool)
    possible = np.array([1, 1, 1, 1, 0, 1, 0, 0], bool)
    assert grown(suspicious, possible).tolist() == [True] * 4 + [False] * 3 + [True]
    assert not grown(np.zeros(8, bool), possible).any()


def test_smoothing_keeps_constants_and_single_slices() -> None:
    assert torch.allclose(smooth(torch.full((5, 2), 3.0), 1.5), torch.full((5, 2), 3.0))
    spike = torch.zeros(9)
    spike[4] = 1
    out = smooth(spike, 1.0)
    assert out.argmax() == 4
    assert out[4] < 1
    assert torch.equal(smooth(spike[4:5], 3.0), spike[4:5])
    assert torch.equal(smooth(spike, 0.0), spike)


def test_undecided_by_hand() -> None:
    chance = torch.tensor([[0.1, 0.5, 0.9, 0.9], [0.1, 0.2, 0.1, 0.2]])[:, None]
    torch.testing.assert_close(undecided(chance), torch.tensor([1 / 3, 0.0]))


def test_prepared_scans_serve_several_prompts(tiny_tumor_model: Path, scan: Volume) -> None:
    segmenter: TumorSegmenter = ls.load("tumor", backbone=tiny_tumor_model, options=ALL)
    prepared = segmenter.prepare(scan)
    both = segmenter(scan, ["liver tumor", "HCC"])
    assert list(both) == ["liver tumor", "HCC"]
    assert np.array_equal(segmenter.predict(prepared, "HCC").mask, both["HCC"].mask)
