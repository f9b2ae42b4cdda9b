"""Networks of a region alone: who is asked for which prompt in which scan, and that stages are shared."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import latentseg as ls
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.errors import ModelError
from latentseg.methods.tumor import network
from latentseg.methods.tumor.networks import PreparedScan
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.views import Offset
from latentseg.phantom.bodies import Phantom


@pytest.fixture
def with_heads(tiny_tumor_model: Path, tmp_path: Path) -> Path:
    """A model whose networks of heads call every head sick, where the others call nothing so."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_tumor_model, folder)
    trained, facts = network.load(folder / network.FILE)
    for bias, name in ((-9.0, network.FILE), (9.0, network.file_alone("head"))):
        assert trained.attention.judge is not None
        last = trained.attention.judge[-1]
        last.weight.data.zero_()  # type: ignore[operator]
        last.bias.data.fill_(bias)  # type: ignore[operator]
        network.save(folder / name, trained, facts)
    return folder


def segmenter_of(folder: Path) -> TumorSegmenter:
    segmenter = ls.load("tumor", backbone=folder, options=TumorOptions(refinement=None, closer=None))
    assert isinstance(segmenter, TumorSegmenter)
    return segmenter


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_a_brain_tumor_in_mr_is_looked_for_by_networks_of_heads(with_heads: Path, searched: Phantom) -> None:
    segmenter, ct = segmenter_of(with_heads), searched.image
    mr = replace(ct, modality="MR")
    for image, sick in ((mr, True), (ct, False)):
        prepared = segmenter.prepare(image)
        assert segmenter.predict(prepared, "liver tumor").presence < 0.01
        assert not prepared.alone
        assert (segmenter.predict(prepared, "meningioma").presence > 0.5) == sick
        assert list(prepared.alone) == ["head"] * sick
    prepared = segmenter.prepare(mr)
    segmenter.predict(prepared, "liver tumor")  # encodes the scan
    before = prepared.nbytes
    segmenter.predict(prepared, "brain tumor")
    head = prepared.alone["head"]
    assert isinstance(head, PreparedScan)
    assert head.stages is prepared.stages
    assert prepared.nbytes == before, "shared stages count once"


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_networks_of_the_abdomen_answer_for_the_organs_they_were_trained_for(
    with_heads: Path, searched: Phantom
) -> None:
    trained, facts = network.load(with_heads / network.file_alone("head"))
    abdomen = network.TumorNetwork(trained.config, trained.channels, organs=("liver", "spleen"))
    abdomen.attention = trained.attention
    abdomen.organs.quality.zero_()  # they are not found, so that nothing is out of view
    abdomen.views.by_organ = {"liver CT": Offset(0.0)}
    network.save(with_heads / network.file_alone("abdomen"), abdomen, facts)
    segmenter = segmenter_of(with_heads)
    prepared = segmenter.prepare(searched.image)
    assert segmenter.predict(prepared, "spleen tumor").presence < 0.01
    assert not prepared.alone
    assert segmenter.predict(prepared, "liver tumor").presence > 0.5
    assert list(prepared.alone) == ["abdomen"]


def test_files_of_networks_alone(with_heads: Path, tiny_tumor_model: Path, tmp_path: Path) -> None:
    assert list(segmenter_of(with_heads).networks.alone) == ["head"]
    plain = segmenter_of(tiny_tumor_model)
    assert not plain.networks.alone
    assert plain.fingerprint != segmenter_of(with_heads).fingerprint
    own = ls.load("tumor", backbone=with_heads, weights=with_heads / network.FILE)
    assert isinstance(own, TumorSegmenter)
    assert not own.networks.alone, "weights that are given answer alone"
    file = with_heads / network.file_alone("head")
    trained, _ = network.load(file)
    elsewhere = tmp_path / "without"
    elsewhere.mkdir()
    network.save(elsewhere / network.FILE, trained, {"without": "glioma, liver tumor"})
    network.save(elsewhere / network.file_alone("head"), trained, {"without": "glioma"})
    given = ls.load("tumor", backbone=with_heads, weights=elsewhere).networks
    assert list(given.alone) == ["head"], "a folder of weights brings its own networks of heads"
    assert given.without == ("glioma",), "the networks of heads know liver tumors"
    network.save(file, trained, {"backbone": "another"})
    with pytest.raises(ModelError, match="made for another backbone"):
        segmenter_of(with_heads)


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_networks_of_heads_mark_one_tumor_and_metastases_as_they_are(
    with_heads: Path, searched: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr = replace(searched.image, modality="MR")
    segmenter = segmenter_of(with_heads)
    prepared = segmenter.prepare(mr)
    shares: list[float] = []

    def without_lesser(chance: NDArray[np.float32], *, share: float, cut: float) -> NDArray[np.float32]:
        shares.append(share)
        return np.zeros_like(chance)

    monkeypatch.setattr("latentseg.methods.tumor.segmenter.without_lesser", without_lesser)
    assert not segmenter.predict(prepared, "brain tumor").mask.any()
    assert shares == [segmenter.options.lesser]
    for prompt in ("brain metastasis", "liver tumor"):
        segmenter.predict(prepared, prompt)
    assert len(shares) == 1


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_halves_of_a_head_are_compared_where_no_networks_of_heads_look(
    tiny_tumor_model: Path, with_heads: Path, searched: Phantom, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr = replace(searched.image, modality="MR")
    compared: list[int] = []

    def asymmetry(photographs: object, images: Tensor) -> Tensor:
        compared.append(len(images))
        return torch.ones_like(images)

    monkeypatch.setattr("latentseg.methods.tumor.beside_map.asymmetry", asymmetry)
    found = []
    for mirrored in (0.0, 2.0):
        options = TumorOptions(refinement=None, closer=None, min_presence=0.0, mirrored=mirrored)
        segmenter = ls.load("tumor", backbone=tiny_tumor_model, options=options)
        assert isinstance(segmenter, TumorSegmenter)
        shown = replace(segmenter.networks.stages, photographs=FeatureNetwork(tiny_state()))
        segmenter.networks = replace(segmenter.networks, stages=shown)
        found.append(segmenter.predict(segmenter.prepare(mr), "glioma"))
        segmenter(mr, ["liver tumor"])
        segmenter(searched.image, ["glioma"])
    assert compared == [len(found[1].evidence.scores)]
    maps = [one.evidence.attention for one in found]
    assert (maps[1] > maps[0]).all()
    heads = segmenter_of(with_heads)
    heads.predict(heads.prepare(mr), "glioma")
    assert len(compared) == 1
