"""Organs are learned from partial labels, and a tumor is looked for at its organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import latentseg as ls
from helpers import packs
from helpers.tiny_features import tiny_state
from latentseg.backbones.image_features import FeatureNetwork
from latentseg.errors import LatentsegWarning, UsageError
from latentseg.methods.tumor import network
from latentseg.methods.tumor.closer_look import CloserOptions
from latentseg.methods.tumor.options import PAPER_LIKE, TumorOptions
from latentseg.methods.tumor.organ_network import Run
from latentseg.methods.tumor.organs import BESIDE, FIELD_MM, OrganMaps, cavity, distance_from
from latentseg.methods.tumor.picture_network import PictureConfig, PictureNetwork
from latentseg.methods.tumor.segmenter import TumorSegmenter
from latentseg.phantom.bodies import Phantom
from latentseg.training.augment import Geometry, another_window
from latentseg.training.pack import Pack
from latentseg.training.tumor.lesion_sites import HostOptions, Hosts
from latentseg.training.tumor.losses import organ_loss
from latentseg.training.tumor.organ_samples import OrganSampleOptions, OrganSamples
from latentseg.training.tumor.organs import on_grid

NAMES = {"liver": "liver", "kidney_right": "kidney"}
PLAIN = TumorOptions(refinement=None, min_presence=0.0)


def test_distances_by_hand() -> None:
    inside = np.zeros((8, 10), bool)
    inside[2:4, 2:4] = True
    away = distance_from(inside)
    assert away[2, 2] == 0
    assert away[2, 8] == pytest.approx(0.5)
    assert away[5, 3] == pytest.approx(0.2)
    assert (distance_from(np.zeros((8, 10), bool)) == 1).all()


def test_small_pieces_of_a_scan_belong_to_something_else() -> None:
    kidneys = torch.zeros(12, 2, 32, 32)
    kidneys[6:12, 1, 4:10, 4:10] = kidneys[6:12, 1, 20:26, 4:10] = 1
    both = kidneys.clone()
    both[0:2, 1, 12:16, 12:16] = 1  # a femoral head
    maps = OrganMaps(("kidney",), ((5,),))
    away = maps.distances(both, "kidney")
    assert torch.equal(away, maps.distances(kidneys, "kidney"))
    assert (away[:6] == 1).all()
    assert (maps.distances(torch.zeros(2, 2, 4, 4), "kidney") == 1).all()
    beside = 3 / 32  # three cells from a kidney whose edge is at column 10
    assert beside < BESIDE
    assert float(away[6, 0, 6, 12]) == 0, "a mass displaces the organ that it grows from"
    assert float(away[6, 0, 6, 16]) == pytest.approx(7 / 32 - BESIDE)
    near = OrganMaps(("kidney",), ((5,),), beside={"kidney": 0.02})
    assert float(near.distances(both, "kidney")[6, 0, 6, 12]) == pytest.approx(3 / 32 - 0.02)


def test_a_speck_is_no_organ() -> None:
    inside = np.zeros((64, 64), bool)
    inside[5, 5] = True
    assert (distance_from(inside) == 1).all()
    inside[40:50, 40:50] = True
    assert distance_from(inside)[5, 5] > 0.5


def test_lungs_are_the_cavity_that_they_span() -> None:
    lungs = np.zeros((32, 32), bool)
    lungs[8:20, 4:12] = lungs[8:20, 20:28] = True
    expected = np.zeros((32, 32), bool)
    expected[8:20, 4:28] = True
    assert (cavity(lungs) == expected).all()
    filled = lungs.copy()
    filled[8:20, 20:27] = False  # by a mass, but for a rim
    assert (cavity(filled) == expected).all()
    smaller = lungs.copy()
    smaller[8:20, 24:28] = False
    assert not cavity(smaller)[10, 26], "half a lung is a lung"
    assert not cavity(np.zeros((4, 4), bool)).any()
    volume = np.stack([lungs, np.zeros_like(lungs)])
    assert (cavity(volume) == np.stack([expected, np.zeros_like(lungs)])).all()


def test_a_tumor_of_the_lung_lies_within_the_cavity() -> None:
    chances = torch.zeros(1, 2, 32, 32)
    chances[0, 1, 8:20, 4:12] = 1
    maps = OrganMaps(("lung",), ((5,),))
    away = maps.distances(chances, "lung")[0, 0]
    assert (away[8:20, 4:28] == 0).all()
    assert float(away[10, 29]) == pytest.approx(2 / 32)


def test_organs_below_the_lungs_are_not_in_their_cavity() -> None:
    chances = torch.zeros(1, 3, 32, 32)
    chances[0, 1, 8:20, 4:12] = chances[0, 1, 8:20, 20:28] = 1
    chances[0, 2, 10:18, 13:19] = 1
    maps = OrganMaps(("lung", "spleen"), ((5,),))
    away = maps.distances(chances, "lung")[0, 0]
    assert float(away[14, 16]) == pytest.approx(3 / 32), "in the middle of the spleen"
    assert float(away[8, 16]) == 0
    maps.quality[1] = 0.1
    assert float(maps.distances(chances, "lung")[0, 0, 14, 16]) == 0, "an organ that is not relied on"


def loss_of(label: int, favored: int, *, labelled: bool) -> float:
    """Loss of a position with a label, in favor of a class, where the second organ is labelled or not."""
    logits = torch.full((1, 3, 1, 1), -4.0)
    logits[0, favored] = 4.0
    known = torch.tensor([[True, True, labelled]])
    return float(organ_loss(logits, torch.full((1, 1, 1), label), known))


def test_what_is_not_labelled_may_be_any_organ_that_is_not() -> None:
    assert loss_of(0, 2, labelled=False) < 0.01
    assert loss_of(0, 2, labelled=True) > 2
    assert loss_of(0, 1, labelled=False) > 2
    assert loss_of(1, 1, labelled=False) < 0.1
    assert loss_of(1, 0, labelled=False) > 2


def test_steps_learn_an_organ() -> None:
    torch.manual_seed(0)
    truth = torch.zeros(2, 16, 16, dtype=torch.long)
    truth[:, 4:9, 4:9] = 1
    stages = [
        torch.randn(2, 5, 16, 16) + 2 * truth[:, None] * torch.tensor([1.0, -1, 0, 0, 1])[:, None, None]
    ]
    maps = OrganMaps(("liver",), ((5,),))
    known = torch.ones(2, 2, dtype=torch.bool)
    optimizer = torch.optim.AdamW(maps.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        organ_loss(maps(stages), truth, known).backward()
        optimizer.step()
    found = maps.eval()(stages).softmax(1)[:, 1] > 0.5
    assert ((found == (truth == 1)).float().mean()) > 0.97
    away = maps.distances(maps(stages).softmax(1), "liver")
    assert away.shape == (2, 1, 16, 16)
    assert away[0, 0, 6, 6] == 0


def test_without_training_there_are_no_organs() -> None:
    untrained = OrganMaps((), ((5,),))
    assert not list(untrained.parameters())
    with pytest.raises(RuntimeError, match="not trained"):
        untrained([torch.zeros(1, 5, 4, 4)])


def test_only_organs_that_are_found_well_are_relied_on() -> None:
    maps = OrganMaps(("adrenal gland", "liver"), ((5,),))
    assert maps.trusted == ("adrenal gland", "liver")
    maps.quality.copy_(torch.tensor([0.1, 0.9]))
    assert maps.trusted == ("liver",)
    assert OrganMaps((), ((5,),)).trusted == ()


class Everywhere(OrganMaps):
    """Says that one organ is everywhere, and where a lesion is: in the upper half, or nowhere said."""

    def __init__(self, number: int, *, lesions: bool = False) -> None:
        super().__init__(("kidney", "liver"), ((4,),))
        self.number, self.above = number, lesions

    def with_lesions(
        self, stages: Sequence[Tensor], runs: Sequence[Run] = ()
    ) -> tuple[Tensor, Tensor | None]:
        """Logits in favor of the organ."""
        del runs
        logits = torch.zeros(len(stages[0]), 3, *stages[0].shape[2:])
        logits[:, self.number] = 9.0
        lesions = torch.full_like(logits[:, :1], -6.0)
        lesions[:, :, : lesions.shape[2] // 2] = 6.0
        return logits, lesions if self.above else None


@pytest.fixture
def segmenter(tiny_tumor_model: Path) -> TumorSegmenter:
    loaded = ls.load("tumor", backbone=tiny_tumor_model, options=replace(PLAIN, closer=None))
    assert isinstance(loaded, TumorSegmenter)
    return loaded


def test_a_tumor_is_looked_for_at_its_organ(segmenter: TumorSegmenter, searched: Phantom) -> None:
    scan, prompts = searched.image, ["liver tumor", "kidney tumor", "tumor"]
    before = segmenter(scan, prompts)
    segmenter.networks.network.organs = Everywhere(2)
    with pytest.warns(LatentsegWarning, match="shows no kidney: 'kidney tumor' is called absent"):
        after = segmenter(scan, prompts)
    for same in ("liver tumor", "tumor"):
        np.testing.assert_allclose(after[same].probability, before[same].probability, atol=1e-6)
    assert after["kidney tumor"].presence == 0
    assert not after["kidney tumor"].mask.any()
    paper = TumorSegmenter(segmenter.networks, options=replace(PLAIN, organs=PAPER_LIKE.organs, closer=None))
    np.testing.assert_allclose(
        paper(scan, ["kidney tumor"])["kidney tumor"].probability, before["kidney tumor"].probability
    )


def test_lesions_that_are_told_have_their_share(segmenter: TumorSegmenter, searched: Phantom) -> None:
    trained = segmenter.networks.network
    trained.organs = Everywhere(2, lesions=True)

    def attention() -> NDArray[np.float32]:
        return segmenter(searched.image, ["liver tumor"])["liver tumor"].evidence.attention

    alone = attention()
    trained.config = trained.config.model_copy(update={"lesions": {"liver": 1.0}})
    said = attention()
    half = said.shape[1] // 2
    np.testing.assert_allclose(said[:, : half - 8], 1 / (1 + np.exp(-6)), atol=1e-3)
    np.testing.assert_allclose(said[:, half + 8 :], 1 / (1 + np.exp(6)), atol=1e-3)
    trained.config = trained.config.model_copy(update={"lesions": {"liver": 0.5, "kidney": 1.0}})
    both = attention()
    odds = [np.log(one / (1 - one))[:, : half - 8] for one in (alone, said, both)]
    np.testing.assert_allclose(odds[2], (odds[0] + odds[1]) / 2, atol=0.05)
    trained.config = trained.config.model_copy(update={"lesions": {"kidney": 1.0}})
    np.testing.assert_allclose(attention(), alone, atol=1e-6)


def test_what_sees_the_picture_alone_tells_of_lesions_of_its_organs(
    segmenter: TumorSegmenter, searched: Phantom
) -> None:
    class Certain(PictureNetwork):
        def unmirrored(self, images: Tensor, *, slab: int = 16) -> Tensor:
            return torch.full_like(images, 4.0)

    config = PictureConfig(widths=(8, 8, 8, 16), organs=("liver",), findings=())
    trained = segmenter.networks.network
    trained.organs = Everywhere(2, lesions=True)
    trained.config = trained.config.model_copy(update={"lesions": {"liver": 1.0, "kidney": 1.0}})
    picture = Certain(FeatureNetwork(tiny_state()), config)
    segmenter.networks = replace(segmenter.networks, picture=picture)
    prepared = segmenter.prepare(searched.image)
    before = prepared.nbytes
    found = segmenter.predict(prepared, "liver tumor").evidence.attention
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-4)), atol=1e-3)
    assert prepared.told is not None
    assert prepared.nbytes - before > prepared.told.nbytes


@pytest.mark.parametrize("prompt", ["liver tumor", "tumor"])
def test_suspicious_slices_are_looked_at_again(
    segmenter: TumorSegmenter, searched: Phantom, prompt: str
) -> None:
    segmenter.networks.network.organs = Everywhere(2)
    once = segmenter(searched.image, [prompt])[prompt]
    options = replace(segmenter.options, closer=CloserOptions())
    twice = TumorSegmenter(segmenter.networks, options=options)(searched.image, [prompt])[prompt]
    assert twice.presence == once.presence
    assert twice.probability.max() > 0
    assert np.abs(twice.probability - once.probability).max() > 1e-4


def test_organs_are_kept_in_the_file(segmenter: TumorSegmenter, tmp_path: Path) -> None:
    trained = segmenter.networks.network
    trained.organs = OrganMaps(("kidney", "liver"), trained.channels)
    nn.init.normal_(trained.organs.classify.weight)  # type: ignore[union-attr]  # it has organs
    network.save(tmp_path / "tumor.safetensors", trained, {})
    loaded, _ = network.load(tmp_path / "tumor.safetensors")
    assert loaded.organs.names == ("kidney", "liver")
    torch.testing.assert_close(
        loaded.organs.classify.weight,
        trained.organs.classify.weight,
        atol=1e-3,
        rtol=1e-2,  # type: ignore[union-attr]
    )


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    out: Pack = packs.small_pack(tmp_path / "data")
    return out


def samples_of(packed: Pack, **changes: object) -> OrganSamples:
    options = OrganSampleOptions(**{"names": NAMES, **changes})  # type: ignore[arg-type]  # fields by name
    unused = np.zeros(len(packed.images), bool)
    return OrganSamples(options, packed, hosts=Hosts(HostOptions(), packed, set()), unused=unused)


def test_samples_hold_their_organs(packed: Pack) -> None:
    samples = samples_of(packed)
    assert samples.organs == ["kidney", "liver"]
    drawn = [samples.draw(np.random.default_rng(seed)) for seed in range(20)]
    for sample in drawn:
        assert sample.images.shape == sample.organs.shape == (1, 64, 64)
        assert sample.step_mm == 0
        assert np.abs(sample.images).max() <= 1
        assert sample.known.all()
    assert set(np.unique([sample.organs for sample in drawn])) == {0, 1, 2}
    again = samples.draw(np.random.default_rng(3))
    assert np.array_equal(again.images, drawn[3].images)


def test_a_run_holds_neighboring_slices(packed: Pack) -> None:
    assert packed.scans[0].count >= 8
    still = {"degrees": 0, "zoom": (1, 1), "stretch": 0, "shift": 0, "elastic": 0, "flip": 0}
    packed.scans = packed.scans[:1]
    packed.images, packed.labels = (
        array[: packed.scans[0].count] for array in (packed.images, packed.labels)
    )
    step_mm = packed.scans[0].spacing_mm[0]
    changes = {"windows": 0, "noisy": 0, "curve": 0, "geometry": Geometry(**still)}  # type: ignore[arg-type]
    samples = samples_of(packed, run=3, apart_mm=(2 * step_mm, 2 * step_mm), lesions=0, **changes)
    for seed in range(5):
        sample = samples.draw(np.random.default_rng(seed))
        assert sample.images.shape == sample.organs.shape == (3, 64, 64)
        assert sample.step_mm == pytest.approx(2 * step_mm)
        rows = [samples._organs(row, packed.scans[0]) for row in range(len(packed.images))]
        runs = [np.stack(rows[first : first + 5 : 2]) for first in range(len(rows) - 4)]
        assert any(np.array_equal(run, sample.organs) for run in runs)


def test_pictures_of_a_run_are_alone(packed: Pack) -> None:
    single = packed.scans[0].model_copy(update={"count": 1})
    packed.scans = [single.model_copy(update={"first": first}) for first in range(len(packed.images))]
    sample = samples_of(packed, run=4).draw(np.random.default_rng(0))
    assert sample.images.shape == (4, 64, 64)
    assert sample.step_mm == 0


def test_a_lesion_belongs_to_its_organ(packed: Pack) -> None:
    plain, ill = (samples_of(packed, lesions=chance) for chance in (0.0, 1.0))
    rng = np.random.default_rng(1)
    index = int(np.argmax((packed.labels == 1).sum((1, 2))))
    organs = plain._organs(index, packed.scans[0])
    image = packed.images[index] / np.float32(127.5) - 1
    changed, with_lesion, lesion = ill._with_lesion(rng, image[None], organs[None], 1.0)
    assert lesion.any()
    assert (with_lesion[lesion] > 0).all()
    assert not np.array_equal(changed[0], image)
    assert (with_lesion[0][organs > 0] > 0).all()
    livers = samples_of(packed, lesions=1.0, hosts={"liver": 1.0})
    kidneys = organs == 1
    for seed in range(5):
        labels = livers._with_lesion(np.random.default_rng(seed), image[None], organs[None], 1.0)[1][0]
        assert not ((labels == 1) & ~kidneys).any()


def test_lesions_of_a_sample_are_those_that_grew_and_those_outlined(packed: Pack) -> None:
    healthy = samples_of(packed, lesions=0.0, unsure=("phantom",)).draw(np.random.default_rng(0))
    assert not healthy.lesions.any()
    ill = samples_of(packed, lesions=1.0).draw(np.random.default_rng(0))
    assert ill.lesions.any()
    assert ill.sure
    outlined = samples_of(packed, lesions=0.0, outlined=("liver",)).draw(np.random.default_rng(0))
    assert np.array_equal(outlined.lesions, outlined.organs == 2)
    packed.scans = [scan.model_copy(update={"source": "livers"}) for scan in packed.scans]
    assert not samples_of(packed, unsure=("livers",)).draw(np.random.default_rng(0)).sure


def test_data_sets_know_some_organs(packed: Pack) -> None:
    packed.scans[0] = packed.scans[0].model_copy(update={"labels": {1: "liver"}})
    packed.scans[1] = packed.scans[1].model_copy(update={"source": "brains", "labels": {}})
    samples = samples_of(packed, elsewhere=("brains",))
    assert samples._known(packed.scans[0]).tolist() == [True, False, True]
    assert samples._known(packed.scans[1]).tolist() == [True, True, True]


def test_lungs_are_told_by_their_air(packed: Pack) -> None:
    images = np.full((16, 64, 64), 120, np.uint8)
    images[:, :3], images[:, -3:], images[:, :, :3], images[:, :, -3:] = 0, 0, 0, 0
    images[5:8, 10:54, 10:54] = 0  # the chest
    images[1, 14:52, 14:52] = 0  # gas in the bowel, apart from it
    packed.images, packed.labels = images, np.zeros_like(images)
    packed.scans = [packed.scans[0].model_copy(update={"first": 0, "count": 16, "labels": {9: "liver"}})]
    samples = samples_of(packed, names={"liver": "liver", "lung": "lung"})
    assert np.flatnonzero(samples.chest).tolist() == [5, 6, 7]
    assert (samples._organs(6, packed.scans[0]) == 2).sum() > 1200
    assert not samples._organs(1, packed.scans[0]).any()


def test_a_pack_without_organs_is_refused(packed: Pack) -> None:
    with pytest.raises(UsageError, match="no slice of the pack shows a labelled organ"):
        samples_of(packed, names={"toe": "liver"})


def test_other_windows() -> None:
    image = np.full((32, 32), -1.0, np.float32)
    image[4:28, 4:28] = 0.0
    image[4:6, 4:28] = -0.85  # fat
    lungs = np.zeros((32, 32), bool)
    lungs[8:20, 8:20] = True
    image[lungs] = -1.0
    image[12, 12] = 0.0  # a vessel
    wide, narrow = 0, 0
    for seed in range(20):
        seen = another_window(image, lungs, np.random.default_rng(seed))
        assert seen[0, 0] == -1
        assert seen[12, 12] == seen[25, 25]
        grey = bool(seen[10, 10] > -1)
        wide, narrow = wide + grey, narrow + (seen[5, 5] == -1)
        assert seen[10, 10] < seen[12, 12]
        assert not (grey and seen[5, 5] == -1)
    assert wide >= 4
    assert narrow >= 4


def test_on_grid_takes_the_majority() -> None:
    organs = np.array([[1, 1, 0, 0], [1, 2, 0, 2]])
    assert on_grid(organs, (1, 2)).tolist() == [[1, 0]]


def test_distances_in_a_block_are_those_in_the_body() -> None:
    """Slices of 5 mm and pixels of 1.5 mm: ten slices are as far away as 33 pixels."""
    inside = np.zeros((32, 96, 96), bool)
    inside[10:13, 20:40, 20:40] = True
    field = (32 * 5 / FIELD_MM, 96 * 1.5 / FIELD_MM, 96 * 1.5 / FIELD_MM)
    away = distance_from(inside, field=field) * FIELD_MM
    assert away[22, 30, 30] == pytest.approx(50, abs=0.1)
    assert away[11, 72, 30] == pytest.approx(49.5, abs=0.1)
    assert not away[inside].any()
