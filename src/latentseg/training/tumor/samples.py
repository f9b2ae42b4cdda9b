"""Training images with and without lesions, real and synthetic, and the prompts that go with them."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from latentseg.errors import UsageError
from latentseg.methods.cutouts import CutOuts
from latentseg.methods.tumor.body_crop import BODY
from latentseg.text.vocabulary import concept_named, vocabulary
from latentseg.training.augment import SliceAugmentation, another_phase, another_window, augmented
from latentseg.training.pack import Pack, PackedScan
from latentseg.training.shares import slice_chances
from latentseg.training.tumor.lesion_sites import HostOptions, Hosts, findings_of, region_of, tumor_of
from latentseg.training.tumor.lesions import Lesion, LesionOptions, add_lesion, borrowed_lesion

SMALLEST_LESION = 12  # pixels


class SampleOptions(SliceAugmentation):
    """What is trained on.

    Attributes:
        findings: Prompt of every label that is a lesion, such as ``sarcoma_mask: sarcoma``.
        hosts: Where synthetic lesions grow.
        lesions: What they look like.
        organs: Prompt organ of every other label, where it is not the label's own name.
        validation: Patterns of scans (``source/case``) that are kept from the training.
        shares: Share of draws by data set, of those that have what is drawn.
        without: Findings that are left out: their masks, the slices of the data sets that hold them, and
            every prompt for a tumor in their organ.
        real: Share of samples with an outlined lesion of a patient.
        synthetic: Share of samples with a synthetic lesion; the rest is healthy.
        mismatched: Share of those with a lesion for which a tumor of another region is asked: not there.
        borrowed: Chance that a lesion that is put into a healthy slice is an outlined one of another slice.
        several: Chance of another lesion of the same place.
        phases: Share of the CT slices without an outlined lesion whose labelled organs are shown in another
            phase after a contrast medium.
        at_hosts: Share of the slices without an outlined lesion that are drawn from those with room for a
            synthetic one in an organ of the hosts.
        asked: Share of the healthy slices in which a tumor of any of the hosts' organs is asked for.
        closer: Chance of a cut-out instead of a whole slice, as in the closer look.
        cut: Smallest and largest edge of a cut-out, as a share of the slice's.
        beside: Share of the cut-outs of slices with a lesion that lie anywhere in the body.
    """

    findings: dict[str, str] = Field(default_factory=dict)
    organs: dict[str, str] = Field(default_factory=dict)
    hosts: HostOptions = HostOptions()
    lesions: LesionOptions = LesionOptions()
    validation: tuple[str, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
    without: tuple[str, ...] = ()
    real: float = 0.15
    synthetic: float = 0.5
    mismatched: float = 0.05
    borrowed: float = 0.0
    several: float = 0.25
    phases: float = 0.0
    at_hosts: float = 0.0
    asked: float = 0.0
    closer: float = 0.35
    cut: tuple[float, float] = (0.35, 0.7)
    beside: float = 0.0


class Sample(NamedTuple):
    """One training image.

    Attributes:
        image: ``(H, W)`` in [-1, 1].
        mask: ``(H, W)``, empty where the prompt's finding is not there.
        finding: What is asked for; its organ and synonyms are the vocabulary's.
        modality: "CT" or "MR".
        source: Data set of the slice.
        whole: Whether it is a whole slice.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    finding: str
    modality: str
    source: str
    whole: bool = True


class Samples:
    """Draws samples from a pack.

    Args:
        options: See :class:`SampleOptions`.
        packed: With supervoxels.

    Raises:
        UsageError: A finding or an organ that the vocabulary does not know.
    """

    def __init__(self, options: SampleOptions, packed: Pack) -> None:
        self.options, self.packed = options, packed
        check_names(options)
        left_out = [concept_named(name) for name in options.without]
        self.closed = {concept.organ or concept.name for concept in left_out}
        self.hosts = Hosts(options.hosts, packed, self.closed)
        scans = packed.scans
        self.scan_of = np.repeat(np.arange(len(scans)), [scan.count for scan in scans])
        sources = np.array([scans[at].source for at in self.scan_of])
        banned = {scan.source for scan in scans if self._findings(scan, closed=True)}
        kept = np.array([is_kept(scan, options.validation) for scan in scans])[self.scan_of]
        self.unused = np.isin(sources, sorted(banned)) | kept
        allowed = ~self.unused
        ill = np.array([bool(self._lesion_mask(index).any()) for index in range(len(sources))])
        chances = {"ill": allowed & ill, "healthy": allowed & ~ill}
        self.chance = {
            kind: slice_chances(sources, usable, options.shares) for kind, usable in chances.items()
        }
        if options.at_hosts:
            hosting = np.array([bool(self.hosts.named(i, self._organs(i))) for i in range(len(sources))])
            self.chance["hosting"] = slice_chances(sources, chances["healthy"] & hosting, options.shares)
        well = np.array([not scan.procedural and not self._ever_ill(scan) for scan in scans])[self.scan_of]
        drawn = self.chance["healthy"] > 0
        sound = drawn & well if (drawn & well).any() else chances["healthy"]
        self.chance["sound"] = slice_chances(sources, sound, {})

    def draw(self, rng: np.random.Generator) -> Sample:
        """Draw one sample."""
        options, kind = self.options, rng.random()
        if kind < options.real and self.chance["ill"].any():
            sample = self._real(rng)
        elif kind < options.real + options.synthetic:
            sample = self._synthetic(rng)
        else:
            return self.draw_healthy(rng)
        region = region_of(sample.finding)
        if sample.mask.any() and region and rng.random() < options.mismatched:
            sample = sample._replace(mask=np.zeros_like(sample.mask), finding=self._elsewhere(rng, region))
        return self._augmented(rng, sample)

    def _real(self, rng: np.random.Generator) -> Sample:
        index = int(rng.choice(len(self.scan_of), p=self.chance["ill"]))
        scan = self._scan(index)
        present = np.unique(self.packed.labels[index])
        names = [name for label, name in self._findings(scan).items() if label in present]
        return self._sample(index, self._lesion_mask(index), str(rng.choice(names)))

    def _synthetic(self, rng: np.random.Generator) -> Sample:
        """A healthy slice with a lesion or two; the slice as it is where nothing has room for one."""
        index = self._index(rng)
        host, finding = self._host(rng, index)
        image = self._shown(rng, index)
        room = None
        if rng.random() < self.options.hosts.spreading:
            room = self.hosts.tissue(index, self._scan(index)) | host
        mask = np.zeros(image.shape, bool)
        for _ in range(3):
            lesion = self._lesion(rng, image, host, room)
            if lesion.mask.sum() >= SMALLEST_LESION:
                image, mask = lesion.image, mask | lesion.mask
            if rng.random() >= self.options.several:
                break
        return self._of(index, self._windowed(rng, index, image), mask, finding)

    def _lesion(
        self,
        rng: np.random.Generator,
        image: NDArray[np.float32],
        host: NDArray[np.bool_],
        room: NDArray[np.bool_] | None,
    ) -> Lesion:
        """An image with one lesion more, drawn, or of another slice."""
        borrowed = self.options.borrowed if self.chance["ill"].any() else 0.0
        if not borrowed or rng.random() >= borrowed:
            return add_lesion(image, host, rng, room=room, options=self.options.lesions)
        index = int(rng.choice(len(self.scan_of), p=self.chance["ill"]))
        lender = Lesion(self.packed.images[index].astype(np.float32) / 127.5 - 1, self._lesion_mask(index))
        return borrowed_lesion(image, host, rng, room=host if room is None else room, lender=lender)

    def draw_healthy(self, rng: np.random.Generator, *, plain: bool = False) -> Sample:
        """Draw a slice without a lesion and something to look for; ``plain`` is one as it was scanned.

        A plain one is of no phantom, and of nobody who has a lesion elsewhere while there are such scans.
        """
        index = self._index(rng, plain=plain)
        nothing = np.zeros(self.packed.images.shape[1:], bool)
        sample = self._sample(index, nothing, self._host(rng, index)[1])
        if plain:
            return sample
        sample = sample._replace(image=self._shown(rng, index))
        organs = [organ for organ in self.options.hosts.organs if organ not in self.closed]
        if organs and rng.random() < self.options.asked:
            sample = sample._replace(finding=tumor_of(str(rng.choice(organs))))
        return self._augmented(rng, sample._replace(image=self._windowed(rng, index, sample.image)))

    def _index(self, rng: np.random.Generator, *, plain: bool = False) -> int:
        """Number of a slice without an outlined lesion."""
        hosting = not plain and self.options.at_hosts and rng.random() < self.options.at_hosts
        kind = "sound" if plain else "hosting" if hosting else "healthy"
        return int(rng.choice(len(self.scan_of), p=self.chance[kind]))

    def _shown(self, rng: np.random.Generator, index: int) -> NDArray[np.float32]:
        """A slice in [-1, 1], now and then in another phase after a contrast medium."""
        image = np.asarray(self.packed.images[index], np.float32) / 127.5 - 1
        phases = self.options.phases if self._scan(index).modality == "CT" else 0.0
        if not phases or rng.random() >= phases:
            return image
        return another_phase(image, np.asarray(self.packed.labels[index]), rng)

    def _windowed(
        self, rng: np.random.Generator, index: int, image: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """An image of a slice, now and then in another window; where lungs are labelled they are no air."""
        scan = self._scan(index)
        shown = scan.modality == "CT" and "lung" not in scan.labels.values()
        if not shown or rng.random() >= self.options.windows:
            return image
        return another_window(image, self.hosts.lung(index), rng)

    def _sample(self, index: int, mask: NDArray[np.bool_], finding: str) -> Sample:
        image = self.packed.images[index].astype(np.float32) / 127.5 - 1
        return self._of(index, image, mask, finding)

    def _of(self, index: int, image: NDArray[np.float32], mask: NDArray[np.bool_], finding: str) -> Sample:
        scan = self._scan(index)
        return Sample(image, mask, finding, scan.modality, scan.source)

    def _host(self, rng: np.random.Generator, index: int) -> tuple[NDArray[np.bool_], str]:
        """Where a lesion may grow in a slice, and what it is then called."""
        return self.hosts.draw(rng, index, self._scan(index), self._organs(index))

    def _organs(self, index: int) -> dict[int, str]:
        """Organs of the vocabulary by the labels of a slice's scan."""
        return {label: self._organ(name) for label, name in self._scan(index).labels.items()}

    def _elsewhere(self, rng: np.random.Generator, region: str) -> str:
        """A tumor of an organ of another region of the body."""
        organs = {c.name for c in vocabulary() if c.region not in ("", "trunk", region)} - self.closed
        return str(rng.choice(findings_of(organs)))

    def _augmented(self, rng: np.random.Generator, sample: Sample) -> Sample:
        if rng.random() < self.options.closer:
            sample = cut_out(sample, rng, share=self.options.cut, beside=self.options.beside)
        image, mask = augmented(sample.image, sample.mask, rng, self.options)
        return sample._replace(image=image, mask=mask > 0.5)

    def _scan(self, index: int) -> PackedScan:
        return self.packed.scans[int(self.scan_of[index])]

    def _findings(self, scan: PackedScan, *, closed: bool = False) -> Mapping[int, str]:
        """Findings of a scan by label: those that may be used, or those that are left out."""
        named = {label: self.options.findings.get(name, "") for label, name in scan.labels.items()}
        found = {label: name for label, name in named.items() if name}
        return {n: f for n, f in found.items() if (concept_named(f).organ in self.closed) == closed}

    def _ever_ill(self, scan: PackedScan) -> bool:
        """Whether some lesion of a scan is labelled."""
        return any(name in self.options.findings for name in scan.labels.values())

    def _lesion_mask(self, index: int) -> NDArray[np.bool_]:
        scan = self._scan(index)
        lesions = [label for label, name in scan.labels.items() if name in self.options.findings]
        return np.isin(self.packed.labels[index], lesions) if lesions else np.zeros((1, 1), bool)

    def _organ(self, label_name: str) -> str:
        """Organ of the vocabulary that a label stands for; nothing for a finding."""
        if label_name in self.options.findings:
            return ""
        return self.options.organs.get(label_name, label_name.replace("_", " "))


def cut_out(
    sample: Sample, rng: np.random.Generator, *, share: tuple[float, float], beside: float = 0.0
) -> Sample:
    """A sample within a random square that holds a part of its lesion, or of the body, enlarged.

    Args:
        sample: A whole slice.
        rng: Source of all draws.
        share: Smallest and largest edge of the square relative to the slice's.
        beside: Chance of a square of the body where there is a lesion.
    """
    size = np.array(sample.image.shape)
    edge = float(rng.uniform(*share)) * size.min()
    at_lesion = sample.mask.any() and rng.random() >= beside
    points = np.argwhere(sample.mask if at_lesion else sample.image > BODY)
    at = points[rng.integers(len(points))] if len(points) else size / 2
    middle = np.clip(at + edge * rng.uniform(-0.4, 0.4, 2), edge / 2, size - edge / 2)
    square = CutOuts(torch.tensor(middle)[None].float(), torch.tensor([edge]))
    image, mask = (
        square.of(torch.tensor(a, dtype=torch.float32)[None, None])[0, 0].numpy()
        for a in (sample.image, sample.mask)
    )
    return sample._replace(image=image, mask=mask > 0.5, whole=False)


def is_kept(scan: PackedScan, patterns: Sequence[str]) -> bool:
    """Whether a scan is kept from the training."""
    return any(fnmatch.fnmatchcase(f"{scan.source}/{scan.case}", pattern) for pattern in patterns)


def check_names(options: SampleOptions) -> None:
    """Require findings and organs of the vocabulary.

    Raises:
        UsageError: One that is not there.
    """
    asked = {
        "finding": {*options.findings.values(), *options.without},
        "organ": {*options.organs.values(), *options.hosts.tissues.values()},
    }
    for kind, names in asked.items():
        for name in sorted(names):
            if not is_known(name, kind):
                raise UsageError(f"no {kind} {name!r} in the vocabulary", fix="see `latentseg prompts list`")


def is_known(name: str, kind: str) -> bool:
    """Whether the vocabulary has a concept of a kind under a name."""
    return any(concept.name == name and concept.kind == kind for concept in vocabulary())
