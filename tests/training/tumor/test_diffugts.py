"""Samples and training of the tumor networks on a small pack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import packs
from latentseg.backbones.compact import CompactBackbone, phrase_condition
from latentseg.errors import UsageError
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.network import load
from latentseg.methods.tumor.queries import Queries
from latentseg.methods.tumor.views import Offset, looks_of
from latentseg.text import embed
from latentseg.training.loop import LoopOptions
from latentseg.training.pack import Pack
from latentseg.training.tumor.calibration import (
    Alarms,
    Judges,
    Shown,
    calibrate_organs,
    healthy_scans,
    offset_of,
    organ_scores,
    person_of,
    slices_of,
)
from latentseg.training.tumor.diffugts import AttentionTask, TumorTraining, TumorTrainingOptions, halved
from latentseg.training.tumor.lesion_sites import HostOptions, Hosts, findings_of, region_of, tumor_of
from latentseg.training.tumor.organ_samples import OrganSampleOptions
from latentseg.training.tumor.samples import SampleOptions, Samples

ORGANS = {"kidney_right": "right kidney", "vertebrae": "bone"}
AS_LESION = SampleOptions(findings={"spleen": "spleen lesion"}, organs=ORGANS)  # the spleen plays a tumor
SMALL = TumorConfig(stages=(1, 2, 5), timestep=100, photographs=(), cell=4, pyramid=8)
LOOP = LoopOptions(steps=2, learning_rate=0.05, warmup=1, log_every=1, threads=1)


@pytest.fixture
def packed(tmp_path: Path) -> Pack:
    out: Pack = packs.small_pack(tmp_path / "data")
    return out


def draw(samples: Samples, count: int = 40) -> list:
    return [samples.draw(np.random.default_rng(seed)) for seed in range(count)]


def test_samples_are_what_they_are_said_to_be(packed: Pack) -> None:
    drawn = draw(Samples(AS_LESION, packed))
    for sample in drawn:
        assert sample.image.shape == sample.mask.shape == (64, 64)
        assert sample.image.min() >= -1
        assert sample.image.max() <= 1
        assert sample.modality == "CT"
        Queries(embed)(sample.finding, sample.modality)  # the shipped bank knows every prompt
    ill = sum(sample.mask.any() for sample in drawn)
    assert 0.25 * len(drawn) < ill < 0.9 * len(drawn)
    assert {"spleen lesion"} < {sample.finding for sample in drawn}
    again = draw(Samples(AS_LESION, packed))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(drawn, again, strict=True))


def test_a_finding_that_is_left_out_is_never_seen(packed: Pack) -> None:
    without = AS_LESION.model_copy(update={"without": ("kidney tumor", "liver tumor")})
    drawn = draw(Samples(without, packed), 60)
    assert not {"kidney tumor", "liver tumor"} & {sample.finding for sample in drawn}
    packed.scans[1] = packed.scans[1].model_copy(update={"source": "other", "labels": {1: "liver"}})
    spleen = AS_LESION.model_copy(update={"without": ("spleen lesion",)})
    samples = Samples(spleen, packed)
    first = samples.scan_of == 0
    assert not samples.chance["ill"].any()  # no mask of it
    assert not samples.chance["healthy"][first].any()  # and no slice of a data set that shows it
    assert samples.chance["healthy"][~first].sum() == pytest.approx(1)


def test_mismatched_prompts_find_nothing(packed: Pack) -> None:
    always = AS_LESION.model_copy(update={"mismatched": 1.0, "real": 1.0})
    for sample in draw(Samples(always, packed), 10):
        assert not sample.mask.any()
        assert sample.finding != "spleen lesion"


def test_unknown_names_are_refused(packed: Pack) -> None:
    for options, text in (
        (SampleOptions(findings={"spleen": "wart"}), "no finding 'wart'"),
        (SampleOptions(without=("wart",)), "no finding 'wart'"),
        (SampleOptions(hosts=HostOptions(tissues={"phantom": "toe"})), "no organ 'toe'"),
    ):
        with pytest.raises(UsageError, match=text):
            Samples(options, packed)


def test_tumor_of() -> None:
    assert tumor_of("liver") == "liver tumor"
    assert tumor_of("aorta") == ""
    assert tumor_of("") == ""


def test_halved_by_hand() -> None:
    mask = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    assert halved(mask).tolist() == [[True, False]]


@pytest.fixture
def training(tiny_tumor_model: Path, packed: Pack) -> TumorTraining:
    options = TumorTrainingOptions(
        loop=LOOP,
        organ_loop=LOOP,
        fusion_loop=LOOP,
        network=SMALL,
        samples=AS_LESION,
        organs=OrganSampleOptions(names={"liver": "liver", "kidney_right": "kidney"}),
        count=6,
        organ_count=6,
        fusion_count=2,
        batch=4,
    )
    backbone = CompactBackbone.from_folder(tiny_tumor_model)
    backbone.image_size = 64  # type: ignore[misc]  # of this pack
    stages = FrozenStages(backbone, SMALL)
    return TumorTraining(options, packed, stages, Queries(embed), phrase_condition, {"backbone": "b"})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_changes_its_own_parts_and_not_the_backbone(
    precision: str, training: TumorTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `train`")
    loop = LOOP.model_copy(update={"precision": precision})
    loops = dict.fromkeys(("loop", "organ_loop", "fusion_loop"), loop)
    training = replace(training, options=training.options.model_copy(update=loops))
    monkeypatch.setattr("latentseg.training.loop.plot_log", lambda log: None)
    backbone = training.stages.backbone
    assert isinstance(backbone, CompactBackbone)
    frozen = [*backbone.vae.parameters(), *backbone.unet.parameters()]
    before = [parameter.clone() for parameter in frozen]
    training.run(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert not any(parameter.requires_grad for parameter in frozen)
    trained, facts = load(tmp_path / "run" / "tumor.safetensors")
    assert facts["backbone"] == "b"
    torch.manual_seed(LOOP.seed)
    task = AttentionTask(training.options, training.packed, training.stages, queries=training.queries)
    changed = [
        name
        for name, value in trained.state_dict().items()
        if not torch.allclose(value, task.network.state_dict()[name], atol=2e-3)
    ]
    assert any(name.startswith("attention.") for name in changed)
    assert any(name.startswith("organs.") for name in changed)
    assert any(name.startswith("fusion.") for name in changed)
    assert trained.organs.names == ("kidney", "liver")
    assert (trained.organs.quality < 1).all()  # measured


def test_a_training_may_start_from_trained_weights(
    training: TumorTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `train`")
    monkeypatch.setattr("latentseg.training.loop.plot_log", lambda log: None)
    training.run(tmp_path / "first")
    still = LOOP.model_copy(update={"learning_rate": 1e-12})
    loops = dict.fromkeys(("loop", "organ_loop", "fusion_loop"), still)
    start = tmp_path / "first" / "tumor.safetensors"
    options = training.options.model_copy(update=loops)
    replace(training, options=options, start=start).run(tmp_path / "second")
    first, second = (
        load(tmp_path / run / "tumor.safetensors")[0].state_dict() for run in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first if name.startswith("attention."))


def test_calibration_leaves_few_healthy_samples_above_zero(training: TumorTraining) -> None:
    torch.manual_seed(0)
    options = training.options.model_copy(update={"healthy_count": 6, "false_alarms": 0.2})
    task = AttentionTask(options, training.packed, training.stages, queries=training.queries)
    task.model.eval()
    task.calibrate()
    first = task.network.views.offset.clone()
    assert first.all()
    task.calibrate()  # what is calibrated stays
    assert torch.allclose(task.network.views.offset, first, atol=1e-4)
    scores = torch.linspace(-1, 1, 5)
    assert torch.allclose(task.network.views.lowered(scores, "somewhere"), scores - first[-1], atol=1e-4)


def test_parts_of_the_body_are_learned_from_the_samples(training: TumorTraining, packed: Pack) -> None:
    packed.scans[1] = packed.scans[1].model_copy(update={"source": "brains"})
    views = {packed.scans[0].source: "trunk", "brains": "head"}
    options = training.options.model_copy(update={"views": views, "count": 12})
    task = AttentionTask(options, packed, training.stages, queries=training.queries)
    task.learn_views()
    assert task.network.views.names == ("head", "trunk")
    assert task.network.views.weight.abs().sum() > 0
    unnamed = AttentionTask(training.options, packed, training.stages, queries=training.queries)
    unnamed.learn_views()
    assert unnamed.network.views.names == ()


def test_scans_that_are_kept_are_never_drawn(packed: Pack) -> None:
    kept = f"{packed.scans[0].source}/{packed.scans[0].case}"
    samples = Samples(AS_LESION.model_copy(update={"validation": (kept,)}), packed)
    assert not any(chance[samples.scan_of == 0].any() for chance in samples.chance.values())
    everything = Samples(AS_LESION.model_copy(update={"validation": ("other/*",)}), packed)
    assert any(chance[samples.scan_of == 0].any() for chance in everything.chance.values())


def test_lungs_are_large_air_within_the_body(packed: Pack) -> None:
    image = np.zeros((1, 128, 128), np.uint8)
    image[0, 10:118, 10:118] = 120
    image[0, 30:90, 30:60] = 0  # a lung
    image[0, 30:40, 90:100] = 0  # gas in the bowel
    packed.images = image
    lung = Hosts(HostOptions(), packed, set()).lung(0)
    assert lung[60, 45]
    assert not lung[35, 95]
    assert not lung[5, 5]


def test_regions_and_findings() -> None:
    assert region_of("liver tumor") == "abdomen"
    assert region_of("tumor") == region_of("lymphoma") == ""
    assert "lung nodule" in findings_of({"lung"})
    assert {"tumor", "metastasis"} <= set(findings_of({""}))


def test_steps_learn_a_lesion(training: TumorTraining) -> None:
    torch.manual_seed(0)
    task = AttentionTask(training.options, training.packed, training.stages, queries=training.queries)
    batch = task.batch(np.random.default_rng(0), 0.0)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss, figures = task.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    assert set(figures) == {"pixel", "image", "text", "dice", "accuracy"}


def test_healthy_scans_reach_one_half_for_no_organ_after_calibration(training: TumorTraining) -> None:
    """Scores are lowered by what healthy scans reach, in their modality."""
    task = AttentionTask(training.options, training.packed, training.stages, queries=training.queries)
    network, stages, samples = task.network.eval(), training.stages, task.samples
    assert network.organs.classify is not None
    with torch.no_grad():
        network.organs.classify.bias[1 + network.organs.names.index("liver")] = 100  # the liver is everywhere
    none = Alarms(0.0, 0.0)
    judges = Judges(network, stages, training.queries)
    before = calibrate_organs(judges, samples, views={"phantom": "trunk"}, alarms=none)
    assert set(network.views.by_organ) == set(before) == {"liver CT"}
    for scan, was in zip(healthy_scans(samples, {"phantom"}), before["liver CT"], strict=True):
        slices = slices_of(samples, scan)
        found = organ_scores(judges, slices, {"liver": None})
        assert found["liver"] == pytest.approx(was.scores)
        assert was.looks == looks_of(len(slices.images), slices.step_mm)
        lowered = network.views.lowered(torch.tensor(found["liver"]), "abdomen", "liver CT", looks=was.looks)
        assert float(lowered.max()) <= 0.01


def test_scans_that_are_kept_set_the_scores(packed: Pack) -> None:
    source = packed.scans[0].source
    kept = AS_LESION.model_copy(update={"findings": {}, "validation": (f"{source}/{packed.scans[0].case}",)})
    assert [scan.case for scan in healthy_scans(Samples(kept, packed), {source})] == [packed.scans[0].case]
    lone = packed.scans[0].model_copy(update={"source": "nih", "case": "PANCREAS_0045-1084", "count": 1})
    assert person_of(lone) == "nih/PANCREAS_0045"
    assert person_of(lone.model_copy(update={"case": "10072_125"})) == "nih/10072"
    assert person_of(packed.scans[0]) == f"{source}/{packed.scans[0].case}"


@pytest.mark.parametrize("looks", [1, 10, 100])
def test_as_few_pictures_as_long_scans_are_suspected(looks: int) -> None:
    """Healthy people differ, and so do their slices: the offset fits one slice and a hundred."""
    rng = np.random.default_rng(0)

    def healthy(count: int) -> list[float]:
        return (rng.normal() + rng.gumbel(size=count)).tolist()

    shown = [Shown(f"scan {n}", healthy(count), count) for n, count in enumerate([30, 50, 80] * 40)]
    offset = offset_of(shown, Alarms(0.1, 0.1))
    passing = np.mean([max(healthy(looks)) > offset.at(looks) for _ in range(2000)])
    assert 0.04 < passing < 0.16
    other = offset.at(1) if looks > 1 else offset.at(100)
    assert not 0.04 < np.mean([max(healthy(looks)) > other for _ in range(2000)]) < 0.16


def test_every_person_counts_the_same_and_few_long_scans_say_nothing_of_growth() -> None:
    long = [Shown("a", [0.0] * 19 + [4.0], 20.0)]
    pictures = [Shown("b", [score], 1.0) for score in (1.0, 2.0)]
    assert offset_of([*long, *pictures], Alarms(0.25, 0.1)) == Offset(2.0)
    assert offset_of([*long, *pictures], Alarms(0.3, 0.1)) == Offset(1.0)
    several = [Shown(str(n), [0.0] * 7 + [top], 8.0) for n, top in enumerate([1.0, 2.0, 3.0, 4.0])]
    grown = offset_of(several, Alarms(0.2, 0.5))
    assert grown.one == 0
    assert grown.at(8) == pytest.approx(2.5, abs=0.02)
    calmer = offset_of([*several, Shown("picture", [5.0], 1.0)], Alarms(0.1, 0.5))
    assert calmer.one == 5
    assert calmer.at(8) == pytest.approx(2.5, abs=0.02)


def test_lesions_grow_in_the_organs_that_are_named_and_are_asked_for_there(packed: Pack) -> None:
    hosts = HostOptions(organs=("liver",), named=1.0)
    options = SampleOptions(organs=ORGANS, hosts=hosts, real=0.0, synthetic=1.0, closer=0.0, mismatched=0.0)
    liver = [s.finding for s in draw(Samples(options, packed)) if s.mask.any()]
    assert set(liver) <= {*findings_of({"liver"}), *findings_of({""})}
    asked = options.model_copy(update={"synthetic": 0.0, "asked": 1.0})
    assert {s.finding for s in draw(Samples(asked, packed), 10)} == {"liver tumor"}


def test_lesions_are_borrowed_of_other_slices_where_any_are_outlined(
    packed: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = HostOptions(organs=("liver",), named=1.0)
    options = SampleOptions(organs=ORGANS, hosts=hosts, real=0.0, synthetic=1.0, borrowed=1.0)
    assert any(s.mask.any() for s in draw(Samples(options, packed))), "drawn, as none is outlined"
    lent = options.model_copy(update={"findings": AS_LESION.findings})
    samples, healthy = Samples(lent, packed), np.zeros(packed.images.shape[1:], bool)
    monkeypatch.setattr("latentseg.training.tumor.samples.add_lesion", None)
    image, host = healthy.astype(np.float32), ~healthy
    masks = [samples._lesion(np.random.default_rng(seed), image, host, None).mask for seed in range(8)]
    assert any(mask.any() for mask in masks)


def test_lesions_in_an_organ_that_is_left_out_have_a_name_of_no_organ(packed: Pack) -> None:
    hosts = HostOptions(organs=("liver",), named=1.0, spreading=0.0)
    options = SampleOptions(
        organs=ORGANS, hosts=hosts, without=("liver tumor",), real=0.0, synthetic=1.0, asked=1.0, at_hosts=1.0
    )
    samples = Samples(options, packed)
    assert {s.finding for s in draw(samples) if s.mask.any()} <= {*findings_of({""})}
    healthy = options.model_copy(update={"synthetic": 0.0})
    assert not {s.finding for s in draw(Samples(healthy, packed))} & {*findings_of({"liver"})}
    drawn = {samples._index(np.random.default_rng(seed)) for seed in range(40)}
    assert all(samples.hosts.named(index, samples._organs(index)) for index in drawn)


def test_training_looks_at_the_organ_and_never_away_from_a_lesion(training: TumorTraining) -> None:
    asked = {"hosts": HostOptions(organs=("liver",), named=1.0), "asked": 1.0, "closer": 0.0, "real": 0.0}
    samples = AS_LESION.model_copy(update=asked)
    options = training.options.model_copy(update={"at_organs": 1.0, "count": 12, "samples": samples})
    task = AttentionTask(options, training.packed, training.stages, queries=training.queries)
    assert task.network.organs.classify is not None
    with torch.no_grad():
        task.network.organs.classify.weight.zero_()
        task.network.organs.classify.bias[:] = torch.tensor([100.0, 0.0, 0.0])  # no organ anywhere
    task._encode(list(range(12)))
    drawn = [task.sample(row) for row in range(12)]
    known = [task.queries(s.finding, s.modality).prompt.organ == "liver" for s in drawn]
    assert any(known)
    for row, (sample, organ) in enumerate(zip(drawn, known, strict=True)):
        lesion = torch.nn.functional.adaptive_max_pool2d(
            torch.from_numpy(task.masks[row])[None].float(), task.away.shape[2:]
        )[0]
        expected = 1 - lesion.numpy() if organ and sample.whole else np.zeros_like(lesion)
        assert np.array_equal(task.away[row, 0], expected)
    batch = task.batch(np.random.default_rng(0), 0.0)
    assert batch.away is not None
    assert batch.away.shape == (4, 1, *task.kept.grid)
