"""Segment any structure you can show, in CT and MR, with frozen latent diffusion models.

The public names are imported on first use, so that `import latentseg` stays fast and loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from latentseg.errors import (
    GeometryError,
    InputError,
    Interrupted,
    LatentsegError,
    LatentsegWarning,
    MemoryLimitError,
    ModelError,
    SomeCasesFailed,
    UsageError,
)
from latentseg.version import __version__

if TYPE_CHECKING:
    from latentseg.api import load
    from latentseg.imaging import Volume, read, read_labels
    from latentseg.methods.fewshot.context import SupportContext
    from latentseg.methods.fewshot.support import Support
    from latentseg.methods.results import Segmentation
    from latentseg.serve.notebook import annotate, show

_LAZY = {
    "Evidence": "latentseg.methods.tumor.evidence",
    "Segmentation": "latentseg.methods.results",
    "SegmentOptions": "latentseg.methods.fewshot.parts",
    "Segmenter": "latentseg.methods.base",
    "Support": "latentseg.methods.fewshot.support",
    "SupportContext": "latentseg.methods.fewshot.context",
    "TumorOptions": "latentseg.methods.tumor.options",
    "TumorSegmentation": "latentseg.methods.tumor.evidence",
    "Volume": "latentseg.imaging",
    "annotate": "latentseg.serve.notebook",
    "load": "latentseg.api",
    "read": "latentseg.imaging",
    "read_labels": "latentseg.imaging",
    "show": "latentseg.serve.notebook",
}

__all__ = [
    "Evidence",
    "GeometryError",
    "InputError",
    "Interrupted",
    "LatentsegError",
    "LatentsegWarning",
    "MemoryLimitError",
    "ModelError",
    "SegmentOptions",
    "Segmentation",
    "Segmenter",
    "SomeCasesFailed",
    "Support",
    "SupportContext",
    "TumorOptions",
    "TumorSegmentation",
    "UsageError",
    "Volume",
    "__version__",
    "annotate",
    "load",
    "read",
    "read_labels",
    "show",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _LAZY:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    value: object = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
