"""Real masses of livers in whole livers of other people, for ``tumor_volumes.py --finding liver-put``.

The masses are those of slices that ``configs/split.yaml`` keeps back (MSD Task03, outlined by the rule of
``liver_slices.py``); the livers are those of SABS fold 0, healthy as far as is known, which no training saw.
Every mass is put into two of them, of which every second slice around the liver is seen: its difference
from the liver around it, in slices above and below as wide as an ellipsoid would be, with a soft border.
Beyond the liver nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from latentseg.evaluation.datasets import SABS
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume
from liver_slices import KEPT_BACK, dark_masses

EACH = 2  # livers
SMALLEST = 60  # pixels of a mass
AROUND, ABOVE = 6, 6  # pixels around a mass, and slices beyond a liver
EVERY = 2  # slices are seen, 6 to 10 mm apart
SOFT = 0.8  # pixels of a border
THIN = 0.05  # of the square of a radius, below which a slice holds nothing
Slices = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Mass(NamedTuple):
    """A mass of a slice: how its grey values ``(rows, columns)`` differ from the liver's, and where it is."""

    name: str
    patient: str
    differing: Slices
    inside: Mask

    @property
    def radius(self) -> float:
        """Of a circle as large, in pixels."""
        return float(np.sqrt(self.inside.sum() / np.pi))


class LiverWithMass(NamedTuple):
    """A scan, where the mass is, and where the liver, each ``(I, J, K)``."""

    name: str
    patient: str
    image: Volume
    truth: Mask
    liver: Mask


def masses() -> Iterator[Mass]:
    """The masses that are kept back."""
    for stem in KEPT_BACK.split():
        path = data_root() / "slices_2d" / "msd_liver" / f"{stem}.jpg"
        grey = np.asarray(Image.open(path).convert("L")).astype(np.float64)
        liver = np.asarray(Image.open(path.with_name(f"{stem}_label.png"))) > 0
        found = dark_masses(grey, liver) & liver
        parts, count = ndimage.label(found)
        for number, box in enumerate(ndimage.find_objects(parts), 1):
            inside = parts == number
            if inside.sum() >= SMALLEST:
                wider = tuple(slice(max(side.start - AROUND, 0), side.stop + AROUND) for side in box)
                differing = grey - np.median(grey[liver & ~found])
                yield Mass(f"{stem} {number} of {count}", stem[:5], differing[wider], inside[wider])


def put(
    slices: Slices, liver: Mask, mass: Mass, rng: np.random.Generator, *, step: float
) -> tuple[Slices, Mask]:
    """Slices ``(S, H, W)``, ``step`` pixels apart, with a mass in the liver, and where that is."""
    radius, out, truth = mass.radius, slices.copy(), np.zeros(liver.shape, bool)
    deep = ndimage.distance_transform_edt(liver, sampling=(step, 1.0, 1.0))
    room = np.argwhere(deep >= min(0.5 * radius, float(deep.max())))
    middle = room[rng.integers(len(room))]
    level = np.median(slices[liver])
    for at in range(len(slices)):
        square = 1 - ((at - middle[0]) * step / radius) ** 2
        if square <= THIN:
            continue
        narrower = float(np.sqrt(square))
        inside = ndimage.zoom(mass.inside.astype(np.float64), narrower, order=1) > 0.5
        look = ndimage.zoom(mass.differing, narrower, order=1)
        first = [max(int(c) - edge // 2, 0) for c, edge in zip(middle[1:], inside.shape, strict=True)]
        here = tuple(slice(start, start + edge) for start, edge in zip(first, inside.shape, strict=True))
        part, own = out[at][here], liver[at][here]
        cut = tuple(slice(edge) for edge in part.shape)
        share = ndimage.gaussian_filter(inside[cut].astype(np.float64), SOFT) * own
        part += share * (level + look[cut] - part)
        truth[at][here] |= share > 0.5
    return out, truth


def livers_with_masses() -> Iterator[LiverWithMass]:
    """Every mass in a few livers, of which the slices around the liver are seen."""
    cases = SABS.fold(0)
    for number, mass in enumerate(masses()):
        for turn in range(EACH):
            case_id = cases[(number + 2 * turn) % len(cases)]
            case = SABS.load(case_id)
            image, axis = case.image, int(np.argmax(case.image.spacing_mm))
            liver = np.moveaxis(case.mask("liver"), axis, 0)
            shown = np.flatnonzero(liver.any((1, 2)))
            kept = slice(max(int(shown[0]) - ABOVE, 0), int(shown[-1]) + ABOVE + 1, EVERY)
            slices = np.moveaxis(image.array, axis, 0)[kept].astype(np.float64)
            pixel_mm = np.delete(image.spacing_mm, axis).mean()
            rng = np.random.default_rng([number, turn])
            step = EVERY * image.spacing_mm[axis] / pixel_mm
            filled, truth = put(slices, liver[kept], mass, rng, step=step)
            array = np.moveaxis(filled.round().clip(0, 255), 0, axis).astype(image.array.dtype)
            there, organ = (np.moveaxis(one, 0, axis) for one in (truth, liver[kept]))
            name = f"{mass.name} in {SABS.name} {case_id}"
            affine = image.affine_ras_mm.copy()
            affine[:3, axis] *= EVERY
            scan = replace(image, array=array, affine_ras_mm=affine, header=None)
            yield LiverWithMass(name, mass.patient, scan, there, organ)
