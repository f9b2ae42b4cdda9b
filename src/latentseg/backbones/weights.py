"""Weights of our own making on disk: half precision there, single precision here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save
from torch import Tensor, nn

from latentseg.errors import ModelError
from latentseg.imaging.files import write_file

REASON_LENGTH = 160  # characters of a library's message that are worth repeating


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as fp16 safetensors, whole or not at all."""
    half = {name: t.detach().cpu().half().contiguous() for name, t in tensors.items()}
    write_file(path, save(half))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors as float32; integer tensors stay what they are.

    Raises:
        ModelError: The file is missing or damaged.
    """
    try:
        return {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}
    except Exception as error:  # safetensors raises its own, OSError, ValueError and KeyError
        raise ModelError(
            f"the weights cannot be read ({reason(error)})",
            where=str(path),
            fix="train or pull the model again, or reinstall latentseg",
        ) from error


def start_from(module: nn.Module, tensors: Mapping[str, Tensor], *, where: Path) -> None:
    """Copy trained weights into a module that is trained further.

    Raises:
        ModelError: They do not fit.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        fix = "start from weights of this configuration"
        raise ModelError(f"weights do not fit ({reason(error)})", where=str(where), fix=fix) from error


def reason(error: BaseException) -> str:
    """What a library says about its failure, on one line and not too long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 1]}…"
