"""From an image and its pseudo-healthy version to a mask: pixel residual, feature residual, combination.

Known secondhand is ``R = b1 P + b2 F`` with ``b1 = b2 = 0.5`` and Otsu's threshold. We deviate in three
points:

* The pixel residual may compare two *decoded* images, which cancels the error of the autoencoder; the
  secondhand variant compares the image itself with the decoded one.
* The feature residual is the drop of the abnormal probability, or the secondhand projection, with a projector
  that is trained.
* Otsu's threshold is computed inside the dilated map only, since it splits any image into two classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from skimage.filters import threshold_otsu
from torch import Tensor, nn

BINS = 256


@dataclass(frozen=True)
class Residuals:
    """What inpainting changed.

    Attributes:
        pixel: ``|decode(z) - decode(z0)|`` or ``|x - decode(z0)|``, ``(B, 1, ...)``, 0 to 2. That the third
            party scales both sides to mean 0 and variance 1 leaves it the same up to a factor.
        feature: Drop of the abnormal probability from the image to its pseudo-healthy version, or the
            positive part of :class:`FeatureProjector`; same shape.
    """

    pixel: Tensor
    feature: Tensor


def residuals(decoded: Tensor, pseudo_healthy: Tensor, before: Tensor, after: Tensor) -> Residuals:
    """Residuals on the grid of the images.

    Args:
        decoded: The image itself or through the autoencoder, ``(B, 1, ...)``.
        pseudo_healthy: The inpainted latents, decoded.
        before: Abnormal probability of the image, ``(B, 1, ...)`` on the same grid.
        after: That of the pseudo-healthy image.
    """
    return Residuals((decoded - pseudo_healthy).abs(), F.relu(before - after))


class FeatureProjector(nn.Module):
    """The feature residual of the paper: what changed in the latents, compared to the abnormal text.

    ``F = cos(W (z - z0), t)`` with ``W`` a linear layer at every position. The third party leaves ``W``
    random; here it is trained (:class:`latentseg.training.tumor.residual_learning.ResidualTask`), as
    "residual learning" says. The paper's own network and loss are not known.

    Args:
        latent_channels: Of ``z``.
        text_dim: Of ``t``.
    """

    def __init__(self, latent_channels: int, text_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(latent_channels, text_dim, bias=False)

    def forward(self, change: Tensor, text: Tensor) -> Tensor:
        """Cosine ``(B, 1, ...)`` of changes ``(B, C, ...)`` of latents and of texts ``(B | 1, D)``."""
        projected = F.normalize(self.project(change.movedim(1, -1)), dim=-1, eps=1e-6)
        said = F.normalize(text, dim=-1).reshape(len(text), *[1] * (change.ndim - 2), -1)
        cosine: Tensor = (projected * said).sum(-1)
        return cosine[:, None]


def weighted_sum(found: Residuals, *, pixel: float = 0.5, feature: float = 0.5) -> Tensor:
    """``b1 P + b2 F`` of residuals that are scaled to [0, 1] by their own maximum in each image."""
    return pixel * _unit(found.pixel) + feature * _unit(found.feature)


def otsu_masks(values: Tensor, inside: Tensor) -> Tensor:
    """Masks ``(B, 1, ...)`` of values above Otsu's threshold, looked for inside alone.

    An item with nothing inside, or with a single value there, has an empty mask.
    """
    masks = torch.zeros_like(inside, dtype=torch.bool)
    for item, (value, region) in enumerate(zip(values, inside.bool(), strict=True)):
        chosen = value[region].cpu().numpy()
        if chosen.size and np.ptp(chosen) > 0:
            half_a_bin = (
                np.ptp(chosen) / BINS / 2
            )  # the library returns the middle of the lower class's last bin
            masks[item] = (value > float(threshold_otsu(chosen, nbins=BINS) + half_a_bin)) & region
    return masks


class Fusion(nn.Module):
    """Learned fusion: what both residuals add to the map's logit, position by position; at first nothing."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, width), nn.GELU(), nn.Linear(width, 1))
        for parameter in self.layers[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, attention: Tensor, found: Residuals) -> Tensor:
        """Logits ``(B, 1, ...)`` of maps ``(B, 1, ...)``."""
        own = attention.clamp(1e-4, 1 - 1e-4).logit()
        evidence = torch.cat([own / 4, found.pixel, _blur(found.pixel), found.feature], 1).movedim(1, -1)
        place = next(self.layers.parameters()).device
        added: Tensor = self.layers(evidence.to(place))
        return own + added.movedim(-1, 1).to(own.device)


def _unit(values: Tensor) -> Tensor:
    largest = values.flatten(1).amax(1).clamp(min=1e-6)
    return values / largest.reshape(-1, *[1] * (values.ndim - 1))


def _blur(values: Tensor, *, radius: int = 3) -> Tensor:
    pool = F.avg_pool2d if values.ndim == 4 else F.avg_pool3d
    return pool(values, 2 * radius + 1, stride=1, padding=radius, count_include_pad=False)
