"""From an attention map to a mask: dilate, inpaint a pseudo-healthy image, compare, combine.

The steps and their order are known secondhand. The amount of dilation, the start time, the number of steps,
the jumps and the seeds are not known. They are options here, with presets in
:mod:`latentseg.methods.tumor.options`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from latentseg.backbones.base import Backbone
from latentseg.errors import UsageError
from latentseg.methods.diffugts.attention_maps import resized
from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint, pool_mask, smooth_fill
from latentseg.methods.diffugts.reconstructions import PseudoHealthy, reconstructed
from latentseg.methods.diffugts.residuals import Fusion, Residuals, otsu_masks, residuals, weighted_sum

Attend = Callable[[Tensor], Tensor]  # images (B, 1, ...) to their abnormal probability on the same grid


@dataclass(frozen=True)
class RefinementOptions:
    """How a map is refined.

    Attributes:
        fusion: What the mask is made of: ``map``, the attention map alone, with the residuals as evidence for
            the reader; ``learned``, the learned fusion of map and residuals; or ``otsu``, the weighted sum of
            the residuals with Otsu's threshold.
        feature: The feature residual: the ``drop`` of the map's probability, or the ``projected`` change of
            the latents (:class:`~latentseg.methods.diffugts.residuals.FeatureProjector`).
        pixel: What a pseudo-healthy image is compared to: the image itself, as known secondhand, or its
            ``reconstruction``, which cancels the autoencoder's own error and costs a pass through it.
        weights: Of the pixel and the feature residual in that sum.
        inpainting: Steps, start, jumps, guidance, seed.
        seeds: Pseudo-healthy images per slice; their spread is the uncertainty.
        dilate: Pixels by which the map's mask is grown before it is filled.
        threshold: Of the map, above which a pixel is suspected.
        smooth: Whether holes are filled smoothly before the image is encoded. Otherwise the latents around a
            hole, and the hole itself where inpainting starts below time 1, keep traces of the lesion.
    """

    fusion: Literal["map", "learned", "otsu"] = "map"
    feature: Literal["drop", "projected"] = "drop"
    pixel: Literal["reconstruction", "image"] = "reconstruction"
    weights: tuple[float, float] = (0.5, 0.5)
    inpainting: InpaintingOptions = field(default_factory=InpaintingOptions)
    seeds: int = 1
    dilate: int = 6
    threshold: float = 0.5
    smooth: bool = False


class Refined(NamedTuple):
    """What refinement made of ``B`` images; all ``(B, 1, ...)``.

    Attributes:
        probability: Of the lesion: the map, or the mean over seeds of the fusion; of Otsu's rule 0 or 1.
        uncertainty: Standard deviation over seeds of what map and residuals say together.
        pseudo_healthy: Mean of the inpainted images, decoded, in [-1, 1].
        residual: Mean pixel residual.
    """

    probability: Tensor
    uncertainty: Tensor
    pseudo_healthy: Tensor
    residual: Tensor


@dataclass(frozen=True, eq=False)
class Refiner:
    """Refines the maps of one query.

    Attributes:
        backbone: With a denoiser.
        fusion: The learned fusion.
        attend: Abnormal probability of images, on their own grid.
        condition: Tokens of the denoiser that say "healthy", or zeros.
        options: See :class:`RefinementOptions`.
        project: Changes of latents ``(B, C, ...)`` to how abnormal they are, ``(B, 1, ...)``.
    """

    backbone: Backbone
    fusion: Fusion
    attend: Attend
    condition: Tensor
    options: RefinementOptions
    project: Callable[[Tensor], Tensor] | None = None

    def __call__(self, images: Tensor, attention: Tensor, *, keys: Sequence[str]) -> Refined:
        """Refine the maps of images.

        Args:
            images: ``(B, 1, ...)`` in [-1, 1].
            attention: Abnormal probability on the grid of the images.
            keys: ``B`` names, of which the noise is a function.
        """
        versions = self.versions(images, attention, keys=keys, seeds=range(self.options.seeds))
        return self.judged(self.compared(images), versions, attention)

    def compared(self, images: Tensor) -> Tensor:
        """What pseudo-healthy versions of images are compared to, on the CPU."""
        itself = self.options.pixel == "image"
        return images.cpu() if itself else reconstructed(self.backbone, images).cpu()

    def versions(
        self,
        images: Tensor,
        attention: Tensor,
        *,
        keys: Sequence[str],
        seeds: Sequence[int],
        latents: Tensor | None = None,
    ) -> PseudoHealthy:
        """Pseudo-healthy versions of images, on the CPU; ``latents`` are those of the images, if known."""
        holes, smooth = self.holes(attention), self.options.smooth
        asked = self.options.feature == "projected"
        own = latents
        if own is None and (asked or not smooth):
            own = self.backbone.encode(images)
        start = self.backbone.encode(smooth_fill(images, holes)) if smooth or own is None else own
        pooled, options = pool_mask(holes, self.backbone.downscale), self.options.inpainting

        def version(seed: int) -> tuple[Tensor, Tensor]:
            noise = [f"{key}/{seed}" for key in keys]
            filled = inpaint(self.backbone, start, pooled, self.condition, keys=noise, options=options)
            change = torch.zeros(len(images), 0) if own is None or not asked else (own - filled).cpu()
            return self.backbone.decode(filled).clamp(-1, 1).cpu(), change

        made, changes = zip(*map(version, seeds), strict=True)
        return PseudoHealthy(torch.stack(made), torch.stack(changes))

    def judged(self, decoded: Tensor, versions: PseudoHealthy, attention: Tensor) -> Refined:
        """What pseudo-healthy versions say of a map.

        Args:
            decoded: Images as :meth:`compared` has them, ``(B, 1, ...)``.
            versions: Of the images.
            attention: Abnormal probability.
        """
        healthy, seeds = versions.images.mean(0), len(versions.images)
        residual = (decoded - versions.images).abs().mean(0)
        drawn_by_map = self.options.fusion == "map"
        if drawn_by_map and seeds == 1:  # one seed has no spread, and nobody asks for the mask
            return Refined(attention, torch.zeros_like(attention), healthy, residual)
        holes = self.holes(attention)
        found = [self._residuals(decoded, *one, attention) for one in zip(*versions, strict=True)]
        chances = torch.stack([self._combined(one, attention, holes) for one in found])
        probability = attention if drawn_by_map else chances.mean(0)
        spread = chances.std(0, unbiased=False) if seeds > 1 else torch.zeros_like(attention)
        return Refined(probability, spread, healthy, residual)

    def residuals(self, images: Tensor, attention: Tensor, *, keys: Sequence[str]) -> Residuals:
        """The residuals of one pseudo-healthy version of images ``(B, 1, ...)``."""
        made = self.versions(images, attention, keys=keys, seeds=range(1))
        return self._residuals(self.compared(images), made.images[0], made.change[0], attention)

    def _residuals(self, decoded: Tensor, pseudo: Tensor, change: Tensor, attention: Tensor) -> Residuals:
        """The residuals of one version."""
        if self.options.feature == "drop":
            return residuals(decoded, pseudo, attention, self.attend(pseudo))
        if self.project is None:
            what = "the feature residual is to be projected, and these tumor weights have no projector"
            raise UsageError(what, fix="train them with the paper's network, or take feature='drop'")
        feature = resized(self.project(change), decoded.shape[2:]).clamp(min=0)
        return Residuals((decoded - pseudo).abs(), feature)

    def holes(self, attention: Tensor) -> Tensor:
        """What is filled, as 0 and 1."""
        return dilated(attention >= self.options.threshold, self.options.dilate)

    def _combined(self, found: Residuals, attention: Tensor, holes: Tensor) -> Tensor:
        """Lesion probability inside the holes, from the map and the residuals."""
        if self.options.fusion == "otsu":
            pixel, feature = self.options.weights
            return otsu_masks(weighted_sum(found, pixel=pixel, feature=feature), holes).float()
        logits: Tensor = self.fusion(attention, found)
        return logits.sigmoid() * holes


def dilated(masks: Tensor, pixels: int) -> Tensor:
    """Masks ``(B, 1, ...)`` grown by a number of pixels on each side, as 0 and 1, axis by axis."""
    grown = masks.float()
    for axis in range(2, masks.ndim) if pixels else ():
        lines = grown.movedim(axis, -1)
        flat = F.max_pool1d(lines.flatten(0, -2)[:, None], 2 * pixels + 1, stride=1, padding=pixels)
        grown = flat.reshape(lines.shape).movedim(-1, axis)
    return grown
