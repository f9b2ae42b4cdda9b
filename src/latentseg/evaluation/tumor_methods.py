"""Methods of the zero-shot protocol: DiffuGTS, and two baselines that know neither prompt nor training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from latentseg.evaluation.zero_shot import Found
from latentseg.imaging import Volume, fit_square, normalize, to_canonical

if TYPE_CHECKING:
    from latentseg.backbones.base import Backbone
    from latentseg.methods.tumor.segmenter import TumorSegmenter

BODY = -0.9  # in [-1, 1], above which a pixel belongs to the body
SHARE = 0.01  # of a slice's pixels, whose mean is its score


@dataclass(frozen=True, eq=False)
class DiffuGTS:
    """The segmenter as a method of the protocol."""

    segmenter: TumorSegmenter
    name: str = "DiffuGTS (compact)"

    def __call__(self, scan: Volume, prompt: str) -> Found:
        """Mask and anomaly score of every slice."""
        found = self.segmenter.predict(self.segmenter.prepare(scan), prompt)
        return Found(found.mask, found.evidence.scores)


@dataclass(frozen=True)
class IntensityOutlier:
    """Pixels of the body that are far from what the body of the scan usually is (robust z-score).

    Attributes:
        limit: Smallest absolute z-score of an outlier.
        blur: Pixels of smoothing before, against noise.
        name: Name in tables.
    """

    limit: float = 2.5
    blur: float = 2.0
    name: str = "intensity outlier"

    def __call__(self, scan: Volume, prompt: str) -> Found:
        """Outliers inside the eroded body, small specks removed."""
        del prompt
        canonical = to_canonical(scan)
        values = normalize(canonical.slices, modality=scan.modality)
        soft = ndimage.gaussian_filter(values, (0, self.blur, self.blur))
        body = np.stack([_inside(one) for one in values])
        if not body.any():
            return Found(np.zeros(scan.shape, bool), np.zeros(len(values)))
        median = np.median(soft[body])
        spread = 1.4826 * np.median(np.abs(soft[body] - median)) + 1e-6
        z = np.where(body, np.abs(soft - median) / spread, 0)
        mask = ndimage.binary_opening(z > self.limit, np.ones((1, 3, 3)))
        return Found(canonical.restore(mask), top_mean(z))


@dataclass(frozen=True, eq=False)
class NoiseAndRestore:
    """An autoDDPM-style residual (Bercea et al. 2023): noise the whole slice half-way, denoise, compare.

    Attributes:
        backbone: With a denoiser; it is not conditioned.
        start: Time up to which the slice is noised.
        steps: Steps back.
        limit: Smallest residual, on the scale of [-1, 1], of an anomaly.
        name: Name in tables.
    """

    backbone: Backbone
    start: float = 0.4
    steps: int = 10
    limit: float = 0.3
    name: str = "noise and restore"

    def __call__(self, scan: Volume, prompt: str) -> Found:
        """Smoothed residual inside the body, cut."""
        import torch

        from latentseg.methods.diffugts.inpainting import InpaintingOptions, inpaint

        del prompt
        canonical = to_canonical(scan)
        values = normalize(canonical.slices, modality=scan.modality)
        size = self.backbone.image_size
        slices, undo = fit_square(values, size, pixel_mm=canonical.spacing_mm[1:])
        images = torch.from_numpy(slices)[:, None]
        residuals = []
        for number, image in enumerate(images.split(1)):
            latents = self.backbone.encode(image)
            holes = torch.ones_like(latents[:, :1])
            nothing = torch.zeros(1, 1, self.backbone.condition_dim)
            options = InpaintingOptions(steps=self.steps, start=self.start)
            key = [f"{scan.name}/{number}"]
            restored = inpaint(self.backbone, latents, holes, nothing, keys=key, options=options)
            change = (self.backbone.decode(latents) - self.backbone.decode(restored)).abs()
            residuals.append(
                ndimage.gaussian_filter(change[0, 0].numpy(), 2.0) * _inside(image[0, 0].numpy())
            )
        stack = np.stack(residuals)
        mask = np.asarray(undo((stack > self.limit).astype(np.float32))) >= 0.5
        return Found(canonical.restore(mask), top_mean(stack))


def top_mean(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean of the largest hundredth of each slice of ``(S, H, W)``."""
    flat = np.sort(values.reshape(len(values), -1), axis=1)
    return np.asarray(flat[:, -max(1, int(SHARE * flat.shape[1])) :].mean(1))


def _inside(slice_: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The body of a slice without its skin."""
    filled = ndimage.binary_fill_holes(slice_ > BODY)
    return np.asarray(ndimage.binary_erosion(filled, iterations=max(1, slice_.shape[0] // 50)))
