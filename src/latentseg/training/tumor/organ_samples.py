"""Training images with the organs that are labelled in them, some with a lesion, some in another window."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from latentseg.errors import UsageError
from latentseg.training.augment import AIR, Geometry, SliceAugmentation, another_window, augmented
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.shares import slice_chances
from latentseg.training.tumor.lesion_sites import SMALLEST_HOST, Hosts
from latentseg.training.tumor.lesions import add_lesion

LUNG = "lung"


class OrganSampleOptions(SliceAugmentation):
    """What organs are learned from.

    Attributes:
        names: Organ of the vocabulary of every label that is learned.
        elsewhere: Data sets that show none of these organs.
        shares: Share of draws by data set.
        lesions: Chance of a synthetic lesion in an organ, which it belongs to.
    """

    names: dict[str, str] = Field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
    lesions: float = 0.35
    curve: float = 0.35
    geometry: Geometry = Geometry(degrees=15, zoom=(0.65, 1.2), shift=0.06, flip=0.3)


class OrganSample(NamedTuple):
    """One training image.

    Attributes:
        image: ``(H, W)`` in [-1, 1].
        organs: ``(H, W)``, 0 or the number of an organ, counted from 1.
        known: ``(1 + organs,)``, which of them are labelled; 0 is elsewhere and known.
    """

    image: NDArray[np.float32]
    organs: NDArray[np.int64]
    known: NDArray[np.bool_]


class OrganSamples:
    """Draws samples from a pack.

    Args:
        options: See :class:`OrganSampleOptions`.
        packed: With labels of organs.
        hosts: Finds lungs.
        unused: ``(N,)``, slices that are kept from the training.

    Raises:
        UsageError: No slice is left that shows an organ.
    """

    def __init__(
        self, options: OrganSampleOptions, packed: Pack, *, hosts: Hosts, unused: NDArray[np.bool_]
    ) -> None:
        self.options, self.packed, self.hosts = options, packed, hosts
        self.organs = sorted(set(options.names.values()))
        scans = packed.scans
        self.scan_of = np.repeat(np.arange(len(scans)), [scan.count for scan in scans])
        sources = np.array([scans[at].source for at in self.scan_of])
        useful = np.array([bool(self._known(scan)[1:].any()) for scan in scans])[self.scan_of]
        self.chance = slice_chances(sources, useful & ~unused, options.shares)
        if not self.chance.any():
            raise UsageError(
                "no slice of the pack shows a labelled organ",
                where=str(packed.folder),
                fix="name labels of the pack under `organs: names:`, or no organ at all",
            )
        self.chest = np.zeros(len(sources), bool)
        for scan in scans:
            if self._lungs_are_air(scan):
                self.chest[scan.first : scan.first + scan.count] = self._chest(scan)

    def draw(self, rng: np.random.Generator) -> OrganSample:
        """Draw one sample."""
        index = int(rng.choice(len(self.scan_of), p=self.chance))
        scan = self.packed.scans[int(self.scan_of[index])]
        image = self.packed.images[index].astype(np.float32) / 127.5 - 1
        organs = self._organs(index, scan)
        if rng.random() < self.options.lesions:
            image, organs = self._with_lesion(rng, image, organs)
        if self._lungs_are_air(scan) and rng.random() < self.options.windows:
            image = another_window(image, organs == 1 + self.organs.index(LUNG), rng)
        return self._augmented(rng, OrganSample(image, organs, self._known(scan)))

    def _known(self, scan: PackedScan) -> NDArray[np.bool_]:
        """Which organs a scan has labels of, 0 always."""
        labelled = {self.options.names.get(name) for name in scan.labels.values()}
        if self._lungs_are_air(scan):
            labelled.add(LUNG)
        every = scan.source in self.options.elsewhere
        return np.array([True, *(every or organ in labelled for organ in self.organs)])

    def _lungs_are_air(self, scan: PackedScan) -> bool:
        """Whether lungs are not labelled and can be told by their grey value."""
        if scan.source in self.options.elsewhere or LUNG not in self.organs:
            return False
        return scan.modality == "CT" and LUNG not in scan.labels.values()

    def _chest(self, scan: PackedScan) -> NDArray[np.bool_]:
        """Neighboring slices with large pieces of air around the one that has most: lungs and not bowel."""
        areas = [int(self.hosts.lung(scan.first + at).sum()) for at in range(scan.count)]
        runs, _ = ndimage.label(np.array(areas) > 0)
        most = int(np.argmax(areas))
        return np.asarray((runs == runs[most]) & (areas[most] > 0))

    def _organs(self, index: int, scan: PackedScan) -> NDArray[np.int64]:
        labels = np.asarray(self.packed.labels[index])
        numbers = np.zeros(256, np.int64)
        for label, name in scan.labels.items():
            if name in self.options.names:
                numbers[label] = 1 + self.organs.index(self.options.names[name])
        organs = np.asarray(numbers[labels], np.int64)
        if self.chest[index]:
            organs[self.hosts.lung(index) & (labels == 0)] = 1 + self.organs.index(LUNG)
        return organs

    def _with_lesion(
        self, rng: np.random.Generator, image: NDArray[np.float32], organs: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """A lesion in some organ of a slice, as a part of the organ."""
        areas = np.bincount(organs.ravel(), minlength=2)
        hosts = 1 + np.flatnonzero(areas[1:] >= SMALLEST_HOST)
        if not len(hosts):
            return image, organs
        number = int(rng.choice(hosts))
        lesion = add_lesion(image, organs == number, rng, room=(organs == number) | (image > AIR))
        return lesion.image, np.where(lesion.mask, number, organs)

    def _augmented(self, rng: np.random.Generator, sample: OrganSample) -> OrganSample:
        image, organs = augmented(sample.image, sample.organs, rng, self.options, nearest=True)
        return sample._replace(image=image, organs=organs.astype(np.int64))
