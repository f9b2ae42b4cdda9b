"""The classes of monai that MAISI is made of; without monai, importing this says what to install."""

from __future__ import annotations

from latentseg.errors import ModelError

try:
    import einops  # noqa: F401 - monai's attention needs it and would say so only when it is built
    from monai.apps.generation.maisi.networks.autoencoderkl_maisi import (
        AutoencoderKlMaisi,
        MaisiConvolution,
        MaisiDownsample,
        MaisiGroupNorm3D,
        MaisiResBlock,
        MaisiUpsample,
    )
    from monai.apps.generation.maisi.networks.controlnet_maisi import ControlNetMaisi
    from monai.apps.generation.maisi.networks.diffusion_model_unet_maisi import DiffusionModelUNetMaisi
except ImportError as error:
    what = f"MAISI needs packages that are not installed ({error})"
    raise ModelError(what, where="maisi", fix="run pip install 'latentseg[maisi]'") from error

__all__ = [
    "AutoencoderKlMaisi",
    "ControlNetMaisi",
    "DiffusionModelUNetMaisi",
    "MaisiConvolution",
    "MaisiDownsample",
    "MaisiGroupNorm3D",
    "MaisiResBlock",
    "MaisiUpsample",
]
