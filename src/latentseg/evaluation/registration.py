"""Registration as a baseline: the support slice is deformed onto the query slice and its mask goes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.baselines import nearest_support
from latentseg.evaluation.slices import SupportSlices

HISTOGRAM_BINS = 32
SHRINK = (4, 2)  # factors of the two resolution levels; full resolution costs time and moves nothing


@dataclass(frozen=True)
class Registration:
    """Affine, then B-spline registration of the most similar support slice (SimpleITK, Mattes information).

    Mutual information also compares CT with MR. A slice that cannot be registered, such as an empty one,
    gets the mask as it is.

    Attributes:
        mesh: B-spline cells along each side.
        iterations: Most iterations of each of the two steps, per level.
        sampling: Share of the pixels that the metric looks at.
        name: Name in tables.
    """

    mesh: int = 6
    iterations: int = 20
    sampling: float = 0.25
    name: str = "support mask registered"

    def __call__(self, support: SupportSlices, query_slices: NDArray[np.float32]) -> NDArray[np.float32]:
        """Carry a support mask over to each of `(S, H, W)`."""
        chosen = nearest_support(support, query_slices)
        carried = [
            self._carry(support.images[at], support.masks[at], query)
            for at, query in zip(chosen, query_slices, strict=True)
        ]
        return np.stack(carried)

    def _carry(
        self, image: NDArray[np.float32], mask: NDArray[np.bool_], query: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Coverage `(H, W)` of a support mask on one query slice."""
        import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

        fixed, moving = (sitk.GetImageFromArray(np.asarray(a, np.float32)) for a in (query, image))
        coverage = sitk.GetImageFromArray(mask.astype(np.float32))
        try:
            transform = self._register(fixed, moving)
        except RuntimeError:
            return mask.astype(np.float32)
        carried = sitk.Resample(coverage, fixed, transform, sitk.sitkLinear, 0.0)
        return np.asarray(sitk.GetArrayFromImage(carried), np.float32)

    def _register(self, fixed: Any, moving: Any) -> Any:
        """Transform of points of `fixed` to points of `moving`."""
        import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

        affine = sitk.AffineTransform(2)
        size = fixed.GetSize()
        affine.SetCenter([(n - 1) / 2 for n in size])
        method = self._method()
        method.SetOptimizerAsRegularStepGradientDescent(2.0, 1e-3, self.iterations)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(affine, inPlace=True)
        method.Execute(fixed, moving)
        spline = sitk.BSplineTransformInitializer(fixed, [self.mesh] * 2)
        method = self._method()
        method.SetOptimizerAsLBFGSB(numberOfIterations=self.iterations)
        method.SetMovingInitialTransform(affine)
        method.SetInitialTransform(spline, inPlace=True)
        method.Execute(fixed, moving)
        return sitk.CompositeTransform([affine, spline])

    def _method(self) -> Any:
        """A registration with one thread and a fixed seed, so that it repeats."""
        import SimpleITK as sitk  # noqa: N813 - its own documentation calls it so

        sitk.ProcessObject.SetGlobalWarningDisplay(False)
        method = sitk.ImageRegistrationMethod()
        method.SetNumberOfThreads(1)
        method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(self.sampling, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetShrinkFactorsPerLevel(SHRINK)
        method.SetSmoothingSigmasPerLevel([factor / 2 for factor in SHRINK])
        return method
