"""Where networks run: what auto means, what is refused, and that no tensor is made on the wrong device."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

import latentseg as ls
from helpers.placed import AWAY, Placed, WrongDeviceError, send_away, watched
from latentseg.backbones import device
from latentseg.backbones.compact import CompactBackbone
from latentseg.backbones.device import describe, pick_device, pick_dtype, slices_at_a_time
from latentseg.errors import UsageError
from latentseg.phantom.bodies import Phantom

CPU = torch.device("cpu")


def test_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_dtype("fp32", CPU) is torch.float32
    assert pick_dtype("bf16", CPU) is torch.bfloat16
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert pick_dtype("auto", CPU) is dtype
    assert pick_dtype("auto", torch.device("mps")) is torch.float32


def test_auto_takes_the_best_device_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == CPU
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto").type == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert pick_device("auto").type == "cuda"
    assert pick_device("cuda:0").index == 0
    with pytest.raises(UsageError, match=r"no 'cuda:3', the machine has 1 GPU"):
        pick_device("cuda:3")


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"no device 'cuda' here.*Choose auto, .*cpu"):
        ls.load(backbone=tiny_model, device="cuda")
    with pytest.raises(UsageError, match=r"unknown device 'gpu'"):
        ls.load(backbone=tiny_model, device="gpu")
    with pytest.raises(UsageError, match=r"unknown precision 'fp8'"):
        ls.load(backbone=tiny_model, dtype="fp8")  # type: ignore[arg-type]


def test_free_memory_is_what_system_and_container_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 0 < device.free_bytes() <= psutil.virtual_memory().total
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    assert device.free_bytes() == 10_000
    for name, text in {"max": "5000", "current": "2000", "stat": "anon 1\ninactive_file 500\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text, encoding="utf-8")
    assert device.free_bytes() == 3500
    (tmp_path / "memory.max").write_text("max", encoding="utf-8")
    assert device.free_bytes() == 10_000


def test_slabs_follow_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slices_at_a_time(CPU, bytes_each=1 << 40) == 8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 8 << 30))
    cuda = torch.device("cuda")
    assert slices_at_a_time(cuda, bytes_each=100 << 20) == 20
    assert slices_at_a_time(cuda, bytes_each=1) == 64
    assert slices_at_a_time(cuda, bytes_each=1 << 40) == 1


def test_the_compact_model_takes_as_many_slices_as_a_gpu_has_memory_for(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 8 << 30))
    backbone = CompactBackbone.from_folder(tiny_model)
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    assert backbone.to(CPU).slab == 8
    assert backbone.to(torch.device("cuda")).slab == 32


def test_devices_are_described() -> None:
    assert describe(CPU).startswith("cpu, ")


def networks_of(segmenter: object) -> list[torch.nn.Module]:
    """Every network that a segmenter holds."""
    networks = segmenter.networks  # type: ignore[attr-defined]
    backbone = networks.backbone
    held = [backbone.vae, backbone.mask_head]
    if hasattr(networks, "sdfsmis"):
        own = networks.sdfsmis
        return [*held, own.network, own.translator, own.mask_head, networks.matching]
    return [*held, backbone.unet, networks.network, *filter(None, [networks.stages.photographs])]


def test_examples_mix_no_devices(tiny_model: Path, shown: Phantom, searched: Phantom) -> None:
    segmenter = ls.load(backbone=tiny_model, device="cpu")
    liver = ls.Support.from_volumes(shown.image, shown.labels, name="liver", label=1)
    expected = segmenter(searched.image, liver)["liver"]
    segmenter.networks.backbone._device = AWAY
    for network in networks_of(segmenter):
        send_away(network)
    with watched():
        context = segmenter.encode(liver)
        found = segmenter.predict(segmenter.prepare(searched.image), context)
    assert not any(isinstance(tensor, Placed) for tensor in context.tensors.values())
    assert found.presence == pytest.approx(expected.presence, abs=1e-5)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)


def test_prompts_mix_no_devices(tiny_tumor_model: Path, searched: Phantom) -> None:
    options = ls.TumorOptions(min_presence=0.0)
    segmenter = ls.load("tumor", backbone=tiny_tumor_model, device="cpu", options=options)
    expected = segmenter(searched.image, "liver tumor")["liver tumor"]
    segmenter.networks.backbone._device = AWAY
    for network in networks_of(segmenter):
        send_away(network)
    with watched():
        found = segmenter(searched.image, "liver tumor")["liver tumor"]
    assert found.presence == pytest.approx(expected.presence, abs=1e-5)
    np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)


def test_tensors_on_two_devices_are_found() -> None:
    layer = torch.nn.Linear(3, 2)
    send_away(layer)
    with watched():
        there = torch.zeros(1, 3).to(AWAY)
        assert layer(there).device == AWAY
        assert torch.zeros(2, device=AWAY).device == AWAY
        assert there.cpu().device == CPU
        with pytest.raises(WrongDeviceError):
            layer(torch.zeros(1, 3))
        with pytest.raises(WrongDeviceError):
            _ = there + torch.ones(3)
        with pytest.raises(WrongDeviceError):
            _ = torch.ones(1, 3)[there > 1]
        with pytest.raises(WrongDeviceError):
            there.numpy()
