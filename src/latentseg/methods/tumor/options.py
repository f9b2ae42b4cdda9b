"""How tumors are segmented, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from latentseg.errors import UsageError
from latentseg.methods.appearance import AppearanceOptions
from latentseg.methods.diffugts.inpainting import InpaintingOptions
from latentseg.methods.diffugts.refinement import RefinementOptions
from latentseg.methods.tumor.closer_look import CloserOptions


@dataclass(frozen=True)
class TumorOptions:
    """How volumes are segmented.

    Attributes:
        refinement: How suspicious slices are refined; without it the attention map alone is cut.
        healthy: ``continued``: where the map draws the mask, the pseudo-healthy image goes on with what is
            around a lesion (:func:`~latentseg.methods.tumor.healthy_image.continued`), and nothing is asked
            of the denoiser. ``inpainted``: the denoiser fills holes, as ``refinement`` says.
        level: Where the map is cut: at this share of its highest value in the suspicious slices, between 0.1
            and 0.5. A phrase that training never heard moves the whole map; None always cuts at 0.5. Weights
            may have a share of their own.
        appearance: How the borders of the mask are moved to those of the scan; None leaves them to the map.
        anyway: Whether a tumor is looked for where no training showed any of its organ, such as one of the
            liver in MR.
        organs: Whether a tumor of an organ that is known is looked for at that organ.
        own: Share of a part of the mask in or beside that organ, below which the part is let go.
        lesser: Share of the largest part of a tumor in a head in MR, below which another part is let go where
            networks of heads look, as it is one tumor mostly; metastases all stay.
        mirrored: Weight beside the log-odds of the map, in a head in MR, of how much its halves differ
            (:mod:`~latentseg.methods.tumor.symmetry`), where no networks of heads look.
        closer: How slices that are suspected are looked at again, enlarged; in a block, what was found.
        min_presence: Anomaly score below which a slice is not refined and holds nothing.
        gap_mm: Slices between two that are suspected, and no farther apart than this, are suspected too.
        across_mm: Width (standard deviation) of the smoothing of evidence across slices.
        extra_seeds: Seeds added for slices whose refined mask stays undecided.
        undecided: Share of a slice's suspicion between 0.25 and 0.75 from which it is undecided.
        voxel_mm: Finest voxels of the blocks that 3-D backbones see.
        slab: Slices that go through a network at a time; memory grows with it and not with the volume.
    """

    refinement: RefinementOptions | None = field(
        default_factory=lambda: RefinementOptions(
            inpainting=InpaintingOptions(steps=4, start=0.35), smooth=True
        )
    )
    healthy: Literal["continued", "inpainted"] = "continued"
    level: float | None = 0.5
    appearance: AppearanceOptions | None = field(default_factory=lambda: AppearanceOptions(keep=0.0))
    anyway: bool = False
    organs: bool = True
    own: float = 0.1
    lesser: float = 0.75
    mirrored: float = 4.0
    closer: CloserOptions | None = field(default_factory=CloserOptions)
    min_presence: float = 0.5
    gap_mm: float = 25.0
    across_mm: float = 4.0
    extra_seeds: int = 1
    undecided: float = 0.3
    voxel_mm: float = 1.5
    slab: int = 8

    def __post_init__(self) -> None:
        if not self.voxel_mm > 0:
            raise UsageError(f"voxels of {self.voxel_mm:g} mm", fix="give a positive length, such as 1.5")


RECOMMENDED = TumorOptions()
"""For a laptop: the map draws the mask, and what is around a lesion the pseudo-healthy image.

Of a 3-D backbone no parts of the body are told apart, as the training on volumes learns none.
"""

PAPER_LIKE = TumorOptions(
    refinement=RefinementOptions(fusion="otsu", inpainting=InpaintingOptions(steps=30)),
    healthy="inpainted",
    level=None,
    appearance=None,
    organs=False,
    lesser=0.0,
    mirrored=0.0,
    closer=None,
    gap_mm=0.0,
    across_mm=0.0,
    extra_seeds=0,
)
"""As known secondhand: from pure noise, the weighted sum of both residuals, Otsu's threshold."""

PAPER = replace(
    PAPER_LIKE,
    refinement=RefinementOptions(
        fusion="otsu",
        feature="projected",
        pixel="image",
        inpainting=InpaintingOptions(steps=30),
        dilate=3,
    ),
)
"""The same with both secondhand residuals, for weights with a trained projector (PAPER_NETWORK)."""

PRESETS = {"recommended": RECOMMENDED, "paper_like": PAPER_LIKE, "paper": PAPER}
