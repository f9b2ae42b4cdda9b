"""Training images with and without lesions, real and synthetic, and the prompts that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import ndimage

from latentseg.errors import UsageError
from latentseg.text.vocabulary import concept_named, vocabulary
from latentseg.training.augment import Geometry, recolor, sampling_grid, warp
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.shares import slice_chances
from latentseg.tumor.lesions import LesionOptions, add_lesion

SMALLEST_HOST = 150  # pixels of an organ that may grow a lesion
SMALLEST_LESION = 12  # pixels
FEWEST = 1e-3  # of the chance of a data set that only has slices of the other kind


class SampleOptions(BaseModel):
    """What is trained on.

    Attributes:
        findings: Prompt of every label that is a lesion, such as ``sarcoma_mask: sarcoma``.
        organs: Prompt organ of every other label, where it is not the label's own name.
        hosts: Organ of the unnamed tissue of a data set, such as ``brain``; empty is anywhere.
        shares: Share of draws by data set, of those that have what is drawn.
        without: Findings that are left out: their masks, the slices of the data sets that hold them, and
            every prompt for a tumor in their organ.
        real: Share of samples with an outlined lesion of a patient.
        synthetic: Share of samples with a synthetic lesion; the rest is healthy.
        mismatched: Share of those with a lesion for which another organ's tumor is asked: nothing is there.
        named: Share of synthetic lesions that grow in a labelled organ rather than in a supervoxel.
        curve: Chance of another contrast, see :func:`~latentseg.training.augment.recolor`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    findings: dict[str, str] = {}
    organs: dict[str, str] = {}
    hosts: dict[str, str] = {}
    shares: dict[str, float] = {}
    without: tuple[str, ...] = ()
    real: float = 0.25
    synthetic: float = 0.45
    mismatched: float = 0.1
    named: float = 0.5
    curve: float = 0.3
    geometry: Geometry = Geometry(degrees=12, zoom=(0.75, 1.2), shift=0.05, flip=0.3)


class Sample(NamedTuple):
    """One training image.

    Attributes:
        image: ``(H, W)`` in [-1, 1].
        mask: ``(H, W)``, empty where the prompt's finding is not there.
        finding: What is asked for; its organ and synonyms are the vocabulary's.
        modality: "CT" or "MR".
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    finding: str
    modality: str


class Samples:
    """Draws samples from a pack.

    Args:
        options: See there.
        packed: With supervoxels.

    Raises:
        UsageError: A finding or an organ that the vocabulary does not know.
    """

    def __init__(self, options: SampleOptions, packed: Pack) -> None:
        self.options, self.packed = options, packed
        check_names(options)
        left_out = [concept_named(name) for name in options.without]
        self.closed = {concept.organ or concept.name for concept in left_out}
        scans = packed.scans
        self.scan_of = np.repeat(np.arange(len(scans)), [scan.count for scan in scans])
        sources = np.array([scans[at].source for at in self.scan_of])
        banned = {scan.source for scan in scans if self._findings(scan, closed=True)}
        allowed = ~np.isin(sources, sorted(banned))
        ill = np.array([bool(self._lesion_mask(index).any()) for index in range(len(sources))])
        chances = {"ill": allowed & ill, "healthy": allowed & ~ill}
        self.chance = {
            kind: slice_chances(sources, usable, options.shares) for kind, usable in chances.items()
        }

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one sample."""
        options, kind = self.options, rng.random()
        if kind < options.real and self.chance["ill"].any():
            sample = self._real(rng)
        elif kind < options.real + options.synthetic:
            sample = self._synthetic(rng)
        else:
            sample = self._healthy(rng)
        if sample.mask.any() and rng.random() < options.mismatched:
            sample = sample._replace(mask=np.zeros_like(sample.mask), finding=self._elsewhere(rng, sample))
        return self._augmented(rng, sample)

    def _real(self, rng: np.random.Generator) -> Sample:
        index = int(rng.choice(len(self.scan_of), p=self.chance["ill"]))
        scan = self._scan(index)
        present = np.unique(self.packed.labels[index])
        names = [name for label, name in self._findings(scan).items() if label in present]
        return self._sample(index, self._lesion_mask(index), str(rng.choice(names)))

    def _synthetic(self, rng: np.random.Generator) -> Sample:
        """A healthy slice with one lesion; the slice as it is where nothing has room for one."""
        index = int(rng.choice(len(self.scan_of), p=self.chance["healthy"]))
        host, finding = self._host(rng, index)
        image = self.packed.images[index].astype(np.float32) / 127.5 - 1
        lesion = add_lesion(image, host, rng, options=LesionOptions())
        mask = lesion.mask if lesion.mask.sum() >= SMALLEST_LESION else np.zeros_like(lesion.mask)
        return Sample(lesion.image if mask.any() else image, mask, finding, self._scan(index).modality)

    def _healthy(self, rng: np.random.Generator) -> Sample:
        index = int(rng.choice(len(self.scan_of), p=self.chance["healthy"]))
        return self._sample(index, np.zeros(self.packed.images.shape[1:], bool), self._host(rng, index)[1])

    def _sample(self, index: int, mask: NDArray[np.bool_], finding: str) -> Sample:
        image = self.packed.images[index].astype(np.float32) / 127.5 - 1
        return Sample(image, mask, finding, self._scan(index).modality)

    def _host(self, rng: np.random.Generator, index: int) -> tuple[NDArray[np.bool_], str]:
        """Where a lesion may grow in a slice, and what it is then called."""
        scan, labels = self._scan(index), np.asarray(self.packed.labels[index])
        organs = {label: self._organ(name) for label, name in scan.labels.items()}
        hosts = [label for label, organ in organs.items() if organ not in self.closed and tumor_of(organ)]
        areas = np.bincount(labels.ravel(), minlength=256)
        named = [label for label in hosts if areas[label] >= SMALLEST_HOST]
        if named and rng.random() < self.options.named:
            label = int(rng.choice(named))
            return labels == label, tumor_of(organs[label])
        return self._tissue(rng, index), self._tissue_name(scan)

    def _tissue(self, rng: np.random.Generator, index: int) -> NDArray[np.bool_]:
        """A supervoxel of a slice, its holes filled; nothing where there is none that is large enough."""
        image = np.asarray(self.packed.images[index])
        voxels = None if self.packed.supervoxels is None else np.asarray(self.packed.supervoxels[index])
        if voxels is None:
            return np.asarray(ndimage.binary_erosion(image > 12, iterations=3))
        ids, counts = np.unique(voxels[(voxels > 0) & (image > 12)], return_counts=True)
        large = ids[counts >= SMALLEST_HOST]
        if not len(large):
            return np.zeros(image.shape, bool)
        return np.asarray(ndimage.binary_fill_holes(voxels == rng.choice(large)))

    def _tissue_name(self, scan: PackedScan) -> str:
        host = self.options.hosts.get(scan.source, "")
        return "tumor" if host in self.closed else tumor_of(host) or "tumor"

    def _elsewhere(self, rng: np.random.Generator, sample: Sample) -> str:
        """A tumor of an organ other than the sample's."""
        own = concept_named(sample.finding).organ
        organs = {concept_named(name).organ for name in self.options.findings.values()}
        organs |= {self._organ(name) for scan in self.packed.scans for name in scan.labels.values()}
        others = [tumor for organ in sorted(organs - self.closed - {own}) if (tumor := tumor_of(organ))]
        return str(rng.choice(others))

    def _augmented(self, rng: np.random.Generator, sample: Sample) -> Sample:
        image, mask = (torch.tensor(array, dtype=torch.float32)[None, None] for array in sample[:2])
        grid = sampling_grid(rng, 1, image.shape[-1], self.options.geometry)
        image = recolor(warp(image, grid), rng, curve=self.options.curve)
        mask = warp(mask, grid)
        return sample._replace(image=image[0, 0].numpy(), mask=mask[0, 0].numpy() > 0.5)

    def _scan(self, index: int) -> PackedScan:
        return self.packed.scans[int(self.scan_of[index])]

    def _findings(self, scan: PackedScan, *, closed: bool = False) -> Mapping[int, str]:
        """Findings of a scan by label: those that may be used, or those that are left out."""
        named = {label: self.options.findings.get(name, "") for label, name in scan.labels.items()}
        found = {label: name for label, name in named.items() if name}
        return {n: f for n, f in found.items() if (concept_named(f).organ in self.closed) == closed}

    def _lesion_mask(self, index: int) -> NDArray[np.bool_]:
        scan = self._scan(index)
        lesions = [label for label, name in scan.labels.items() if name in self.options.findings]
        return np.isin(self.packed.labels[index], lesions) if lesions else np.zeros((1, 1), bool)

    def _organ(self, label_name: str) -> str:
        """Organ of the vocabulary that a label stands for; nothing for a finding."""
        if label_name in self.options.findings:
            return ""
        return self.options.organs.get(label_name, label_name.replace("_", " "))


def tumor_of(organ: str) -> str:
    """The vocabulary's first finding in an organ, such as "liver tumor"; nothing where it has none."""
    found = (concept.name for concept in vocabulary() if concept.kind == "finding" and concept.organ == organ)
    return next(found, "") if organ else ""


def check_names(options: SampleOptions) -> None:
    """Require findings and organs of the vocabulary.

    Raises:
        UsageError: One that is not there.
    """
    asked = {
        "finding": {*options.findings.values(), *options.without},
        "organ": {*options.organs.values(), *options.hosts.values()},
    }
    for kind, names in asked.items():
        for name in sorted(names):
            if not is_known(name, kind):
                raise UsageError(f"no {kind} {name!r} in the vocabulary", fix="see `latentseg prompts list`")


def is_known(name: str, kind: str) -> bool:
    """Whether the vocabulary has a concept of a kind under a name."""
    return any(concept.name == name and concept.kind == kind for concept in vocabulary())
