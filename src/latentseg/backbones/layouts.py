"""The folder layouts of the models: how each is recognised, what the model offers, and for which methods.

How a method is built on a model is declared by the methods (`methods/fewshot/load.py`,
`methods/tumor/load.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from latentseg.errors import ModelError

Method = Literal["fewshot", "tumor"]


@dataclass(frozen=True)
class Layout:
    """One kind of folder.

    Attributes:
        name: Of the kind.
        marks: Files or folders that tell it apart, as patterns; one of them is enough.
        dims: Number of spatial dimensions.
        methods: The methods it serves.
        offers: What it has beside an autoencoder: ``text`` conditions of its denoiser, a light ``mask head``.
    """

    name: str
    marks: tuple[str, ...]
    dims: int
    methods: tuple[Method, ...]
    offers: tuple[str, ...] = ()

    def fits(self, folder: Path) -> bool:
        """Whether a folder is of this kind."""
        return any(next(folder.glob(mark), None) is not None for mark in self.marks)


LAYOUTS = (
    Layout("compact", ("autoencoder.json",), 2, ("fewshot", "tumor"), ("text", "mask head")),
    Layout("stable-diffusion", ("vae",), 2, ("fewshot",)),
    Layout("maisi", ("autoencoder_v1.*", "models/autoencoder_v1.*"), 3, ("tumor",)),
)


def layout_of(folder: Path, method: Method) -> Layout:
    """The kind of a model's folder.

    Raises:
        ModelError: A folder of no known kind, or one that does not serve the method.
    """
    found = next((layout for layout in LAYOUTS if layout.fits(folder)), None)
    able = [layout.name for layout in LAYOUTS if method in layout.methods]
    if found is None:
        fix = "give a folder with autoencoder.json, the vae/ of Stable Diffusion, or autoencoder_v1 of MAISI"
        raise ModelError("not a folder of a model that is known here", where=str(folder), fix=fix)
    if method not in found.methods:
        what = {"tumor": "tumors are not segmented", "fewshot": "examples are not understood"}[method]
        raise ModelError(
            f"{what} on a backbone of the kind {found.name} yet",
            where=str(folder),
            fix=f"choose a backbone of the kind {' or '.join(able)}",
        )
    return found
