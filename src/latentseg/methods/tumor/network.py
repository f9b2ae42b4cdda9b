"""Everything of DiffuGTS that is trained, and its file: a few MB beside a frozen backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from latentseg.backbones.weights import reason
from latentseg.errors import ModelError, UsageError
from latentseg.imaging.files import write_file
from latentseg.methods.diffugts.attention_maps import AnomalyAttention
from latentseg.methods.diffugts.residuals import FeatureProjector, Fusion
from latentseg.methods.tumor.features import FrozenStages, TumorConfig
from latentseg.methods.tumor.organs import OrganMaps
from latentseg.methods.tumor.views import Offset, Views

FORMAT, FILE = "latentseg-tumor-5", "tumor.safetensors"
ALONE = {"lung": ("CT",), "head": ("MR",), "abdomen": ("CT",), "kidney": ("CT",)}
"""Organs and regions of the vocabulary that may have networks of their own, and in which modalities."""

WITHIN = {"kidney": "abdomen"}
"""Organs of which a picture network is enough: beside it stand the networks of a region, or those of all."""

AGAIN = "download or train the weights again"


class TumorNetwork(nn.Module):
    """The attention maps, the organs, the fusion of residuals and the view, for the stages of one backbone.

    Args:
        config: What they look at.
        channels: Widths of the stages, those of one grid together, finest grid first.
        dims: Of the backbone.
        views: Parts of the body that are told apart.
        organs: Organs that are told apart.
    """

    def __init__(
        self,
        config: TumorConfig,
        channels: tuple[tuple[int, ...], ...],
        *,
        dims: int = 2,
        views: Sequence[str] = (),
        organs: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config, self.channels, self.dims = config, channels, dims
        self.attention = AnomalyAttention(
            channels, text_dim=config.text_dim, ratio=config.ratio, pyramid=config.pyramid, dims=dims
        )
        if not config.judged:
            self.attention.judge = None
        self.fusion = Fusion()
        width, dim = config.projected, config.text_dim
        self.projector = FeatureProjector(width, dim) if width else None
        self.views = Views(views, channels[-1][-1])
        self.organs = OrganMaps(
            organs,
            channels,
            dims=dims,
            beside=config.beside,
            around=config.around,
            lesions=bool(config.lesions),
        )

    @classmethod
    def for_stages(
        cls, stages: FrozenStages, *, views: Sequence[str] = (), organs: Sequence[str] = ()
    ) -> TumorNetwork:
        """A network with random weights whose widths fit.

        Raises:
            ModelError: Denoiser features are asked for and the backbone has no denoiser.
        """
        dims = stages.backbone.dims
        return cls(stages.config, stages.channels(), dims=dims, views=views, organs=organs)

    @torch.no_grad()
    def projected(self, change: Tensor, text: Tensor) -> Tensor:
        """How abnormal changes of latents ``(B, C, ...)`` are for a text ``(1, D)``, on the CPU.

        Raises:
            UsageError: These weights have no projector.
        """
        if self.projector is None:
            fix = "train them with the paper's network, or take feature='drop'"
            raise UsageError("these tumor weights have no projector of the feature residual", fix=fix)
        place = self.projector.project.weight.device
        cosine: Tensor = self.projector(change.to(place), text.to(place))
        return cosine.cpu()

    def sees(self, organ: str) -> bool:
        """Whether tumors of an organ were trained: of networks that find organs, those with a score set."""
        scored = {key.rpartition(" ")[0] for key in self.views.by_organ}
        return not (self.organs.names and scored) or organ in scored

    @torch.no_grad()
    def distances(
        self, stages: Sequence[Tensor], organ: str, *, field: Sequence[float] | None = None
    ) -> Tensor | None:
        """Distances ``(B, 1, ...)`` from an organ; None where it is not known well enough.

        Args:
            stages: See :class:`OrganMaps`.
            organ: Asked for.
            field: See :meth:`OrganMaps.distances`.
        """
        if organ not in self.organs.trusted:
            return None
        return self.organs.distances(self.organs(stages).softmax(1), organ, field=field)


def save(path: Path, network: TumorNetwork, metadata: dict[str, str]) -> None:
    """Write ``tumor.safetensors``: half precision, the configuration in the metadata; whole or not at all."""
    tensors = {name: t.detach().cpu().half().contiguous() for name, t in network.state_dict().items()}
    facts = {
        "format": FORMAT,
        "config": network.config.model_dump_json(),
        "channels": json.dumps(network.channels),
        "dims": str(network.dims),
        "views": json.dumps(network.views.names),
        "organs": json.dumps(network.organs.names),
        "by_organ": json.dumps(network.views.by_organ),
    }
    write_file(path, serialize(tensors, metadata | facts))


def load(path: Path) -> tuple[TumorNetwork, dict[str, str]]:
    """Read what :func:`save` wrote, frozen and in single precision, with the metadata.

    Raises:
        ModelError: The file is missing, damaged, or of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"unreadable weights ({reason(error)})", where=str(path), fix=AGAIN) from error
    if metadata.get("format") != FORMAT:
        raise ModelError("not tumor weights of latentseg", where=str(path), fix=AGAIN)
    try:
        config = TumorConfig.model_validate_json(metadata["config"])
        channels = tuple(tuple(level) for level in json.loads(metadata["channels"]))
        views, organs = (json.loads(metadata[name]) for name in ("views", "organs"))
        network = TumorNetwork(config, channels, dims=int(metadata["dims"]), views=views, organs=organs)
        network.load_state_dict(state)
        scores = json.loads(metadata.get("by_organ", "{}"))
        network.views.by_organ = {key: Offset(*np.atleast_1d(of).tolist()) for key, of in scores.items()}
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        what = f"the tumor weights do not fit their configuration ({reason(error)})"
        raise ModelError(what, where=str(path), fix=AGAIN) from error
    return network.eval().requires_grad_(False), metadata


def file_alone(part: str) -> str:
    """Name of the file of the networks of an organ or region alone."""
    return f"tumor-{part}.safetensors"


def trained_weights(place: Path) -> tuple[Path, TumorNetwork, dict[str, str]]:
    """The file of trained weights, which is given or lies in a folder, what is in it, and the facts about it.

    Raises:
        ModelError: There is none, or it is damaged.
    """
    path = place / FILE if place.is_dir() else place
    if not path.exists():
        fix = "train them with `latentseg train tumor`, and put them there or give them as weights"
        raise ModelError("this backbone has no tumor weights", where=str(path), fix=fix)
    return path, *load(path)


def check_made_for(facts: Mapping[str, str], backbone: str, *, where: Path) -> None:
    """Refuse weights that were trained on another backbone.

    Raises:
        ModelError: They were.
    """
    made_for = facts.get("backbone", "")
    if made_for and made_for != backbone:
        what = f"these tumor weights were made for another backbone ({made_for})"
        raise ModelError(what, where=str(where), fix="train them again, or take the backbone they came with")


def left_out(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Findings that the training did not see."""
    return tuple(name for name in facts.get("without", "").split(", ") if name)
