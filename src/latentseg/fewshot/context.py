"""A support after its one pass through the networks: all that queries need, kept in memory or on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from torch import Tensor

from latentseg.errors import ModelError
from latentseg.fewshot.cache import SupportCache
from latentseg.fewshot.compat import Compat
from latentseg.fewshot.presence import SupportAxis
from latentseg.fewshot.prior import MatchingSupport
from latentseg.imaging.files import written_whole

SupportMode = Literal["nearest", "joint"]
FORMAT = "latentseg-support-2"


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
    axes: tuple[SupportAxis, ...] = ()

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {f"cache/{name}": t for name, t in self.cache.tensors().items()}
        tensors |= {"fg": self.fg, "bg": self.bg, "signature": self.signature}
        if self.matching:
            tensors |= {
                "matching/features": self.matching.features.half(),
                "matching/masks": self.matching.masks,
                "matching/places": self.matching.places,
            }
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
            compared = [tensors.get(f"matching/{field}") for field in ("features", "masks", "places")]
            known = [t.float() for t in compared if t is not None]
            matching = MatchingSupport(*known) if known else None
            axes = axes_of({n.removeprefix("axes/"): t for n, t in tensors.items() if n.startswith("axes/")})
            return cls(cache=SupportCache.from_tensors(cache), matching=matching, axes=axes, **rest, **about)
        except Exception as error:  # safetensors, JSON and key errors alike
            raise ModelError(
                f"not a readable support context ({error})", where=str(path), fix="encode the support again"
            ) from error


def axes_of(tensors: dict[str, Tensor]) -> tuple[SupportAxis, ...]:
    """Axes of tensors named ``<number>/<field>``."""
    count = len({name.split("/")[0] for name in tensors})
    fields = ("looks", "holds", "region", "step_mm", "marked")
    return tuple(SupportAxis(*(tensors[f"{number}/{field}"] for field in fields)) for number in range(count))
