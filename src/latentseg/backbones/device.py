"""How networks are run: the device, the number format, and how many slices are computed at a time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

from latentseg.errors import UsageError

Device = str
"""``auto``, or what torch calls a device: ``cuda``, ``cuda:1``, ``mps``, ``cpu``."""

Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS = ("auto", "fp32", "bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_CGROUP = Path("/sys/fs/cgroup")
SHARE = 0.5  # of the free memory of a device that one slab may take


@dataclass(frozen=True)
class RunOptions:
    """How a model is placed and run.

    Attributes:
        dtype: Of the weights and of the arithmetic; results are float32 whatever it is.
        device: Where the model is.
        channels_last: Memory format of weights and images; faster on CPUs and on tensor cores.
        slab: Slices that go through the autoencoder at a time. Peak memory grows with this and not with the
            number of slices.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    channels_last: bool = True
    slab: int = 4


def pick_device(asked: Device = "auto") -> torch.device:
    """The device that is asked for; ``auto`` takes cuda, mps and cpu in this order, as far as they are there.

    Raises:
        UsageError: A device that torch does not know, or that this machine or this torch does not have.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked == "auto":
        return torch.device(next(name for name, present in there.items() if present))
    fix = f"choose auto, {', '.join(name for name, present in there.items() if present)}"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise UsageError(f"unknown device {asked!r}", fix=fix) from error
    if not there.get(device.type, False):
        raise UsageError(f"there is no device {asked!r} here, or this torch was built without it", fix=fix)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UsageError(f"there is no {asked!r}, the machine has {count} GPU", fix="choose a lower number")
    return device


def pick_dtype(asked: Precision, device: torch.device) -> torch.dtype:
    """The type to compute in; ``auto`` asks the hardware, as emulated bf16 is slower than fp32.

    Raises:
        UsageError: An unknown name.
    """
    if asked not in PRECISIONS:
        raise UsageError(f"unknown precision {asked!r}", fix=f"choose from {', '.join(PRECISIONS)}")
    return fastest_dtype(device) if asked == "auto" else DTYPES[asked]


def fastest_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """Return bfloat16 where the hardware has units for it; a CPU without emulates it five times slower."""
    kind = torch.device(device).type
    if kind == "cpu":
        units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return torch.bfloat16 if units else torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.float32


def slices_at_a_time(device: torch.device, *, bytes_each: int, least: int = 8, most: int = 64) -> int:
    """How many slices go through a network together: more where a GPU has memory for them.

    Args:
        device: Where the network is.
        bytes_each: What a slice takes at the largest moment.
        least: On a CPU, where more slices at a time are no faster.
        most: On any device.
    """
    if device.type != "cuda":
        return least
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(most, int(SHARE * free / bytes_each)))


def free_bytes(device: str = "cpu") -> int:
    """Memory that can still be had: of a GPU, or of this machine and the container that it runs in."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(int(psutil.virtual_memory().available), _free_in_container())


def _free_in_container() -> int:
    """What the container may still take; its file cache can be given back."""
    try:
        limit, used = (
            int((_CGROUP / f"memory.{name}").read_text(encoding="ascii")) for name in ("max", "current")
        )
        lines = (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cache = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return sys.maxsize
    return max(limit - used + cache, 0)


def describe(device: torch.device) -> str:
    """A phrase for people: ``cuda, NVIDIA A100``, ``mps`` or ``cpu, 8 threads``."""
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu, {threads} thread{'s' * (threads > 1)}"
    return str(device)
