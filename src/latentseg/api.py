"""The entry point of the Python interface: :func:`load` returns a segmenter that is ready to use.

There are two methods: ``"fewshot"`` segments what examples with masks show, ``"tumor"`` segments what a text
prompt names. Both run on frozen latent diffusion models, the backbones. A method is loaded in three steps:
the registry finds the folder of the backbone, the layout of that folder tells which model it is, and the
method's builder for this model reads the weights. Nothing is downloaded here; ``latentseg models pull`` does
that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from latentseg.errors import UsageError

if TYPE_CHECKING:
    from latentseg.backbones.device import Device, Precision
    from latentseg.methods.fewshot.parts import SegmentOptions
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter
    from latentseg.methods.tumor.options import TumorOptions
    from latentseg.methods.tumor.segmenter import TumorSegmenter

METHODS = ("fewshot", "tumor")


@overload
def load(
    method: Literal["fewshot"] = "fewshot",
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: SegmentOptions | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    offline: bool | None = None,
    precision: Precision | None = None,
) -> FewShotSegmenter: ...


@overload
def load(
    method: Literal["tumor"],
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: TumorOptions | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    offline: bool | None = None,
    precision: Precision | None = None,
) -> TumorSegmenter: ...


def load(  # noqa: PLR0913 - the front door: everything that can be chosen
    method: str = "fewshot",
    *,
    backbone: str | Path = "compact",
    weights: str | Path | None = None,
    options: SegmentOptions | TumorOptions | None = None,
    device: Device = "auto",
    dtype: Precision = "auto",
    offline: bool | None = None,
    precision: Precision | None = None,
) -> FewShotSegmenter | TumorSegmenter:
    """Load a method with its weights on a backbone; nothing is downloaded.

    Args:
        method: ``"fewshot"``, segmentation from examples (SD-FSMIS), or ``"tumor"``, from a text prompt
            (DiffuGTS).
        backbone: A name of ``latentseg models list``, or a folder in that model's layout.
        weights: Trained weights of the method where the backbone brings none: for SD-FSMIS on Stable
            Diffusion a checkpoint folder in the released layout (``unet/`` and ``image_projector/``), else a
            file that ``latentseg train`` wrote; of tumors a folder too, with files named as the backbone's.
        options: :class:`latentseg.SegmentOptions` or :class:`latentseg.TumorOptions`.
        device: ``"cuda"``, ``"cuda:1"``, ``"mps"`` or ``"cpu"``; ``"auto"`` takes the first of them that is
            available. Noise is drawn on the CPU, so that all devices give the same result.
        dtype: Number format of Stable Diffusion and MAISI: ``"fp32"`` or ``"bf16"``; ``"auto"`` takes bf16
            where the hardware supports it. The compact model always computes in fp32.
        offline: Whether the network may not be used; this changes only what the error advises when weights
            are missing.
        precision: The older name of ``dtype``.

    Raises:
        UsageError: An unknown method, device or type.
        ModelError: Unknown backbone, or weights that are missing, corrupt or do not fit.

    Example:
        >>> segmenter = load("fewshot", device="cpu")
        >>> segmenter(read("ct.nii.gz"), Support.from_files([("a.nii.gz", "a_mask.nii.gz")], name="liver"))
    """
    if method not in METHODS:
        raise UsageError(f"unknown method {method!r}", fix=f"choose from {', '.join(METHODS)}")
    from latentseg.backbones import registry
    from latentseg.backbones.device import pick_device, pick_dtype
    from latentseg.backbones.layouts import layout_of

    place, dtype = pick_device(device), precision or dtype
    numbers = pick_dtype(dtype, place)
    folder = registry.resolve(backbone, offline=offline)
    trained = Path(weights) if weights else None
    if method == "tumor":
        from latentseg.methods.tumor.load import BUILDERS as ON_TUMORS
        from latentseg.methods.tumor.segmenter import TumorSegmenter

        build = ON_TUMORS[layout_of(folder, "tumor").name]
        return TumorSegmenter(build(folder, trained, place, numbers), options=options)  # type: ignore[arg-type]  # overloads
    from latentseg.methods.fewshot.load import BUILDERS, Request
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter

    asked = Request(folder, trained, place, dtype, offline)
    networks = BUILDERS[layout_of(folder, "fewshot").name](asked)
    return FewShotSegmenter(networks, options=options)  # type: ignore[arg-type]  # overloads
