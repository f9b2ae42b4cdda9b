"""Tumors on MAISI: a whole volume as one block, on tiny random networks in the published key layout."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("monai")

import latentseg as ls
from helpers.maisi_toys import save_tumor_model
from latentseg.backbones.registry import current_name, folder_of
from latentseg.errors import MemoryLimitError, ModelError, UsageError
from latentseg.imaging import Volume
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.methods.diffugts.refinement import RefinementOptions, dilated
from latentseg.methods.tumor import network
from latentseg.methods.tumor.evidence import TumorSegmentation
from latentseg.methods.tumor.features import TumorConfig
from latentseg.methods.tumor.options import TumorOptions
from latentseg.phantom.bodies import abdomen

QUICK = RefinementOptions(inpainting=InpaintingOptions(steps=2), dilate=1)
ALL = TumorOptions(refinement=QUICK, healthy="inpainted", min_presence=0.0, extra_seeds=0, voxel_mm=8.0)
COARSE = replace(ALL, refinement=None, voxel_mm=16.0)
CONFIG = TumorConfig(stages=(0, 1, 2), photographs=(), fold=False, cell=4, pyramid=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tumor_model(tmp_path_factory.mktemp("tiny_maisi"), CONFIG)


@pytest.fixture(scope="module")
def scan() -> Volume:
    return abdomen(seed=1, modality="CT", shape=(40, 36, 7)).image


def run(
    folder: Path, scan: Volume, options: TumorOptions = ALL, weights: Path | None = None
) -> TumorSegmentation:
    segmenter = ls.load(
        "tumor", backbone=folder, options=options, weights=weights, device="cpu", dtype="fp32"
    )
    found = segmenter(scan, ["liver tumor"])["liver tumor"]
    assert isinstance(found, TumorSegmentation)
    return found


def test_a_volume_is_one_block_and_comes_back_on_the_scans_grid(folder: Path, scan: Volume) -> None:
    found = run(folder, scan)
    for array in (found.mask, found.probability, found.attention_map, found.pseudo_healthy, found.residual):
        assert array.shape == scan.shape
    evidence = found.evidence
    assert evidence.seen.block
    assert all(edge % 32 == 0 for edge in evidence.images.shape)
    assert len(evidence.scores) == len(evidence.refined) == scan.shape[2]
    assert evidence.refined.all()
    assert evidence.scores.max() == pytest.approx(found.presence)
    assert found.evidence_page().startswith(b"\x89PNG")
    assert found.residual.any()


def test_a_flipped_scan_gives_the_flipped_answer(folder: Path, scan: Volume) -> None:
    affine = scan.affine_ras_mm.copy()
    affine[:3, 3] += affine[:3, 0] * (scan.shape[0] - 1)
    affine[:3, 0] *= -1
    flipped = replace(scan, array=scan.array[::-1].copy(), affine_ras_mm=affine)
    one, other = run(folder, scan), run(folder, flipped)
    np.testing.assert_allclose(one.attention_map, other.attention_map[::-1], atol=1e-5)


def test_memory_is_checked_before_the_work(
    folder: Path, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = ls.load("tumor", backbone=folder, options=ALL, device="cpu", dtype="fp32")
    block = segmenter.prepare(scan).seen.images.shape
    assert segmenter.needs(scan).startswith(f"{'x'.join(map(str, block))} voxels take about")
    monkeypatch.setattr("latentseg.backbones.maisi.model.free_bytes", lambda _: 1 << 20)
    for work in (segmenter.needs, segmenter.prepare):
        with pytest.raises(MemoryLimitError, match="voxel size"):
            work(scan)


def test_a_volume_is_encoded_once_and_compared_to_itself(folder: Path, scan: Volume) -> None:
    options = replace(ALL, refinement=replace(QUICK, pixel="image"))
    segmenter = ls.load("tumor", backbone=folder, options=options, device="cpu", dtype="fp32")
    prepared = segmenter.prepare(scan)
    backbone = prepared.networks.backbone
    latents = prepared.decoded.known_latents(torch.tensor([0]))
    assert latents is not None
    torch.testing.assert_close(latents, backbone.encode(prepared.images))
    found = segmenter.predict(prepared, "liver tumor").evidence
    assert not prepared.decoded.known.any()  # no pass through the autoencoder for the comparison
    np.testing.assert_allclose(found.residual, np.abs(found.images - found.healthy), atol=1e-5)


def test_the_current_ct_release_has_a_name_of_its_own(folder: Path) -> None:
    assert current_name("maisi-ct") == "maisi-ct-rflow"
    assert folder_of("maisi-ct") == folder_of("maisi-ct-rflow")
    with pytest.raises(ModelError, match="models pull maisi-ct-rflow"):
        ls.load("tumor", backbone="maisi-ct")


def test_weights_of_another_backbone_are_refused(folder: Path, tmp_path: Path) -> None:
    trained, _ = network.load(folder / "tumor.safetensors")
    path = tmp_path / "other.safetensors"
    network.save(path, trained, {"backbone": "000000000000"})
    with pytest.raises(ModelError, match="made for another backbone"):
        ls.load("tumor", backbone=folder, weights=path)
    with pytest.raises(ModelError, match="no tumor weights"):
        ls.load("tumor", backbone=folder, weights=tmp_path / "missing.safetensors")


def test_a_voxel_has_a_length() -> None:
    with pytest.raises(UsageError, match="positive length"):
        TumorOptions(voxel_mm=0.0)


def test_dilation_of_a_block_is_a_cube() -> None:
    point = torch.zeros(1, 1, 9, 9, 9)
    point[0, 0, 4, 4, 4] = 1
    assert int(dilated(point, 2).sum()) == 125
    assert dilated(point[:0], 2).shape == (0, 1, 9, 9, 9)


def with_organ(folder: Path, path: Path, chance: float) -> Path:
    """The weights of a folder with an organ head that calls every position liver, or none."""
    trained, facts = network.load(folder / "tumor.safetensors")
    more = network.TumorNetwork(trained.config, trained.channels, dims=3, organs=["liver"])
    more.load_state_dict(trained.state_dict(), strict=False)
    assert more.organs.classify is not None
    more.organs.classify.weight.data.zero_()
    more.organs.classify.bias.data = torch.tensor([0.0, chance])
    network.save(path, more, facts)
    return path


def test_a_tumor_is_looked_for_in_its_organ(folder: Path, scan: Volume, tmp_path: Path) -> None:
    here, nowhere = (with_organ(folder, tmp_path / f"{logit}.safetensors", logit) for logit in (9, -9))
    found = {}
    for name, weights in (("any", None), ("here", here), ("nowhere", nowhere)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found[name] = run(folder, scan, COARSE, weights=weights)
        assert any("shows no liver" in str(one.message) for one in said) == (name == "nowhere")
    assert found["any"].mask.any()
    assert found["here"].probability == pytest.approx(found["any"].probability, abs=1e-5)
    assert found["nowhere"].absent
    apart = replace(COARSE, organs=False)
    assert not run(folder, scan, apart, weights=nowhere).absent


def test_what_was_found_is_looked_at_closer(folder: Path, scan: Volume) -> None:
    segmenter = ls.load("tumor", backbone=folder, options=COARSE, device="cpu", dtype="fp32")
    assert "for the closer look 32x64x64 voxels take about" in segmenter.needs(scan)
    twice = segmenter(scan, "liver tumor")["liver tumor"].attention_map
    once = run(folder, scan, replace(COARSE, closer=None)).attention_map
    assert np.abs(once - twice).max() > 1e-4
    native = replace(COARSE, voxel_mm=8.0)  # as fine as the scan: the first look shows all there is
    alone = run(folder, scan, replace(native, closer=None)).attention_map
    np.testing.assert_array_equal(run(folder, scan, native).attention_map, alone)


def test_memory_for_the_closer_look_is_checked_too(folder: Path, scan: Volume) -> None:
    segmenter = ls.load("tumor", backbone=folder, options=COARSE, device="cpu", dtype="fp32")
    backbone = segmenter.networks.backbone
    first, closer = (backbone.memory(shape).features for shape in ((32, 32, 32), (32, 64, 64)))
    backbone.options = replace(backbone.options, memory_gib=(first + closer) / 2 / 2**30)
    with pytest.raises(MemoryLimitError, match="32x64x64"):
        segmenter.needs(scan)


def test_a_block_that_is_not_suspicious_holds_nothing(folder: Path, scan: Volume) -> None:
    found = run(folder, scan, replace(ALL, min_presence=1.1))
    assert found.absent
    assert not found.evidence.refined.any()
