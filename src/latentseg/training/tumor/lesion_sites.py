"""Where a synthetic lesion may grow in a packed slice, and which finding is then asked for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from latentseg.text.vocabulary import concept_named, vocabulary
from latentseg.training.pack import Pack, PackedScan

SMALLEST_HOST = 150  # pixels of an organ that may grow a lesion
SMALLEST_LUNG = 1200  # pixels of air within the body that may be a lung
EMPTY = 3  # of 255, below most fat
EMPTIEST = 0.7  # of the pixels of a small square, from which it is air and not dark fat
AIR, FAT, BONE = 12, 70, 225  # of 255: no tumor spreads into air and bone, few begin in fat
OWN = 0.8  # chance that a lesion in a known organ is called by a name of that organ
NAMED = 0.5  # chance that one in unnamed tissue is called by a name of some organ there

Mask = NDArray[np.bool_]


class HostOptions(BaseModel):
    """Where synthetic lesions grow.

    Attributes:
        tissues: Organ of the unnamed tissue of a data set, such as ``brain``; empty is anywhere.
        regions: Body regions of a data set of unnamed tissue: any tumor of theirs may be asked for in it.
        organs: Those in which lesions grow; all that are labelled where it is empty.
        named: Share of lesions that grow in a labelled organ, where there is one.
        lung: Share of the others that grow in air within the body, where there is enough on a CT.
        anywhere: Share of the rest that grow anywhere in the body rather than in a supervoxel.
        spreading: Chance of a lesion that may leave where it grows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tissues: dict[str, str] = {}
    regions: dict[str, tuple[str, ...]] = {}
    organs: tuple[str, ...] = ()
    named: float = 0.15
    lung: float = 0.6
    anywhere: float = 0.35
    spreading: float = 0.4


class Hosts:
    """Draws places for lesions.

    Args:
        options: Shares of the kinds of places.
        packed: With supervoxels.
        closed: Organs whose findings are left out: a lesion there has a name of no organ.
    """

    def __init__(self, options: HostOptions, packed: Pack, closed: AbstractSet[str]) -> None:
        self.options, self.packed, self.closed = options, packed, closed

    def draw(
        self, rng: np.random.Generator, index: int, scan: PackedScan, organs: dict[int, str]
    ) -> tuple[Mask, str]:
        """A place in slice ``index`` of a scan with labelled organs, and what a lesion there is called."""
        labels, options = np.asarray(self.packed.labels[index]), self.options
        areas = np.bincount(labels.ravel(), minlength=256)
        named = self.named(index, organs)
        if named and rng.random() < options.named:
            label = int(rng.choice(named))
            return labels == label, self._called(rng, organs[label])
        seen = {organ for label, organ in organs.items() if areas[label]}
        if scan.modality == "CT":
            lungs = [label for label, organ in organs.items() if organ == "lung"]
            lung = np.isin(labels, lungs) if lungs else self.lung(index)
            if lung.any() and rng.random() < options.lung:
                return lung, self._called(rng, "lung")
            seen |= {"lung"} if lung.any() else set()  # what grows beside a lung is none of its tumors
        name = self._unnamed(rng, scan, seen)
        if rng.random() < options.anywhere:
            return ndimage.binary_erosion(self._solid(index, scan), iterations=2), name
        return self._supervoxel(rng, index, scan), name

    def named(self, index: int, organs: dict[int, str]) -> list[int]:
        """Labels of a slice in which lesions grow, large enough for one."""
        areas = np.bincount(np.asarray(self.packed.labels[index]).ravel(), minlength=256)
        wanted = self.options.organs or tuple(organs.values())
        hosts = [label for label, organ in organs.items() if organ in wanted and tumor_of(organ)]
        return [label for label in hosts if areas[label] >= SMALLEST_HOST]

    def tissue(self, index: int, scan: PackedScan) -> Mask:
        """What a tumor may spread into: the body without air and, on CT, bone and what it encloses."""
        image = np.asarray(self.packed.images[index])
        if scan.modality != "CT":
            return np.asarray(image > AIR)
        bone = ndimage.binary_fill_holes(ndimage.binary_closing(image > BONE, iterations=2))
        return np.asarray((image > AIR) & ~bone)

    def lung(self, index: int) -> Mask:
        """Large pieces of air within the body."""
        image = np.asarray(self.packed.images[index])
        body = ndimage.binary_opening(ndimage.binary_fill_holes(image > EMPTY), iterations=3)
        empty = ndimage.uniform_filter((image <= EMPTY).astype(np.float32), 5) > EMPTIEST
        air = ndimage.binary_closing(body & empty, iterations=3)
        parts, count = ndimage.label(ndimage.binary_opening(air, iterations=4))
        sizes = ndimage.sum_labels(air, parts, range(1, count + 1)) if count else np.zeros(0)
        return np.asarray(np.isin(parts, 1 + np.flatnonzero(sizes >= SMALLEST_LUNG)))

    def _solid(self, index: int, scan: PackedScan) -> Mask:
        """Tissue that is not the fat of a CT."""
        fat = FAT if scan.modality == "CT" else AIR
        return self.tissue(index, scan) & (np.asarray(self.packed.images[index]) > fat)

    def _supervoxel(self, rng: np.random.Generator, index: int, scan: PackedScan) -> Mask:
        """A supervoxel, its holes filled, large ones more often; nothing where none is large enough."""
        solid = self._solid(index, scan)
        if self.packed.supervoxels is None:
            return np.asarray(ndimage.binary_erosion(solid, iterations=3))
        voxels = np.asarray(self.packed.supervoxels[index])
        ids, counts = np.unique(voxels[(voxels > 0) & solid], return_counts=True)
        large = counts >= SMALLEST_HOST
        if not large.any():
            return np.zeros(solid.shape, bool)
        chance = np.sqrt(counts[large])
        chosen = rng.choice(ids[large], p=chance / chance.sum())
        return np.asarray(ndimage.binary_fill_holes(voxels == chosen))

    def _called(self, rng: np.random.Generator, organ: str) -> str:
        """A finding of an organ; one of no organ now and then, and where the organ's own are left out."""
        own = [] if organ in self.closed else findings_of({organ})
        return str(rng.choice(own if own and rng.random() < OWN else findings_of({""})))

    def _unnamed(self, rng: np.random.Generator, scan: PackedScan, seen: AbstractSet[str]) -> str:
        """A finding that may be in unnamed tissue: of no organ, or of one of the region that has no label."""
        host, regions = self.options.tissues.get(scan.source, ""), self.options.regions.get(scan.source, ())
        if host:
            return self._called(rng, host)
        organs = {concept.name for concept in vocabulary() if concept.region in regions}
        possible = findings_of(organs - seen - self.closed)
        return str(rng.choice(possible if possible and rng.random() < NAMED else findings_of({""})))


def tumor_of(organ: str) -> str:
    """The vocabulary's tumor of an organ, such as "liver tumor", else its first finding; nothing without."""
    found = [concept.name for concept in vocabulary() if concept.kind == "finding" and concept.organ == organ]
    return next((name for name in found if "tumor" in name), (found or [""])[0]) if organ else ""


def region_of(finding: str) -> str:
    """Body region of the organ of a finding; nothing where it may be in several."""
    organ = concept_named(finding).organ
    region = concept_named(organ).region if organ else ""
    return "" if region == "trunk" else region


def findings_of(organs: AbstractSet[str]) -> list[str]:
    """The vocabulary's findings in some organs; those that may be anywhere have the organ ""."""
    return [c.name for c in vocabulary() if c.kind == "finding" and c.organ in organs]
