"""A small patch discriminator, which keeps an autoencoder from blurring texture.

Hinge losses and the adaptive weight are those of Esser et al. 2021 (VQGAN), which latent diffusion models
train their autoencoders with.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Sequential):
    """Scores patches of about 30 px of images ``(B, 1, H, W)``: high where they look real."""

    def __init__(self, width: int = 32) -> None:
        super().__init__(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=1, padding=1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4, stride=1, padding=1),
        )

    def loss(self, real: Tensor, decoded: Tensor) -> Tensor:
        """Hinge loss that trains the discriminator alone."""
        return (F.relu(1 - self(real)) + F.relu(1 + self(decoded.detach()))).mean() / 2

    def realism(self, decoded: Tensor) -> Tensor:
        """Mean score of decoded images, to be raised by the decoder; the discriminator gets no gradient."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        return cast("Tensor", functional_call(self, frozen, (decoded,))).mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight that gives the adversarial loss as much gradient at the last layer as the reconstruction has."""
    pull, push = (
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction, adversarial)
    )
    weight: Tensor = (pull / (push + 1e-4)).clamp(max=1e4)
    return weight.detach()
