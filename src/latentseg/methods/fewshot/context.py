"""A support after its one pass through the networks: all that queries need, kept in memory or on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from torch import Tensor

from latentseg.errors import ModelError
from latentseg.imaging.files import written_whole
from latentseg.methods.fewshot.along_body import SupportAxis
from latentseg.methods.fewshot.closer_look import CloserSupport
from latentseg.methods.fewshot.matching import MatchingSupport
from latentseg.methods.sdfsmis.cache import SupportCache
from latentseg.methods.sdfsmis.compat import Compat

SupportMode = Literal["nearest", "joint"]
FORMAT = "latentseg-support-3"


@dataclass(frozen=True, eq=False)
class SupportContext:
    """One encoded target.

    Attributes:
        name: Name of the target.
        cache: Keys, values and condition of each layer; one group per shot (``nearest``) or one for all
            (``joint``).
        fg: Foreground prototypes ``(G, C)``.
        bg: Background prototypes ``(G, C)``.
        signature: What each group looks like as a whole, ``(G, D)``, to find the one nearest to a query
            slice.
        mode: How several support slices are used.
        model: Fingerprint of the weights that encoded it.
        flat: Whether the target was shown in 2-D images alone.
        compat: The rules it was encoded by.
        matching: What the matching prior compares queries with, for networks that have one.
        closer: The same of cut-outs, for a closer look.
        axes: The course of each scan of the support along the body, likewise.
    """

    name: str
    cache: SupportCache
    fg: Tensor
    bg: Tensor
    signature: Tensor
    mode: SupportMode
    model: str
    flat: bool = False
    compat: Compat = "fixed"
    matching: MatchingSupport | None = None
    closer: CloserSupport | None = None
    axes: tuple[SupportAxis, ...] = ()

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"cache/{name}": t for name, t in self.cache.tensors().items()}
        tensors |= {"fg": self.fg, "bg": self.bg, "signature": self.signature}
        tensors |= matching_tensors("matching", self.matching)
        if self.closer:
            tensors |= matching_tensors("closer", self.closer.matching) | {"closer/edge": self.closer.edge}
        for number, axis in enumerate(self.axes):
            tensors |= {f"axes/{number}/{field}": t for field, t in vars(axis).items()}
        about = {n: getattr(self, n) for n in ("name", "mode", "model", "flat", "compat")} | {
            "format": FORMAT
        }
        with written_whole(Path(path)) as temporary:
            contiguous = {name: t.contiguous() for name, t in tensors.items()}
            save_file(contiguous, temporary, {"latentseg": json.dumps(about)})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: The file is missing, damaged or something else.
        """
        from safetensors import safe_open

        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["latentseg"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            if about.pop("format") != FORMAT:
                raise KeyError("format")  # one message for all that is not a support
            cache = {n.removeprefix("cache/"): t for n, t in tensors.items() if n.startswith("cache/")}
            rest = {n: tensors[n] for n in ("fg", "bg", "signature")}
            near, matching = (matching_of(part, tensors) for part in ("closer", "matching"))
            closer = CloserSupport(tensors["closer/edge"], near) if near else None
            axes = axes_of({n.removeprefix("axes/"): t for n, t in tensors.items() if n.startswith("axes/")})
            return cls(
                cache=SupportCache.from_tensors(cache),
                matching=matching,
                closer=closer,
                axes=axes,
                **rest,
                **about,
            )
        except Exception as error:  # safetensors, JSON and key errors alike
            raise ModelError(
                f"not a readable support context ({error})", where=str(path), fix="encode the support again"
            ) from error


def matching_tensors(part: str, matching: MatchingSupport | None) -> dict[str, Tensor]:
    """What the prior compares queries with, named for a file."""
    if matching is None:
        return {}
    fields = {"features": matching.features.half(), "masks": matching.masks, "places": matching.places}
    return {f"{part}/{name}": tensor for name, tensor in fields.items()}


def matching_of(part: str, tensors: dict[str, Tensor]) -> MatchingSupport | None:
    """The reverse of :func:`matching_tensors`."""
    if f"{part}/features" not in tensors:
        return None
    return MatchingSupport(*(tensors[f"{part}/{name}"].float() for name in ("features", "masks", "places")))


def axes_of(tensors: dict[str, Tensor]) -> tuple[SupportAxis, ...]:
    """Axes of tensors named ``<number>/<field>``."""
    count = len({name.split("/")[0] for name in tensors})
    fields = ("looks", "holds", "region", "step_mm", "marked")
    return tuple(SupportAxis(*(tensors[f"{number}/{field}"] for field in fields)) for number in range(count))
