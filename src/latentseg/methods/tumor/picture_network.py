"""A second opinion on tumors: a network that looks at the picture alone, beside the attention to texts.

Not of the paper; ours. The first blocks of the network for photographs, trained further, and a decoder. What
it takes for a tumor it has learned from pictures that were varied anew in every step, and it is wrong
elsewhere than the attention maps, so that the mean of both is right more often than either.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from latentseg.backbones.image_features import SHOWN, FeatureNetwork, shown_maps
from latentseg.backbones.weights import reason
from latentseg.errors import ModelError
from latentseg.imaging.files import write_file
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.log_odds import LIMIT
from latentseg.methods.tumor.queries import Query
from latentseg.methods.tumor.told import Told
from latentseg.methods.tumor.views import Offset

FORMAT = "latentseg-picture-1"
LEVELS = 4  # of the network for photographs, on grids of 1/2 to 1/16
FIXED = 3  # blocks that are not trained further, on the finest grids
GROUPS = 8  # of channels that are normalized together
DROPPED = 0.15  # of the channels on the coarsest grid, while it is trained
SHOWING = 0.2  # chance of an organ anywhere in a slice, from which on it is looked at
UNSURE = -2.0  # log-odds in an organ, from which on the mirror image is looked at as well
RARE = -3.0  # log-odds before it is trained, as tumors are small


class PictureConfig(BaseModel):
    """How a picture network counts beside the attention maps.

    Attributes:
        findings: What it is asked for in suspicious slices, with its kinds, to be in the mean with the maps.
        organs: Of whose lesions it tells in all slices, instead of what tells organs; how much that counts is
            said by :class:`~latentseg.methods.tumor.features.TumorConfig`.
        edge: Pixels of what it sees.
        widths: Channels of its decoder, from the finest grid to the coarsest.
        share: Of its log-odds in the mean with the maps.
        soft: Where that is cut, instead of the factor and the shift of
            :class:`~latentseg.methods.tumor.features.TumorConfig`.
        offset: What the peak of that mean in a slice is lowered by to be its score, as of
            :class:`~latentseg.methods.tumor.views.Offset`; without it scores stay those of the maps.
        peak: Share of the pixels of a slice that pass its peak: of a head 6 mm across, left as it is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    findings: tuple[str, ...] = ("brain tumor",)
    organs: tuple[str, ...] = ()
    edge: Annotated[int, Field(gt=0)] = 160
    widths: tuple[int, int, int, int] = (24, 48, 64, 128)
    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    soft: tuple[float, float] | None = None
    offset: Offset | None = None
    peak: Annotated[float, Field(gt=0, lt=1)] = 0.001


class PictureNetwork(nn.Module):
    """Log-odds of a tumor, of pictures of heads.

    Args:
        photographs: Whose first blocks it starts from.
        config: See there.
    """

    def __init__(self, photographs: FeatureNetwork, config: PictureConfig) -> None:
        super().__init__()
        self.config = config
        blocks = photographs.blocks[: SHOWN[LEVELS - 1] + 1]
        self.stem, self.blocks = copy.deepcopy(photographs.stem), copy.deepcopy(blocks)
        self.blocks[FIXED:].requires_grad_(True)
        *skips, top = photographs.channels[:LEVELS]
        *finer, widest = config.widths
        self.context = nn.ModuleList(
            [_convolution(top, widest), _convolution(widest, widest, 2), _convolution(widest, widest, 4)]
        )
        self.dropped = nn.Dropout2d(DROPPED)
        levels = zip([widest, *finer[:0:-1]], skips[::-1], finer[::-1], strict=True)
        self.up = nn.ModuleList(
            nn.Sequential(
                _convolution(below + skip, own), *([_convolution(own, own)] if own > finer[0] else [])
            )
            for below, skip, own in levels
        )
        self.out = nn.ModuleList(nn.Conv2d(own, 1, 1) for own in finer[::-1])
        for layer in self.out:
            nn.init.constant_(layer.bias, RARE)  # type: ignore[arg-type] # a tensor, which the stubs do not know
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # the stubs of torch lack it

    def forward(self, images: Tensor) -> list[Tensor]:
        """Log-odds ``[(B, 1, h, w)]`` of images ``(B, 1, H, W)`` in [-1, 1], on grids from 1/8 to 1/2."""
        with torch.autocast(images.device.type, enabled=False):
            *skips, x = self._encoded(images)
        first, *wider = self.context
        x = first(x)
        for layer in wider:
            x = x + layer(x)
        x, found = self.dropped(x), []
        for skip, merge, out in zip(skips[::-1], self.up, self.out, strict=True):
            x = merge(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], 1))
            found.append(out(x))
        return found

    def _encoded(self, images: Tensor) -> Sequence[Tensor]:
        """Features on each grid, finest first; in single precision, in which a CPU trains them faster."""
        seen = F.interpolate(
            images, size=(self.config.edge, self.config.edge), mode="bilinear", antialias=True
        )
        grey = seen.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return shown_maps(self.blocks, self.stem(grey))

    def knows(self, query: Query) -> bool:
        """Whether a prompt asks for what counts in its maps."""
        concept = query.prompt.concept
        return concept is not None and not {concept.name, concept.broader}.isdisjoint(self.config.findings)

    def offset_of(self, query: Query) -> Offset | None:
        """What peaks are lowered by for a prompt; None where it has no say in which slices are suspected."""
        return self.config.offset if self.knows(query) else None

    @torch.no_grad()
    def log_odds(self, images: Tensor, *, slab: int = 16) -> Tensor:
        """Log-odds ``(S, 1, H, W)`` on the CPU, the mean over pictures and their mirror images."""
        mirrored = self.unmirrored(images.flip(-1), slab=slab).flip(-1)
        return (self.unmirrored(images, slab=slab) + mirrored) / 2

    @torch.no_grad()
    def unmirrored(self, images: Tensor, *, slab: int = 16) -> Tensor:
        """The same of pictures alone, which takes half of the time."""
        place, grid = next(self.parameters()).device, images.shape[2:]
        found = [self(some.to(place))[-1].cpu() for some in images.split(slab)]
        return F.interpolate(torch.cat(found), size=grid, mode="bilinear")

    def told_of(self, told: Told, images: Tensor, names: Sequence[str]) -> Told:
        """What is told of slices ``(S, 1, H, W)``; of its organs, lesions are what it sees of them.

        The mirror image is looked at where anything is seen in these organs.

        Args:
            told: By what tells organs.
            images: In [-1, 1].
            names: Of all organs that are told.
        """
        if not self.config.organs or told.lesions is None:
            return told
        places = [1 + names.index(organ) for organ in self.config.organs]
        shown = (told.organs[:, places] > SHOWING).flatten(1).any(1)
        if not bool(shown.any()):
            return told
        lesions, seen = told.lesions.clone(), images[shown]
        found = self.unmirrored(seen)
        inside = resized(told.organs[shown][:, places].amax(1, keepdim=True), found.shape[2:]) > SHOWING
        anything = found.masked_fill(~inside, -LIMIT).flatten(1).amax(1) > UNSURE
        if bool(anything.any()):
            found[anything] = self.log_odds(seen[anything])
        lesions[shown] = resized(found, lesions.shape[2:])
        return told._replace(apart=dict.fromkeys(self.config.organs, lesions))


def _convolution(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.GroupNorm(GROUPS, outputs), nn.ReLU(inplace=True))


def file_of_picture(part: str) -> str:
    """Name of the file of the picture network beside the networks of a region."""
    return f"tumor-{part}-picture.safetensors"


def save_picture(path: Path, network: PictureNetwork) -> None:
    """Write a picture network in half precision; whole or not at all."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in network.state_dict().items()}
    write_file(path, serialize(tensors, {"format": FORMAT, "config": network.config.model_dump_json()}))


def read_picture(path: Path, photographs: FeatureNetwork) -> PictureNetwork:
    """Read what :func:`save_picture` wrote, frozen and in single precision.

    Raises:
        ModelError: The file is missing, damaged, or of another kind.
    """
    fix = "download or train the weights again"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise ModelError("not a picture network of latentseg", where=str(path), fix=fix)
        network = PictureNetwork(photographs, PictureConfig.model_validate_json(metadata["config"]))
        network.load_state_dict(state)
    except (OSError, SafetensorError, ValidationError, KeyError, RuntimeError) as error:
        raise ModelError(f"unreadable weights ({reason(error)})", where=str(path), fix=fix) from error
    return network.eval().requires_grad_(False)
