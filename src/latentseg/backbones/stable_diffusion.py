"""Stable Diffusion and its relatives: `AutoencoderKL` and `UNet2DConditionModel` of diffusers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import is_accelerate_available
from torch import Tensor, nn

from latentseg.backbones.device import RunOptions
from latentseg.backbones.schedules import Schedule, VariancePreserving
from latentseg.errors import ModelError

AGAIN = "download the weights again"
_HOOKS = threading.Lock()  # hooks belong to the module: one reader of features at a time


class Diffusers2D(nn.Module):
    """A frozen 2-D latent diffusion model made of diffusers' classes.

    Args:
        vae: The autoencoder.
        unet: The denoiser, conditioned by cross-attention.
        name: Name in the registry.
        image_size: Edge of the slices in pixels.
        options: Precision, device, memory format.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        *,
        name: str = "diffusers-2d",
        image_size: int = 256,
        options: RunOptions | None = None,
    ) -> None:
        super().__init__()
        self.options = options or RunOptions()
        self.name = name
        self.dims = 2
        self.image_size = image_size
        self.latent_channels = int(vae.config["latent_channels"])
        self.downscale = 2 ** (len(vae.config["block_out_channels"]) - 1)
        self.condition_dim = int(unet.config["cross_attention_dim"])
        self.schedule: Schedule = VariancePreserving()
        self.vae: AutoencoderKL = place(vae, self.options)
        self.unet: UNet2DConditionModel = place(unet, self.options)
        self.requires_grad_(requires_grad=False).eval()

    @classmethod
    def from_folder(
        cls, path: str | Path, *, name: str | None = None, options: RunOptions | None = None
    ) -> Diffusers2D:
        """Load the Stable Diffusion layout: ``vae/`` and ``unet/``, each with its configuration.

        Raises:
            ModelError: When a part is missing, corrupt, or does not fit its own configuration.
        """
        folder = Path(path)
        vae = load_part(AutoencoderKL, folder / "vae")
        unet = load_part(UNet2DConditionModel, folder / "unet")
        backbone = cls(vae, unet, name=name or folder.name, options=options)
        backbone.schedule = read_schedule(folder / "scheduler" / "scheduler_config.json")
        return backbone

    @property
    def device(self) -> torch.device:
        """Where the networks are; inputs follow them."""
        return torch.device(self.options.device)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled posterior mean ``(B, C, h, w)`` of images ``(B, 1, H, W)`` in [-1, 1]."""
        scale, shift = self._scaling()
        return self._in_slabs(lambda x: (self._posterior_mean(x) - shift) * scale, images)

    @torch.no_grad()
    def encode_with_features(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Latents and the encoder's stages, finest grid first, from one pass."""
        latents, slabs = [], []
        for slab in images.split(self.options.slab):
            with _HOOKS, captured([*self.vae.encoder.down_blocks, self.vae.encoder.mid_block]) as outputs:
                latents.append(self.encode(slab))
            slabs.append(sorted(outputs, key=lambda f: -f.shape[-1]))
        return torch.cat(latents), [torch.cat(stage) for stage in zip(*slabs, strict=True)]

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Grey images ``(B, 1, H, W)``, the mean of the decoded channels, not clipped."""
        return self._in_slabs(lambda z: self._decode(z).mean(1, keepdim=True), latents)

    @torch.no_grad()
    def decode_rgb(self, latents: Tensor) -> Tensor:
        """All decoded channels, ``(B, 3, H, W)`` for a model of RGB images, not clipped."""
        return self._in_slabs(self._decode, latents)

    @torch.no_grad()
    def features(self, images: Tensor, *, timestep: int | None = None) -> list[Tensor]:
        """Stages of the encoder and, at a timestep, of the denoiser's decoder; finest grid first."""
        slabs = [self._features(slab, timestep) for slab in images.split(self.options.slab)]
        stages = [torch.cat(stage) for stage in zip(*slabs, strict=True)]
        return sorted(stages, key=lambda f: -f.shape[-1])

    @torch.no_grad()
    def denoise(self, latents: Tensor, timestep: int, condition: Tensor) -> Tensor:
        """One evaluation of the UNet: ``(B, C, h, w)`` and tokens ``(B | 1, T, D)`` to ``(B, C, h, w)``."""
        tokens = condition.to(self.options.device, self.options.dtype).expand(len(latents), -1, -1)
        out: Tensor = self.unet(self._cast(latents), timestep, tokens, return_dict=False)[0]
        return out.float()

    def _features(self, images: Tensor, timestep: int | None) -> list[Tensor]:
        stages: list[nn.Module] = [*self.vae.encoder.down_blocks, self.vae.encoder.mid_block]
        with _HOOKS, captured([*stages, *self.unet.up_blocks]) as outputs:
            latents = self.encode(images)
            if timestep is not None:
                self.denoise(latents, timestep, torch.zeros(1, 1, self.condition_dim))
        return outputs

    def _posterior_mean(self, images: Tensor) -> Tensor:
        channels = int(self.vae.config["in_channels"])
        x = images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images
        mean: Tensor = self.vae.encode(x).latent_dist.mean
        return mean.float()

    def _decode(self, latents: Tensor) -> Tensor:
        scale, shift = self._scaling()
        out: Tensor = self.vae.decode(self._cast(latents.float() / scale + shift)).sample
        return out.float()

    def _scaling(self) -> tuple[float, float]:
        return float(self.vae.config["scaling_factor"]), float(self.vae.config.get("shift_factor") or 0.0)

    def _cast(self, x: Tensor) -> Tensor:
        layout = torch.channels_last if self.options.channels_last else torch.contiguous_format
        return x.to(self.options.device, self.options.dtype, memory_format=layout)

    def _in_slabs(self, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([run(self._cast(slab)) for slab in x.split(self.options.slab)])


def place(model: Any, options: RunOptions) -> Any:
    """Cast and move a 2-D model as the options say, in place."""
    layout = torch.channels_last if options.channels_last else torch.contiguous_format
    move: Any = nn.Module.to  # the libraries' own method logs that it would rather do this while loading
    return move(model, device=options.device, dtype=options.dtype, memory_format=layout)


def read_schedule(path: Path) -> Schedule:
    """The schedule of a folder's scheduler configuration; that of Stable Diffusion 1.5 where there is none.

    Raises:
        ModelError: A schedule, or a prediction, that is not known here.
    """
    if not path.is_file():
        return VariancePreserving()
    try:
        return VariancePreserving.from_config(json.loads(path.read_text(encoding="utf-8")))
    except (KeyError, ValueError) as error:
        raise ModelError(f"unknown noise schedule ({error})", where=str(path), fix=AGAIN) from error


def load_part(kind: Any, folder: Path) -> Any:
    """Load one diffusers model from its folder, never from the network.

    Raises:
        ModelError: When the folder is not there, or its weights are missing, corrupt or incomplete.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(
            "no config.json", where=str(folder), fix="point to a folder in the Stable Diffusion layout"
        )
    files = [f.name for f in folder.glob("diffusion_pytorch_model*.safetensors")]
    half_only = bool(files) and all(".fp16." in name for name in files)
    try:
        model, info = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            variant="fp16" if half_only else None,
            low_cpu_mem_usage=is_accelerate_available(),
            output_loading_info=True,
        )
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError, SafetensorError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"cannot load weights ({reason})", where=str(folder), fix=AGAIN) from error
    if info["missing_keys"]:
        what = f"{len(info['missing_keys'])} tensors are missing, such as {min(info['missing_keys'])}"
        raise ModelError(what, where=str(folder), fix=AGAIN)
    return model


@contextmanager
def captured(modules: list[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect what the modules return while the context is open, in the order in which they run."""
    outputs: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output).float())

    handles = [module.register_forward_hook(keep) for module in modules]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
