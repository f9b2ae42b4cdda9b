"""A support after its one pass through the networks: all that queries need, kept in memory or on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from torch import Tensor

from latentseg.errors import ModelError
from latentseg.imaging.files import write_file
from latentseg.methods.fewshot.part import Tensors, named
from latentseg.methods.sdfsmis.compat import Compat

SupportMode = Literal["nearest", "joint"]
FORMAT = "latentseg-support-6"
FACTS = ("name", "mode", "model", "flat", "compat")


@dataclass(frozen=True, eq=False)
class SupportContext:
    """One encoded target.

    Attributes:
        name: Name of the target.
        mode: How several support slices are used.
        model: Fingerprint of the weights that encoded it.
        flat: Whether the target was shown in 2-D images alone.
        compat: The rules it was encoded by.
        tensors: What each part of the method needs to know of the examples, under ``part/name``.
    """

    name: str
    mode: SupportMode
    model: str
    flat: bool = False
    compat: Compat = "fixed"
    tensors: Tensors = field(default_factory=dict)

    def of(self, part: str) -> Tensors:
        """What a part needs to know of the examples."""
        return named(self.tensors, part)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save

        about = {fact: getattr(self, fact) for fact in FACTS} | {"format": FORMAT}
        tensors: dict[str, Tensor] = {n: t.detach().cpu().contiguous() for n, t in self.tensors.items()}
        return write_file(Path(path), save(tensors, {"latentseg": json.dumps(about)}))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: The file is missing, damaged, something else, or of another version of latentseg.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["latentseg"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            written_as = about.pop("format")
            if written_as == FORMAT:
                return cls(**about, tensors=tensors)
        except Exception as error:  # safetensors, JSON and key errors alike
            raise ModelError(
                f"not a readable support context ({error})", where=str(path), fix="encode the support again"
            ) from error
        raise ModelError(
            f"this support was encoded by another version of latentseg ({written_as}, not {FORMAT})",
            where=str(path),
            fix="encode it again with `latentseg support encode`",
        )
