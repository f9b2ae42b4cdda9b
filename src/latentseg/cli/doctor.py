"""`latentseg doctor`: is this machine ready, and if not, what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from latentseg import __version__
from latentseg.backbones import registry
from latentseg.cli.output import AsJson, human_bytes, show_json, show_table
from latentseg.errors import LatentsegError

app = typer.Typer()
_MEMORY_WANTED = 3e9  # bytes
_DISK_WANTED = 1e9  # bytes


@dataclass(frozen=True)
class Check:
    """One line of the report; a failed check that is `required` makes the exit code 1."""

    name: str
    ok: bool
    found: str
    required: bool = True


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, torch, device, memory, disk and weights; exit 1 if something needed is missing."""
    checks = list(run_checks())
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        rows = [(_mark(check), check.name, check.found) for check in checks]
        show_table(("", "check", "found"), rows)
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Yield all checks; none of them raises."""
    yield Check("latentseg", True, __version__)
    yield Check("python", sys.version_info >= (3, 11), platform.python_version())
    for check in (_torch, _memory, _disk, _writable):
        yield _guarded(check)
    for name in registry.names():
        yield _weights(name)


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        return Check(check.__name__.strip("_"), False, f"{type(error).__name__}: {error}")


def _torch() -> Check:
    import torch

    threads = torch.get_num_threads()
    device = f"cpu, {threads} thread{'s' * (threads > 1)}"
    if torch.cuda.is_available():
        device = f"cuda, {torch.cuda.get_device_name(0)}"
    elif torch.backends.mps.is_available():
        device = "mps"
    return Check("torch", True, f"{torch.__version__} on {device}")


def _memory() -> Check:
    if not hasattr(os, "sysconf"):
        return Check("memory", True, "not known on this system", required=False)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = f"{human_bytes(total)}, {human_bytes(_MEMORY_WANTED)} advised"
    return Check("memory", total >= _MEMORY_WANTED, found, required=False)


def _disk() -> Check:
    folder = _nearest_existing(registry.home())
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= _DISK_WANTED, f"{human_bytes(free)} free at {folder}", required=False)


def _writable() -> Check:
    folder = registry.home()
    ok = os.access(_nearest_existing(folder), os.W_OK)
    return Check("cache folder", ok, f"{folder} ({'writable' if ok else 'not writable'})", required=False)


def _weights(name: str) -> Check:
    model = registry.info(name)
    embedded = model.kind == "embedded"
    try:
        if not embedded and not registry.is_present(name):
            return Check(f"weights {name}", False, f"not pulled ({model.license})", required=False)
        count = len(registry.verify(name))
    except LatentsegError as error:
        return Check(f"weights {name}", False, str(error))
    return Check(f"weights {name}", True, f"{count} files verified ({model.license})")


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _mark(check: Check) -> str:
    if check.ok:
        return "ok"
    return "FAIL" if check.required else "-"
