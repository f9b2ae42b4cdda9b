"""The training as published on a tiny folder in Stable Diffusion's layout: rates, memory, layouts, errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from helpers.sd_folders import save_dinov2, save_stable_diffusion
from latentseg.errors import InputError, MemoryLimitError, ModelError, UsageError
from latentseg.methods.fewshot.load import Request, on_stable_diffusion, rule_of
from latentseg.methods.sdfsmis import checkpoint
from latentseg.methods.sdfsmis.condition import ConditionTranslator
from latentseg.methods.sdfsmis.network import FewShotUNet
from latentseg.methods.sdfsmis.released_layout import save_released
from latentseg.phantom.bodies import abdomen
from latentseg.training import loop as loop_module
from latentseg.training.config import read_config
from latentseg.training.fewshot import paper
from latentseg.training.fewshot.frozen import FrozenParts, load_frozen
from latentseg.training.fewshot.mask_head import distilled
from latentseg.training.fewshot.pairs import PairOptions, Pairs
from latentseg.training.fewshot.paper import PaperOptions, PaperTask, exported, load_trained
from latentseg.training.fewshot.scan_pack import LabelledScan, pack_scans, pack_supervoxels
from latentseg.training.log import read_log
from latentseg.training.loop import Loop, LoopOptions
from latentseg.training.optimizer import Group, make_optimizer, rate_factor
from latentseg.training.pack import Pack

CONFIGS = Path(__file__).parents[3] / "configs"
LOOP = LoopOptions(
    steps=2,
    learning_rate=1e-3,
    warmup=0,
    schedule="polynomial",
    ema=0,
    pieces=2,
    exports=False,
    keep_optimizer=False,
    log_every=1,
    precision="fp32",
)
OPTIONS = PaperOptions(loop=LOOP, min_area=40, unseen=())
USABLE = {"a": range(6), "b": range(6)}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    scans = []
    for case, seed in (("a", 1), ("b", 2)):
        body = abdomen(seed=seed, shape=(64, 64, 6))
        scans.append(LabelledScan(case, body.image, body.labels, dict(body.names)))
    return pack_scans(scans, source="phantom", folder=tmp_path_factory.mktemp("pack"), size=256)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = save_stable_diffusion(tmp_path_factory.mktemp("sd"))
    save_dinov2(out / "dinov2")
    return out


@pytest.fixture(scope="module")
def parts(folder: Path) -> FrozenParts:
    return load_frozen(folder, dinov2=folder / "dinov2")


def gradients(task: PaperTask, *, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    batch = task.pairs.draw(np.random.default_rng(0), 1)
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss, _ = task.loss(batch)
    loss.backward()
    found = {n: p.grad.clone() for n, p in task.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_with_checkpointing_equals_one_without(
    packed: Pack, parts: FrozenParts, dtype: torch.dtype
) -> None:
    plain = gradients(PaperTask(OPTIONS, packed, USABLE, parts), dtype=dtype)
    lean = OPTIONS.model_copy(update={"checkpointing": True})
    task = PaperTask(lean, packed, USABLE, parts)
    assert task.model.unet.unet.is_gradient_checkpointing
    loss, found = gradients(task, dtype=dtype)
    assert loss == plain[0]
    assert found.keys() >= plain[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
    assert all(not found[name].any() for name in found.keys() - plain[1].keys())


def test_gradients_reach_the_support_and_the_translator_and_nothing_frozen(
    packed: Pack, parts: FrozenParts
) -> None:
    _, found = gradients(PaperTask(OPTIONS, packed, USABLE, parts), dtype=torch.float32)
    assert found["unet.conv_in_ref.weight"].any()
    assert found["translator.mlp.0.weight"].any()
    assert not any(p.requires_grad or p.grad is not None for p in parts.vae.parameters())


def test_masks_are_shown_as_rgb_and_posteriors_are_sampled(parts: FrozenParts) -> None:
    shown: list[tuple[int, ...]] = []
    handle = parts.vae.encoder.conv_in.register_forward_pre_hook(lambda _, a: shown.append(a[0].shape))
    one, other = (parts.sample(torch.zeros(1, 1, 64, 64)) for _ in range(2))
    handle.remove()
    assert shown == [(1, 3, 64, 64)] * 2
    assert not torch.equal(one, other)


def test_a_run_exports_what_the_released_layout_reads(
    packed: Pack, parts: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "plot_log", lambda log: None)
    options = OPTIONS.model_copy(update={"query_enhancement": "cosine"})
    task = PaperTask(options, packed, USABLE, parts)
    before = task.model.unet.conv_in_ref.weight.detach().clone()
    loop = Loop(task, LOOP, tmp_path)
    assert [g["factor"] for g in loop.optimizer.param_groups] == [1.0, 5.0]
    loop.run()
    assert not torch.equal(before, task.model.unet.conv_in_ref.weight)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (state["optimizer"], state["average"], state["step"]) == (None, None, 2)
    fresh = PaperTask(options, packed, USABLE, parts)
    assert load_trained(fresh.model, tmp_path / "checkpoint.pt", steps=2) == 2
    with pytest.raises(ModelError, match="2 of 3 steps"):
        load_trained(fresh.model, tmp_path / "checkpoint.pt", steps=3)
    with pytest.raises(ModelError, match="no exported weights"):
        exported(tmp_path)
    fresh.export(fresh.model, tmp_path)
    read = checkpoint.load_released(exported(tmp_path))
    assert read.metadata["query_enhancement"] == "cosine"
    names = {"unet", "image_projector", "dinov2", "recipe.json"}
    assert {p.name for p in exported(tmp_path).iterdir()} == names
    for one, other in ((read.network, fresh.model.unet), (read.translator, fresh.model.translator)):
        for name, tensor in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_during_export_leaves_the_weights_before(
    packed: Pack, parts: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    task = PaperTask(OPTIONS, packed, USABLE, parts)
    task.export(task.model, tmp_path)
    kept = (tmp_path / "released" / "unet" / "config.json").read_bytes()
    weights = checkpoint.FewShotWeights(task.model.unet, task.model.translator)

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr("latentseg.methods.sdfsmis.released_layout.save_file", full)
    with pytest.raises(InputError, match="No space left"):
        save_released(tmp_path / "released", weights=weights)
    assert [p.name for p in tmp_path.iterdir()] == ["released"]
    assert (tmp_path / "released" / "unet" / "config.json").read_bytes() == kept


def test_what_a_killed_process_left_is_removed(
    packed: Pack, parts: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "plot_log", lambda log: None)
    (tmp_path / ".4711-released" / "unet").mkdir(parents=True)
    (tmp_path / ".4711-checkpoint.pt").write_bytes(b"half")
    (tmp_path / ".mine-checkpoint.pt").write_bytes(b"not ours to remove")
    task = PaperTask(OPTIONS, packed, USABLE, parts)
    Loop(task, LOOP, tmp_path).save()
    task.export(task.model, tmp_path)
    assert {p.name for p in tmp_path.glob(".*")} == {".mine-checkpoint.pt"}
    assert exported(tmp_path) == tmp_path / "released"


def test_a_disk_that_fills_keeps_the_checkpoint_before(
    packed: Pack, parts: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"before")
    loop = Loop(PaperTask(OPTIONS, packed, USABLE, parts), LOOP, tmp_path)

    def full(*_: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="the one before is kept"):
        loop.save()
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"before"
    assert not list(tmp_path.glob(".*"))


def test_too_little_memory_is_said_before_the_start(
    packed: Pack, parts: FrozenParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "free_bytes", lambda device: 1000)
    with pytest.raises(MemoryLimitError, match="adamw8bit"):
        PaperTask(OPTIONS, packed, USABLE, parts).to(torch.device("cpu"))


def test_eight_bit_moments_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.optim", None)
    groups = [Group([torch.nn.Parameter(torch.zeros(1))])]
    with pytest.raises(UsageError, match="needs the package bitsandbytes"):
        make_optimizer("adamw8bit", groups=groups, learning_rate=1.0, weight_decay=0.0)


def test_the_polynomial_ends_at_a_ten_thousandth() -> None:
    rates = [rate_factor(n, steps=100, warmup=0, schedule="polynomial") for n in (0, 50, 100)]
    assert rates == pytest.approx([1.0, 0.50005, 1e-4])


def test_wrong_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load DINOv2"):
        load_frozen(folder, dinov2=tmp_path)
    with pytest.raises(ModelError, match="dinov2-base"):
        load_frozen(folder)
    with pytest.raises(ModelError, match="not a folder of a model"):
        load_frozen(tmp_path)
    other = save_stable_diffusion(tmp_path / "inpainting", channels=9)
    with pytest.raises(ModelError, match="9 input channels"):
        load_frozen(other, dinov2=folder / "dinov2")
    wide = load_frozen(save_stable_diffusion(tmp_path / "wide", width=16), dinov2=folder / "dinov2")
    assert paper.PaperModel(wide).unet.conv_in.in_channels == 8


def test_pairs_are_neighbors_that_may_be_shown(packed: Pack) -> None:
    usable = {"a": [0, 1, 4]}
    pairs = Pairs(packed, usable, PairOptions("labels", min_area=40, augment=False))
    assert [{n for at in places.values() for n in at} for places in pairs.places] == [{0}]
    batch = pairs.draw(np.random.default_rng(0), 3)
    assert batch.support_images.shape == (3, 1, 256, 256)
    assert (batch.support_masks.sum((1, 2)) > 0).all()
    assert not torch.equal(batch.support_images, batch.query_images)
    with pytest.raises(InputError, match="no labels of 40 pixels in two adjacent"):
        Pairs(packed, {"a": [0, 2]}, PairOptions("labels", min_area=40))
    with pytest.raises(InputError, match="no supervoxels"):
        Pairs(packed, usable, PairOptions("supervoxels"))


def test_an_unseen_structure_is_never_shown(packed: Pack) -> None:
    names = packed.scans[0].labels
    pairs = Pairs(packed, USABLE, PairOptions("labels", unseen=("liver",), min_area=40))
    assert "liver" in names.values()
    assert all(names[label] != "liver" for places in pairs.places for label in places)


def test_augmentation_is_a_function_of_the_generator(packed: Pack) -> None:
    pairs = Pairs(packed, USABLE, PairOptions("labels", min_area=40))
    one, same, other = (pairs.draw(np.random.default_rng(seed), 2) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one.query_images, other.query_images)
    for images in (one.support_images, one.query_images):
        assert images.min() >= -1.001
        assert images.max() <= 1.001


def test_supervoxels_go_on_after_a_stop(packed: Pack) -> None:
    pytest.importorskip("numba", reason="needs the extra `train`")
    begun = pack_supervoxels(packed, smallest=400)
    assert next(begun) == "a"
    begun.close()
    assert Pack(packed.folder).supervoxels is None
    first = packed.folder / "supervoxels" / "a-400.npy"
    written = first.stat().st_mtime_ns
    assert list(pack_supervoxels(packed, smallest=400)) == ["a", "b"]
    assert first.stat().st_mtime_ns == written
    again = Pack(packed.folder)
    assert again.supervoxels is not None
    assert Pairs(again, USABLE, PairOptions("supervoxels", min_area=40)).places


@pytest.mark.parametrize("name", ["sdfsmis-released", "sdfsmis-paper"])
def test_the_named_configurations(name: str) -> None:
    options = read_config(CONFIGS / f"{name}.yaml", PaperOptions)
    assert options.loop.learning_rate * options.translator_factor == pytest.approx(5e-5)
    assert options.loop.steps * options.loop.pieces * options.batch == 60_000
    assert (options.loop.schedule, options.loop.ema) == ("polynomial", 0)
    released = name.endswith("released")
    assert options.supervision == ("labels" if released else "supervoxels")
    assert options.query_enhancement == ("probability" if released else "cosine")


def test_weights_with_a_prior_or_an_unknown_rule_are_refused(parts: FrozenParts, tmp_path: Path) -> None:
    network = FewShotUNet.from_denoiser(parts.denoiser, prior=3)
    translator = ConditionTranslator(12, 12)
    weights = checkpoint.FewShotWeights(network, translator, {"query_enhancement": "sine"})
    with pytest.raises(InputError, match="no place in the released layout"):
        save_released(tmp_path / "released", weights=weights)
    with pytest.raises(ModelError, match="unknown query enhancement 'sine'"):
        rule_of(weights, where=tmp_path)


def test_half_precision_scales_the_loss(
    packed: Pack, parts: FrozenParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "plot_log", lambda log: None)
    half = LOOP.model_copy(update={"precision": "fp16", "pieces": 1, "prefetch": True, "workers": 2})
    task = PaperTask(OPTIONS.model_copy(update={"loop": half}), packed, USABLE, parts)
    before = task.model.translator.mlp[0].weight.detach().clone()
    loop = Loop(task, half, tmp_path)
    assert loop.scaler.is_enabled()
    loop.run()
    assert loop.step == 2
    assert torch.isfinite(task.model.unet.conv_in.weight).all()
    assert loop.skipped or not torch.equal(before, task.model.translator.mlp[0].weight)


def test_compilation_takes_what_lies_between_the_attentions(packed: Pack, parts: FrozenParts) -> None:
    plain = PaperTask(OPTIONS, packed, USABLE, parts)
    compiled: list[str] = []
    task = PaperTask(OPTIONS, packed, USABLE, parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
        task.model.compile_blocks()
    assert set(compiled) == {"ResnetBlock2D", "FeedForward"}
    assert task.model.state_dict().keys() == plain.model.state_dict().keys()


def test_a_light_decoder_is_distilled_exported_and_used(
    packed: Pack, parts: FrozenParts, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_module, "plot_log", lambda log: None)
    task = PaperTask(OPTIONS, packed, USABLE, parts)
    short = LoopOptions(steps=15, learning_rate=3e-3, warmup=0, ema=0, log_every=5, precision="fp32")
    state = distilled(parts, task.pairs, short, tmp_path / "mask_head")
    losses = [row["loss"] for row in read_log(tmp_path / "mask_head" / "log.jsonl")]
    assert losses[-1] < losses[0]
    again = distilled(parts, task.pairs, short, tmp_path / "mask_head")  # all steps are taken
    assert all(torch.equal(state[name], again[name]) for name in state)
    task.parts = replace(parts, mask_head=state)
    task.export(task.model, tmp_path)
    read = checkpoint.load_released(tmp_path / "released")
    assert all(torch.equal(read.mask_head[name], state[name]) for name in state)
    networks = on_stable_diffusion(Request(folder, tmp_path / "released", torch.device("cpu"), "fp32"))
    assert networks.sdfsmis.mask_head is not None
    decoded = networks.sdfsmis.mask_head(torch.zeros(1, 4, 8, 8))
    assert decoded.shape == (1, 1, 64, 64)
