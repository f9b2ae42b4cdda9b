"""The picture network: its maps, its file, and the mean with the attention maps of heads."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import latentseg as ls
from helpers.tiny_features import tiny_state
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.image_features import FeatureNetwork, read_feature_network
from latentseg.errors import LatentsegWarning, ModelError
from latentseg.methods.tumor import network
from latentseg.methods.tumor.evidence import TumorSegmentation
from latentseg.methods.tumor.features import FrozenStages
from latentseg.methods.tumor.options import TumorOptions
from latentseg.methods.tumor.organ_network import Run
from latentseg.methods.tumor.organs import OrganMaps
from latentseg.methods.tumor.picture_network import (
    PictureConfig,
    PictureNetwork,
    file_of_picture,
    read_picture,
    save_picture,
)
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.methods.tumor.told import Told
from latentseg.methods.tumor.views import Offset, looks_of
from latentseg.phantom.bodies import Phantom
from latentseg.text import embed

SMALL = PictureConfig(widths=(8, 8, 8, 16), share=0.25)


@pytest.fixture
def photographs() -> FeatureNetwork:
    return FeatureNetwork(tiny_state())


@pytest.fixture
def small(photographs: FeatureNetwork) -> PictureNetwork:
    torch.manual_seed(0)
    return PictureNetwork(photographs, SMALL).eval()


@pytest.fixture
def model_with_heads(tiny_tumor_model: Path, tmp_path: Path) -> Path:
    """A model whose tumor network has a copy that looks at heads."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_tumor_model, folder)
    shutil.copy(folder / network.FILE, folder / network.file_alone("head"))
    return folder


def test_maps_are_as_large_as_pictures_and_turn_with_them(small: PictureNetwork) -> None:
    images = torch.rand(3, 1, 64, 64) * 2 - 1
    found = small.log_odds(images, slab=2)
    assert found.shape == images.shape
    torch.testing.assert_close(small.log_odds(images.flip(-1)), found.flip(-1))
    torch.testing.assert_close(small.log_odds(images[1:2]), found[1:2])
    assert found.mean() < 0, "before a training tumors are rare"


def test_a_network_may_see_more_pixels(photographs: FeatureNetwork) -> None:
    images = torch.rand(1, 1, 64, 64) * 2 - 1
    edges = [
        PictureNetwork(photographs, SMALL.model_copy(update={"edge": edge}))(images)[-1].shape[2]
        for edge in (96, 192)
    ]
    assert edges == [48, 96]


def test_what_knows_photographs_stays_where_it_is_finest(
    photographs: FeatureNetwork, small: PictureNetwork
) -> None:
    torch.stack([one.mean() for one in small.train()(torch.rand(2, 1, 64, 64))]).sum().backward()
    trained = {
        name.split(".")[1] for name, p in small.blocks.named_parameters(prefix="blocks") if p.grad is not None
    }
    assert trained == {str(index) for index in range(3, len(small.blocks))}
    assert all(p.grad is None for p in small.stem.parameters())
    small.blocks[5].requires_grad_(False)
    assert not any(p.requires_grad for p in photographs.parameters()), "that network is another"


def test_a_file_holds_the_network_in_half_precision(
    photographs: FeatureNetwork, small: PictureNetwork, tmp_path: Path
) -> None:
    path = tmp_path / file_of_picture("head")
    save_picture(path, small)
    again = read_picture(path, photographs)
    assert again.config == SMALL
    images = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(again.log_odds(images), small.log_odds(images), atol=0.05, rtol=0.05)
    assert {t.dtype for t in load_file(path).values()} == {torch.float16}
    save_file(load_file(path), path)  # without what it says about itself
    with pytest.raises(ModelError, match="not a picture network"):
        read_picture(path, photographs)
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError, match="unreadable weights"):
        read_picture(path, photographs)


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        ("brain tumor", True),
        ("glioma", True),
        ("pituitary adenoma", True),
        ("edema", False),
        ("liver tumor", False),
    ],
)
def test_prompts_that_it_answers(prompt: str, known: bool, small: PictureNetwork) -> None:
    assert small.knows(Queries(embed)(prompt, "MR")) == known


class Certain(PictureNetwork):
    """Sees a tumor everywhere."""

    def unmirrored(self, images: Tensor, *, slab: int = 16) -> Tensor:
        return torch.full_like(images, 8.0)


def test_it_tells_of_lesions_of_its_organs_where_any_are_shown(photographs: FeatureNetwork) -> None:
    organs = torch.zeros(2, 3, 4, 4)
    organs[:, 0] = 1.0
    organs[1, :, 2, 2] = torch.tensor([0.3, 0.1, 0.6])
    told = Told(organs, torch.full((2, 1, 4, 4), -4.0))
    picture = Certain(photographs, SMALL.model_copy(update={"organs": ("liver",)}))
    names, images = ("kidney", "liver"), torch.zeros(2, 1, 16, 16)
    found = picture.told_of(told, images, names).smooth(0.0)
    torch.testing.assert_close(found.organs, organs)
    torch.testing.assert_close(found.lesions_of("kidney"), told.lesions)
    liver = found.lesions_of("liver")
    assert liver is not None
    torch.testing.assert_close(liver[0], torch.full((1, 4, 4), -4.0))
    torch.testing.assert_close(liver[1], torch.full((1, 4, 4), 8.0))
    assert found.nbytes == organs.nbytes + 2 * liver.nbytes
    silent = Told(organs)
    assert picture.told_of(silent, images, names) is silent
    assert Certain(photographs, SMALL).told_of(told, images, names) is told
    assert picture.told_of(told, images, ("liver", "kidney")) is told, "no slice shows a liver then"


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_maps_of_heads_are_the_mean_of_both(
    model_with_heads: Path, searched: Phantom, photographs: FeatureNetwork
) -> None:
    options = TumorOptions(refinement=None, closer=None, min_presence=0.0, across_mm=0.0)
    segmenter = ls.load("tumor", backbone=model_with_heads, options=options)
    assert isinstance(segmenter, TumorSegmenter)
    mr, plain = replace(searched.image, modality="MR"), segmenter.networks
    maps = {}
    for name, picture in (("without", None), ("with", Certain(photographs, SMALL))):
        head = replace(plain.alone["head"], picture=picture)
        segmenter.networks = replace(plain, alone={"head": head})
        prepared = segmenter.prepare(mr)
        for prompt in ("glioma", "edema"):
            chance = segmenter.predict(prepared, prompt).evidence.attention
            maps[name, prompt] = torch.logit(torch.from_numpy(chance).double())
    torch.testing.assert_close(maps["with", "edema"], maps["without", "edema"])
    torch.testing.assert_close(
        maps["with", "glioma"], 0.75 * maps["without", "glioma"] + 0.25 * 8.0, atol=1e-3, rtol=1e-3
    )


class Looked(PictureNetwork):
    """Sees something in the second of two slices, and something else in mirror images."""

    def unmirrored(self, images: Tensor, *, slab: int = 16) -> Tensor:
        found = torch.full_like(images, -5.0)
        found[images.amax((1, 2, 3)) > 0] = 1.0
        return found

    def log_odds(self, images: Tensor, *, slab: int = 16) -> Tensor:
        return torch.full_like(images, 3.0)


def test_mirror_images_are_looked_at_where_anything_is_seen(photographs: FeatureNetwork) -> None:
    organs, images = torch.zeros(3, 2, 4, 4), torch.zeros(3, 1, 16, 16)
    organs[:2, 1] = 0.6
    images[1:] = 0.5
    picture = Looked(photographs, SMALL.model_copy(update={"organs": ("liver",)}))
    liver = picture.told_of(Told(organs, torch.full((3, 1, 4, 4), -4.0)), images, ("liver",)).apart["liver"]
    assert liver[:, 0, 0, 0].tolist() == [-5.0, 3.0, -4.0], "as it is, with its mirror image, not at all"


class Upper(PictureNetwork):
    """Sees a tumor in the slices of the upper half, less surely in the first and the last of them."""

    def log_odds(self, images: Tensor, *, slab: int = 16) -> Tensor:
        found = torch.full_like(images, -8.0)
        upper = range(len(images) // 2, len(images))
        for k in upper:
            found[k, :, 10:22, 10:22] = 1.0 if k in (upper[0], upper[-1]) else 6.0
        return found


@pytest.mark.filterwarnings("ignore::latentseg.errors.LatentsegWarning")
def test_it_has_a_say_in_which_slices_are_suspected(
    model_with_heads: Path, searched: Phantom, photographs: FeatureNetwork
) -> None:
    options = TumorOptions(refinement=None, across_mm=0.0, gap_mm=0.0)
    segmenter = ls.load("tumor", backbone=model_with_heads, options=options)
    assert isinstance(segmenter, TumorSegmenter)
    mr, plain = replace(searched.image, modality="MR"), segmenter.networks

    def found(offset: Offset, prompt: str = "glioma") -> TumorSegmentation:
        config = SMALL.model_copy(update={"share": 1.0, "offset": offset})
        head = replace(plain.alone["head"], picture=Upper(photographs, config))
        segmenter.networks = replace(plain, alone={"head": head})
        return segmenter.predict(segmenter.prepare(mr), prompt)

    sure = found(Offset(3.0)).evidence
    upper = range(len(sure.scores) // 2, len(sure.scores))
    inner = list(upper[1:-1])
    torch.testing.assert_close(
        torch.from_numpy(sure.scores[inner]).double(), torch.tensor([3.0] * len(inner)).sigmoid().double()
    )
    assert (sure.scores[: inner[0]] < 0.5).all()
    assert np.flatnonzero(sure.refined).tolist() == list(upper), "slices joined to the sure ones"
    assert found(Offset(7.0)).presence < 0.5
    assert not found(Offset(7.0)).mask.any()
    slices = looks_of(len(sure.scores), segmenter.prepare(mr).step_mm)
    grows = found(Offset(3.0, 1.0)).presence
    assert grows == pytest.approx(1 / (1 + math.exp(-(3.0 - math.log(slices)))), abs=1e-4)
    edema = [found(Offset(one), "edema").evidence.scores for one in (-99.0, 99.0)]
    np.testing.assert_array_equal(*edema, err_msg="a prompt that it does not know is scored by the maps")


class Halves(OrganMaps):
    """Says that one organ is in the left half of every slice, and another in the right half."""

    def __init__(self, left: str, right: str) -> None:
        super().__init__(("kidney", "liver", "spleen"), ((4,),))
        self.left, self.right = (1 + self.names.index(name) for name in (left, right))

    def with_lesions(
        self, stages: Sequence[Tensor], runs: Sequence[Run] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Logits in favor of the organs."""
        del runs
        logits = torch.zeros(len(stages[0]), 4, *stages[0].shape[2:])
        middle = logits.shape[3] // 2
        logits[:, self.left, :, :middle] = logits[:, self.right, :, middle:] = 12.0
        return logits, None


class Unsure(Halves):
    """Tells nothing for sure."""

    def __init__(self) -> None:
        super().__init__("spleen", "spleen")

    def with_lesions(
        self, stages: Sequence[Tensor], runs: Sequence[Run] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """The same chance for all."""
        return torch.zeros_like(super().with_lesions(stages, runs)[0]), None


@pytest.fixture
def of_kidneys(tiny_tumor_model: Path, tmp_path: Path, photographs: FeatureNetwork) -> TumorSegmenter:
    """Networks of the abdomen, and what sees the picture alone and takes all for tumors of kidneys."""
    folder = tmp_path / "abdomens"
    shutil.copytree(tiny_tumor_model, folder)
    shutil.copy(folder / network.FILE, folder / network.file_alone("abdomen"))
    options = TumorOptions(refinement=None, appearance=None)
    segmenter = ls.load("tumor", backbone=folder, options=options)
    assert isinstance(segmenter, TumorSegmenter)
    own = {"share": 1.0, "findings": ("kidney tumor",), "offset": Offset(0.0), "soft": (1.0, 0.0)}
    picture = Certain(photographs, SMALL.model_copy(update=own))
    abdomen = replace(segmenter.networks.alone["abdomen"], picture=picture)
    segmenter.networks = replace(segmenter.networks, alone={"abdomen": abdomen})
    return segmenter


def test_what_is_surely_another_organ_holds_no_tumor(of_kidneys: TumorSegmenter, searched: Phantom) -> None:
    of_kidneys.networks.alone["abdomen"].network.organs = Halves("kidney", "spleen")
    found = of_kidneys(searched.image, "kidney tumor")["kidney tumor"]
    marked = found.evidence.attention > 0.5
    middle = marked.shape[2] // 2
    assert marked[:, :, : middle - 4].all()
    assert not marked[:, :, middle + 4 :].any()
    assert found.presence > 0.5
    of_kidneys.networks.alone["abdomen"].network.organs = Halves("spleen", "liver")
    with pytest.warns(LatentsegWarning, match="shows no kidney: 'kidney tumor' is called absent"):
        absent = of_kidneys(searched.image, "kidney tumor")["kidney tumor"]
    assert absent.presence == 0
    assert not absent.mask.any()


def test_in_a_single_slice_a_tumor_may_stand_where_its_organ_was(
    of_kidneys: TumorSegmenter, searched: Phantom
) -> None:
    of_kidneys.networks.alone["abdomen"].network.organs = Halves("spleen", "spleen")
    scan, middle = searched.image, searched.image.shape[2] // 2
    slice_alone = replace(scan, array=scan.array[:, :, middle : middle + 1])
    with pytest.warns(LatentsegWarning, match="shows no kidney: what is found may be of another organ"):
        nothing = of_kidneys(slice_alone, "kidney tumor")["kidney tumor"]
    assert not nothing.mask.any(), "it is surely a spleen"
    of_kidneys.networks.alone["abdomen"].network.organs = Unsure()
    with pytest.warns(LatentsegWarning, match="may be of another organ"):
        found = of_kidneys(slice_alone, "kidney tumor")["kidney tumor"]
    assert found.mask.any()


def test_kidneys_have_one_of_their_own_beside_the_networks_of_the_abdomen(
    tiny_tumor_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_tumor_model, folder)
    photographs = read_feature_network(folder / "matching.safetensors")
    config = network.TumorConfig(stages=(1, 2), photographs=(1,), cell=4, pyramid=8)
    made = network.TumorNetwork.for_stages(
        FrozenStages(CompactBackbone.from_folder(folder), config, photographs)
    )
    network.save(folder / network.FILE, made, {})
    own = {"kidney": SMALL.model_copy(update={"findings": ("kidney tumor",)}), "abdomen": SMALL}
    for part, its_own in own.items():
        save_picture(folder / file_of_picture(part), PictureNetwork(photographs, its_own))
    without = ls.load("tumor", backbone=folder)
    assert isinstance(without, TumorSegmenter)
    assert list(without.networks.alone) == ["kidney"]
    assert without.networks.alone["kidney"].network is without.networks.network
    made.views.by_organ = {"kidney CT": Offset(0.0)}
    network.save(folder / network.file_alone("abdomen"), made, {})
    segmenter = ls.load("tumor", backbone=folder)
    assert isinstance(segmenter, TumorSegmenter)
    assert segmenter.fingerprint != without.fingerprint
    alone, queries = segmenter.networks.alone, segmenter.networks.queries
    assert {part: one.picture and one.picture.config for part, one in alone.items()} == own
    assert alone["kidney"].network is alone["abdomen"].network
    parts = [
        segmenter.networks.part_of(queries(prompt, modality), modality)
        for prompt, modality in (("kidney tumor", "CT"), ("liver tumor", "CT"), ("kidney tumor", "MR"))
    ]
    assert parts == ["kidney", "abdomen", ""]
