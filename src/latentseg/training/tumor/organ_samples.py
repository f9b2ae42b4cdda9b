"""Training images with the organs that are labelled in them, some with a lesion, some in another window."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from latentseg.errors import UsageError
from latentseg.methods.tumor.body_crop import denoised
from latentseg.training.augment import (
    AIR,
    Geometry,
    SliceAugmentation,
    another_phase,
    another_window,
    augmented,
)
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.shares import slice_chances
from latentseg.training.tumor.lesion_sites import SMALLEST_HOST, Hosts
from latentseg.training.tumor.lesions import add_lesion

LUNG = "lung"
SPREADING = 0.3  # chance that a lesion takes the place of other organs too
LESION = 64  # added to the number of an organ, or of none, while a lesion is moved with them


class OrganSampleOptions(SliceAugmentation):
    """What organs are learned from.

    Attributes:
        names: Organ of the vocabulary of every label that is learned.
        elsewhere: Data sets that show none of these organs.
        shares: Share of draws by data set.
        lesions: Chance of a synthetic lesion in an organ, which it belongs to.
        outlined: Labels of real lesions.
        unsure: Data sets with lesions that are not outlined.
        hosts: Weights of the organs in which it grows; 1 of all where it is empty.
        phases: Chance that labelled organs of a CT are shown in another phase after a contrast medium.
        run: Neighboring slices of a sample; of a data set of pictures, as many pictures.
        apart_mm: Smallest and largest distance of the slices of a run, where a scan has them.
    """

    names: dict[str, str] = Field(default_factory=dict)
    elsewhere: tuple[str, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
    lesions: float = 0.35
    outlined: tuple[str, ...] = ()
    unsure: tuple[str, ...] = ()
    hosts: dict[str, float] = Field(default_factory=dict)
    phases: float = 0.0
    run: Annotated[int, Field(ge=1)] = 1
    apart_mm: tuple[float, float] = (4.0, 9.0)
    curve: float = 0.35
    geometry: Geometry = Geometry(degrees=15, zoom=(0.65, 1.2), shift=0.06, flip=0.3)


class OrganSample(NamedTuple):
    """Training images that are alike: slices of a run, or pictures of other people.

    Attributes:
        images: ``(n, H, W)`` in [-1, 1].
        organs: ``(n, H, W)``, 0 or the number of an organ, counted from 1.
        known: ``(1 + organs,)``, which of them are labelled; 0 is elsewhere and known.
        step_mm: Distance of the slices; 0 of pictures.
        lesions: ``(n, H, W)``, where lesions are.
        sure: Whether there are no others.
    """

    images: NDArray[np.float32]
    organs: NDArray[np.int64]
    known: NDArray[np.bool_]
    step_mm: float
    lesions: NDArray[np.bool_]
    sure: bool


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
        scan = self._scan(index)
        rows, step_mm = self._rows(rng, index, scan)
        images = self.packed.images[rows].astype(np.float32) / 127.5 - 1
        organs = np.stack([self._organs(row, self._scan(row)) for row in rows])
        lesions = np.stack([self._outlined(row, self._scan(row)) for row in rows])
        step = step_mm / scan.spacing_mm[1]
        for at in [slice(None)] if step_mm else [slice(n, n + 1) for n in range(len(rows))]:
            if rng.random() < self.options.lesions:
                images[at], organs[at], grown = self._with_lesion(rng, images[at], organs[at], step or 1.0)
                lesions[at] |= grown
        if scan.modality == "CT" and rng.random() < self.options.phases:
            images = another_phase(images, organs, rng)
        if self._lungs_are_air(scan) and rng.random() < self.options.windows:
            images = self._in_window(images, organs, int(rng.integers(2**31)))
        images, moved = augmented(images, organs + LESION * lesions, rng, self.options, nearest=True)
        if scan.modality == "CT":
            images = denoised(images)
        marks, sure = moved.astype(np.int64), scan.source not in self.options.unsure
        return OrganSample(images, marks % LESION, self._known(scan), step_mm, marks >= LESION, sure)

    def _scan(self, index: int) -> PackedScan:
        return self.packed.scans[int(self.scan_of[index])]

    def _rows(
        self, rng: np.random.Generator, index: int, scan: PackedScan
    ) -> tuple[NDArray[np.integer], float]:
        """The slices of a sample around one of them, and their distance in mm; 0 of slices that are alone."""
        run = self.options.run
        if run == 1:
            return np.array([index]), 0.0
        if scan.count < run:
            alike = np.array([self._scan(row).source == scan.source for row in range(len(self.scan_of))])
            chance = self.chance * alike
            return rng.choice(len(chance), run, p=chance / chance.sum()), 0.0
        stride = max(1, round(rng.uniform(*self.options.apart_mm) / scan.spacing_mm[0]))
        stride = min(stride, (scan.count - 1) // (run - 1))
        span = stride * (run - 1)
        last = scan.first + scan.count - 1 - span
        first = int(np.clip(index - rng.integers(span + 1), scan.first, last))
        return first + stride * np.arange(run), stride * scan.spacing_mm[0]

    def _in_window(
        self, images: NDArray[np.float32], organs: NDArray[np.int64], seed: int
    ) -> NDArray[np.float32]:
        """What another window makes of slices, the same of all."""
        lungs = organs == 1 + self.organs.index(LUNG) if LUNG in self.organs else images < AIR
        pairs = zip(images, lungs, strict=True)
        return np.stack([another_window(*pair, np.random.default_rng(seed)) for pair in pairs])

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

    def _outlined(self, index: int, scan: PackedScan) -> NDArray[np.bool_]:
        """Real lesions of a slice."""
        marks = [label for label, name in scan.labels.items() if name in self.options.outlined]
        return np.isin(self.packed.labels[index], marks)

    def _with_lesion(
        self, rng: np.random.Generator, images: NDArray[np.float32], organs: NDArray[np.int64], step: float
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.bool_]]:
        """A lesion in some organ of slices, as a part of the organ; the images, organs, and where it is."""
        areas = np.bincount(organs.ravel(), minlength=2)
        hosts = 1 + np.flatnonzero(areas[1:] >= SMALLEST_HOST)
        weights = self.options.hosts or dict.fromkeys(self.organs, 1.0)
        chance = np.array([weights.get(self.organs[number - 1], 0.0) for number in hosts])
        if not chance.any():
            return images, organs, np.zeros(organs.shape, bool)
        number = int(rng.choice(hosts, p=chance / chance.sum()))
        room = (organs == number) | ((images > AIR) & ((organs == 0) | (rng.random() < SPREADING)))
        lesion = add_lesion(images, organs == number, rng, room=room, step=step)
        return lesion.image, np.where(lesion.mask, number, organs), lesion.mask
