"""Where networks run: what auto means, what is refused, and that no tensor is made on the wrong device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import latentseg as ls
from latentseg.backbones.device import describe, pick_device, pick_dtype, slices_at_a_time
from latentseg.errors import UsageError

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


def test_slabs_follow_the_memory_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slices_at_a_time(CPU, bytes_each=1 << 40) == 8
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 << 30, 8 << 30))
    cuda = torch.device("cuda")
    assert slices_at_a_time(cuda, bytes_each=100 << 20) == 20
    assert slices_at_a_time(cuda, bytes_each=1) == 64
    assert slices_at_a_time(cuda, bytes_each=1 << 40) == 1


def test_devices_are_described() -> None:
    assert describe(CPU).startswith("cpu, ")
