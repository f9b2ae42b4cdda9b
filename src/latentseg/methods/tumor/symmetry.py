"""What has no counterpart on the other side of a head: a healthy reference, in the scan, that no map chose.

Not of the paper; ours. A slice of a head is compared with its own mirror image about the best axis, by frozen
features of the network for photographs. A cell is as asymmetric as it differs from the most similar of the
nine cells around its counterpart, since halves never fit exactly. Slices without an axis, sagittal ones, say
nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.backbones.image_features import FeatureNetwork
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.tumor.body_crop import BODY

COMPARED = 2  # of the maps for photographs: 40 channels on a grid of one eighth
PROBED = 32  # pixels along the edge of the slices in which axes are looked for
TILTS = torch.linspace(-20, 20, 21).deg2rad()  # of the axis against the vertical
SHIFTS = torch.linspace(-0.3, 0.3, 31)  # of its middle from the slice's, in half edges
LEAST = 0.5  # correlation with the mirror image below which there is no axis; sagittal slices have 0.2 to 0.4


@torch.no_grad()
def asymmetry(photographs: FeatureNetwork, images: Tensor) -> Tensor:
    """How much more than usual in its slice each position differs from its counterpart.

    Args:
        photographs: Frozen.
        images: Slices of a head ``(S, 1, H, W)`` in [-1, 1].

    Returns:
        ``(S, 1, H, W)``: cosine distances of standardized features, less their median over the body.
    """
    rows = []
    for image in images[:, None]:
        theta, likeness = mirror_axis(image)
        if likeness < LEAST:
            rows.append(torch.zeros_like(image))
            continue
        own, other = (photographs.maps(one)[COMPARED].cpu() for one in (image, mirrored(image, theta)))
        distance = resized(distance_to_nearest(own, other), image.shape[2:])
        rows.append(distance - distance[image > BODY].median())
    return torch.cat(rows)


def distance_to_nearest(own: Tensor, other: Tensor) -> Tensor:
    """Cosine distance ``(1, 1, h, w)`` of features ``(1, C, h, w)`` to the nearest of nine cells."""
    mean, scale = own.mean((2, 3), keepdim=True), own.std((2, 3), keepdim=True) + 1e-4
    own, other = (F.normalize((one - mean) / scale, dim=1) for one in (own, other))
    height, width = own.shape[2:]
    around = F.unfold(F.pad(other, (1, 1, 1, 1), mode="replicate"), 3).view(1, -1, 9, height, width)
    return 1 - (own[:, :, None] * around).sum(1).amax(1, keepdim=True)


def mirrored(images: Tensor, theta: Tensor) -> Tensor:
    """Images ``(N, 1, H, W)`` reflected by ``(N, 2, 3)``."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="border")


def mirror_axis(image: Tensor) -> tuple[Tensor, float]:
    """The reflection ``(1, 2, 3)`` that leaves a slice ``(1, 1, H, W)`` most like itself; the correlation."""
    small = F.adaptive_avg_pool2d(image, PROBED)
    tilts, shifts = torch.meshgrid(TILTS, SHIFTS, indexing="ij")
    for _ in range(2):  # again, finer, around the best
        thetas = reflections(tilts.flatten(), shifts.flatten())
        likeness = correlations(small, mirrored(small.expand(len(thetas), -1, -1, -1), thetas))
        best = int(likeness.argmax())
        tilt, shift = tilts.flatten()[best], shifts.flatten()[best]
        tilts, shifts = torch.meshgrid(tilt + 0.1 * TILTS, shift + 0.1 * SHIFTS, indexing="ij")
    return thetas[best : best + 1], float(likeness[best])


def reflections(tilts: Tensor, shifts: Tensor) -> Tensor:
    """Reflections ``(N, 2, 3)`` for ``affine_grid``, about lines that lean and cross ``(shift, 0)``."""
    cos, sin, none = (2 * tilts).cos(), (2 * tilts).sin(), torch.zeros_like(tilts)
    turn = torch.stack([torch.stack([-cos, sin], -1), torch.stack([sin, cos], -1)], -2)
    through = torch.stack([shifts, none], -1)
    return torch.cat([turn, (through - (turn @ through[..., None])[..., 0])[..., None]], -1)


def correlations(image: Tensor, others: Tensor) -> Tensor:
    """Correlation ``(N,)`` of a slice ``(1, 1, h, w)`` with others, over what is body in either."""
    weight = torch.maximum(image, others).gt(BODY).float()
    weight = weight / weight.sum((1, 2, 3), keepdim=True).clamp(min=1)

    def centered(values: Tensor) -> Tensor:
        return values - (weight * values).sum((1, 2, 3), keepdim=True)

    one, other = centered(image.expand_as(others)), centered(others)
    both, of_one, of_other = (
        (weight * a * b).sum((1, 2, 3)) for a, b in ((one, other), (one, one), (other, other))
    )
    return both / (of_one * of_other).clamp(min=1e-6).sqrt()
