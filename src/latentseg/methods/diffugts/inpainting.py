"""Blended latent inpainting: a frozen denoiser fills a hole with what the surroundings let it expect.

At every time step, the surroundings are the noised original and the hole is what the denoiser predicts::

    z_to = m * step(z_t) + (1 - m) * q(z_to | z)

(Blended Latent Diffusion, Avrahami et al. 2023; RePaint, Lugmayr et al. 2022, adds jumps back in time, which
harmonize the two.) When it starts below time 1, the hole keeps some of its content (SDEdit, Meng et al.
2022). After :func:`smooth_fill` this content is a smooth shading, so that few steps are enough and no new
structures appear. A denoiser that was trained to fill holes is given their position and surroundings at every
step, as the inpainting models of Latent Diffusion are (Rombach et al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.backbones.base import Backbone, FillsHoles, hole_context
from latentseg.backbones.sampling import intervals, noise, predict
from latentseg.errors import UsageError

SMALLEST_LEVEL = 2  # pixels of a level that is filled with the mean
RELAXED = 4  # steps that smooth a hole on every level
TENSION = 0.25  # of the surface; 1 is a membrane, 0 a thin plate


@dataclass(frozen=True)
class InpaintingOptions:
    """How holes are filled.

    Attributes:
        steps: Steps of time from ``start`` to 0.
        start: Time at which the hole starts, in (0, 1]; below 1 it keeps some of its content.
        resample: How often each step is taken; from the second time on after a jump back with new noise.
        guidance: Weight of classifier-free guidance; 1 follows the condition alone.
        seed: Of all draws, together with the key of each item.
        slab: Items that go through the denoiser at a time.
    """

    steps: int = 20
    start: float = 1.0
    resample: int = 1
    guidance: float = 1.0
    seed: int = 0
    slab: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.resample < 1:
            what = f"{self.steps} inpainting steps, each taken {self.resample} times"
            raise UsageError(what, fix="take 1 or more of both")
        if not 0 < self.start <= 1:
            raise UsageError(f"inpainting cannot start at time {self.start:g}", fix="take a time in (0, 1]")


def pool_mask(masks: Tensor, downscale: int) -> Tensor:
    """Masks ``(B, 1, ...)`` on the grid of the latents: a cell is in the hole if any of its pixels is.

    The maximum, unlike the nearest pixel, never loses a lesion that is smaller than a cell.
    """
    pool = F.max_pool2d if masks.ndim == 4 else F.max_pool3d
    return pool(masks.float(), downscale)


def smooth_fill(images: Tensor, holes: Tensor) -> Tensor:
    """Fill holes with what is around them, from coarse to fine (push-pull), relaxed on every level.

    What it relaxes to is a spline in tension (Smith and Wessel 1990): a plate goes on with the slope of what
    is around it and overshoots, a membrane is flat.

    Args:
        images: ``(B, C, ...)``.
        holes: ``(B, 1, ...)``, 1 inside. An image that is nothing but a hole becomes its mean.

    Returns:
        ``(B, C, ...)``; outside the holes the images themselves.
    """
    spatial = tuple(range(2, images.ndim))
    hole = holes.bool()
    lost = hole.flatten(1).all(1).reshape(-1, *[1] * (images.ndim - 1))
    images = torch.where(lost, images.mean(spatial, keepdim=True), images)
    hole = hole & ~lost
    weight = (~hole).to(images)
    coarse = (images * weight).sum(spatial, keepdim=True) / weight.sum(spatial, keepdim=True)
    if min(images.shape[2:]) > SMALLEST_LEVEL and bool(hole.any()):
        pool = F.avg_pool2d if images.ndim == 4 else F.avg_pool3d
        share = pool(weight, 2, ceil_mode=True)
        pushed = pool(images * weight, 2, ceil_mode=True) / share.clamp(min=1e-6)
        mode = "bilinear" if images.ndim == 4 else "trilinear"
        coarse = F.interpolate(smooth_fill(pushed, share == 0), size=images.shape[2:], mode=mode)
    filled = torch.where(hole, coarse, images)
    for _ in range(RELAXED):
        once = _blurred(filled)
        plate = 2 * once - _blurred(once)
        filled = torch.where(hole, TENSION * once + (1 - TENSION) * plate, filled)
    return filled


def _blurred(images: Tensor) -> Tensor:
    """Means over cubes of three pixels, borders repeated."""
    pad = F.pad(images, [1, 1] * (images.ndim - 2), mode="replicate")
    return (F.avg_pool2d if images.ndim == 4 else F.avg_pool3d)(pad, 3, stride=1)


def inpaint(
    backbone: Backbone,
    latents: Tensor,
    holes: Tensor,
    condition: Tensor,
    *,
    keys: Sequence[str],
    options: InpaintingOptions | None = None,
) -> Tensor:
    """Fill holes in latents.

    Args:
        backbone: Any backbone with a denoiser.
        latents: Scaled clean latents ``(B, C, ...)``.
        holes: ``(B, 1, ...)`` on the grid of the latents, 1 inside (:func:`pool_mask`).
        condition: Tokens ``(1, T, D)`` for all, or ``(B, T, D)``.
        keys: ``B`` names; the same name and seed give the same content whatever the batch.
        options: Schedule, guidance, seed.

    Returns:
        ``(B, C, ...)``; outside the holes the latents themselves, bit for bit. Items without a hole cost
        nothing.

    Raises:
        UsageError: Latents, holes and keys that do not belong together.
    """
    options = options or InpaintingOptions()
    if holes.shape != (len(latents), 1, *latents.shape[2:]) or len(keys) != len(latents):
        what = f"holes {tuple(holes.shape)} and {len(keys)} keys for latents {tuple(latents.shape)}"
        raise UsageError(what, fix="pool the mask to the grid of the latents; one hole and one key for each")
    filled, holes = latents.clone(), holes.to(latents.device)
    open_items = holes.flatten(1).any(1).nonzero().flatten()
    for start in range(0, len(open_items), options.slab):
        at = open_items[start : start + options.slab]
        tokens = condition if len(condition) == 1 else condition[at]
        names = [keys[int(i)] for i in at]
        filled[at] = _fill(backbone, latents[at], holes[at].bool(), tokens, names, options)
    return filled


def _fill(
    backbone: Backbone,
    clean: Tensor,
    hole: Tensor,
    condition: Tensor,
    keys: Sequence[str],
    options: InpaintingOptions,
) -> Tensor:
    """One slab of :func:`inpaint`; draws are named by item, step and repetition."""
    schedule, shape = backbone.schedule, clean.shape[1:]
    told = isinstance(backbone, FillsHoles) and backbone.fills_holes
    context = hole_context(clean, hole) if told else None

    def draw(what: str) -> Tensor:
        return noise(shape, keys=[f"{key}/{what}" for key in keys], seed=options.seed).to(clean)

    z = schedule.noised(clean, draw("start"), options.start)
    for i, (t, to) in enumerate(intervals(options.steps, start=options.start)):
        for again in range(options.resample):
            if again:  # back to the time before the step, with new noise
                z = schedule.renoised(z, draw(f"back/{i}/{again}"), to, t)
            predicted = predict(backbone, z, t, condition, options.guidance, context=context)
            stepped = schedule.step(z, predicted, t, to)
            known = schedule.noised(clean, draw(f"known/{i}/{again}"), to) if to > 0 else clean
            z = torch.where(hole, stepped, known)
    return z
