"""Scans packed once into memory-mapped slices, so that a training reads at the speed of memory.

A pack is a folder: ``images.npy`` and ``labels.npy``, uint8 ``(N, size, size)`` canonical axial slices, and
``pack.json``, which says which slices belong to which scan and what its labels are called.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, fit_square, normalize, read, read_labels, to_canonical
from latentseg.imaging.files import write_json, written_whole
from latentseg.imaging.intensity import Modality
from latentseg.methods.tumor.body_crop import body_box
from latentseg.methods.tumor.lung_field import lung_field
from latentseg.phantom import bodies as phantom
from latentseg.training.splits import Part, Split

log = logging.getLogger(__name__)
MINIMUM_BODY = 0.03  # a slice with less foreground than this share teaches nothing
MINIMUM_LUNG = 0.02
LUNG = 200  # label of lungs that were found as air


class Source(BaseModel, extra="forbid", frozen=True):
    """Scans of one kind under the data folder.

    Attributes:
        name: Name of the data set; labels mean the same thing within one.
        images: Glob relative to the data folder.
        labels: ``(old, new)``: replacing ``old`` by ``new`` in an image's path below the data folder gives
            its label map.
        keep_labels: Label ids that may be used, with their names; all others are dropped.
        exclude: File names of scans that must never be trained on.
        orientation: Axis codes of the voxels where the files' affines are known to be wrong.
        window: HU window for CT.
        grey: Grey values of pictures of 8 bits that become black and white, where their window was wider.
    """

    name: str
    images: str
    labels: tuple[str, str] | None = None
    modality: Modality = "MR"
    keep_labels: dict[int, str] = {}
    exclude: tuple[str, ...] = ()
    orientation: str | None = None
    window: tuple[float, float] = (-125.0, 275.0)
    grey: tuple[float, float] = (0.0, 255.0)


class PhantomSource(BaseModel, extra="forbid", frozen=True):
    """Procedural patients, for anatomy that no scan shows.

    Attributes:
        name: Name of the data set.
        phantom: Which part of the body (:mod:`latentseg.phantom.bodies`).
        modality: How it is scanned.
        seeds: First seed, and the one after the last; every seed is a patient.
        slices: Of each.
        keep_labels: Names of the labels that may be used.
        window: HU window for CT.
    """

    name: str
    phantom: Literal["abdomen", "chest", "limb"]
    modality: Literal["CT", "MR"] = "CT"
    seeds: tuple[int, int]
    slices: int = Field(24, gt=0)
    keep_labels: tuple[str, ...] = ()
    window: tuple[float, float] = (-125.0, 275.0)
    grey: ClassVar[tuple[float, float]] = (0.0, 255.0)


class PackOptions(BaseModel, extra="forbid", frozen=True):
    """What to pack, as read from a YAML file.

    Attributes:
        size: Edge of the slices.
        body: Whether slices are cut to the body, as the tumor networks see them.
        lungs: Whether slices are cut to the lungs, in their window and with their label (:data:`LUNG`), as
            the tumor networks of lungs see them; scans and slices without lungs are left out.
        split: YAML file of a :class:`~latentseg.training.splits.Split`, beside this one.
        sources: Scans and procedural patients.
    """

    size: int = 256
    body: bool = False
    lungs: bool = False
    split: str | None = None
    sources: tuple[Source | PhantomSource, ...]


class Patient(NamedTuple):
    """A scan to be packed, the labels ``(I, J, K)`` of it that may be used, and what they are called."""

    case: str
    scan: Volume
    labels: NDArray[np.uint8]
    names: dict[int, str]


class PackedScan(BaseModel):
    """Where one scan lies in a pack, and whether it is a procedural patient."""

    source: str
    case: str
    modality: Modality
    first: int
    count: int
    spacing_mm: tuple[float, float, float]
    labels: dict[int, str]
    procedural: bool = False


class Pack:
    """A pack opened for reading; arrays are memory-mapped.

    Attributes:
        images: ``(N, size, size)`` uint8, [-1, 1] mapped to 0..255.
        labels: ``(N, size, size)`` uint8, 0 where unlabelled.
        supervoxels: ``(N, size, size)`` uint16, ids unique within a scan; ``None`` before they are computed.

    Raises:
        InputError: There is no pack in the folder, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "pack.json").exists():
            raise InputError(
                "no packed slices are here", where=str(folder), fix="run `latentseg train pack` first"
            )
        self.folder = folder
        self.images: NDArray[np.uint8]
        self.labels: NDArray[np.uint8]
        self.supervoxels: NDArray[np.uint16] | None = None
        try:
            self.scans = [
                PackedScan(**row) for row in json.loads((folder / "pack.json").read_text(encoding="utf-8"))
            ]
            self.images = np.load(folder / "images.npy", mmap_mode="r")
            self.labels = np.load(folder / "labels.npy", mmap_mode="r")
            if (folder / "supervoxels.npy").exists():
                self.supervoxels = np.load(folder / "supervoxels.npy", mmap_mode="r")
        except (OSError, ValueError, TypeError) as error:
            fix = "remove the folder and run `latentseg train pack` again"
            raise InputError(f"the pack is damaged ({error})", where=str(folder), fix=fix) from error


class Chosen(NamedTuple):
    """A split, and the part of it that is packed; procedural patients are for training."""

    split: Split = Split()
    part: Part = "training"


EVERYTHING = Chosen()


def pack(options: PackOptions, *, data: Path, folder: Path, chosen: Chosen = EVERYTHING) -> Pack:
    """Read every scan of every source and write a pack.

    Args:
        options: Sources; the split they name has been read by the caller.
        data: Folder of the scans.
        folder: Folder of the pack.
        chosen: Which part of which split.

    Raises:
        InputError: A source matches no file, or none is left of all sources.
    """
    writer = PackWriter(folder)
    for source in options.sources:
        for one in _patients(source, options.size, data, chosen):
            found = {LUNG: "lung"} if options.lungs else {}
            if options.lungs:
                stacks = _lung_slices(one, options.size)
            else:
                stacks = _slices(one, source, size=options.size, body=options.body)
            if not len(stacks[0]):
                continue
            procedural = isinstance(source, PhantomSource)
            writer.add(
                *stacks,
                source=source.name,
                case=one.case,
                modality=one.scan.modality,
                labels=one.names | found,
                procedural=procedural,
            )
    if not writer.scans:
        raise InputError(f"no scan is {chosen.part}", where=str(data), fix="name a split that keeps some")
    return writer.finish()


class PackWriter:
    """Slices of scans, one behind the other, and what is written of them at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[NDArray[np.uint8]] = []
        self.label_maps: list[NDArray[np.uint8]] = []
        self.scans: list[PackedScan] = []

    def add(
        self,
        images: NDArray[np.uint8],
        label_maps: NDArray[np.uint8],
        spacing_mm: tuple[float, float, float],
        /,
        **facts: Any,
    ) -> None:
        """Add the slices ``(S, H, W)`` of a scan, of which ``facts`` are the other fields."""
        first = sum(map(len, self.images))
        self.scans.append(PackedScan(first=first, count=len(images), spacing_mm=spacing_mm, **facts))
        self.images.append(images)
        self.label_maps.append(label_maps)
        log.info("%s %s: %d slices", facts["source"], facts["case"], len(images))

    def finish(self) -> Pack:
        """Write the pack; its table comes last, as the mark of a finished one."""
        save_array(self.folder / "images.npy", np.concatenate(self.images))
        save_array(self.folder / "labels.npy", np.concatenate(self.label_maps))
        write_json(self.folder / "pack.json", [scan.model_dump(mode="json") for scan in self.scans])
        return Pack(self.folder)


def _patients(source: Source | PhantomSource, size: int, data: Path, chosen: Chosen) -> Iterator[Patient]:
    """Patients of a source that belong to a part of a split."""
    if isinstance(source, Source):
        return _scans(source, data, chosen)
    return _phantoms(source, size) if chosen.part == "training" else iter(())


def _scans(source: Source, data: Path, chosen: Chosen) -> Iterator[Patient]:
    """The scans of a source.

    Raises:
        InputError: It matches no file.
    """
    paths = [p for p in sorted(data.glob(source.images)) if p.name not in source.exclude]
    if not paths:
        raise InputError(f"source {source.name!r} matches no file", where=str(data / source.images))
    for path in (p for p in paths if chosen.split.part(p.relative_to(data)) == chosen.part):
        volume = read(path, modality=source.modality, orientation=source.orientation)
        truth = _labels(volume, source, below=data)
        yield Patient(path.name.split(".")[0], volume, truth, source.keep_labels)


def _phantoms(source: PhantomSource, size: int) -> Iterator[Patient]:
    """Procedural patients of a source."""
    make = {"abdomen": phantom.abdomen, "chest": phantom.chest, "limb": phantom.limb}[source.phantom]
    for seed in range(*source.seeds):
        made = make(seed=seed, modality=source.modality, shape=(size, size, source.slices))
        names = {label: name for label, name in made.names.items() if name in source.keep_labels}
        labels = np.where(np.isin(made.labels.array, list(names)), made.labels.array, 0).astype(np.uint8)
        yield Patient(f"{source.phantom}-{seed}", made.image, labels, names)


def _labels(volume: Volume, source: Source, *, below: Path) -> NDArray[np.uint8]:
    """Labels ``(I, J, K)`` of a scan that may be used; no others leave this function."""
    if source.labels is None or volume.source is None:
        return np.zeros(volume.shape, np.uint8)
    name = str(volume.source.relative_to(below)).replace(*source.labels)
    truth = read_labels(below / name, like=volume).array
    return np.where(np.isin(truth, list(source.keep_labels)), truth, 0).astype(np.uint8)


def _slices(
    patient: Patient, source: Source | PhantomSource, *, size: int, body: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, float, float]]:
    """Normalized canonical slices of one scan with its labels, near-empty slices at both ends left out."""
    canonical = to_canonical(patient.scan)
    pixel_mm = canonical.spacing_mm[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)
        values = normalize(canonical.slices, modality=patient.scan.modality, window=source.window)
    low, high = (grey / 127.5 - 1 for grey in source.grey)
    values = (2 * (values - low) / (high - low) - 1).clip(-1, 1)
    box = (slice(None), *body_box(values)) if body else (...,)
    image, _ = fit_square(values[box], size, pixel_mm=pixel_mm)
    label, _ = fit_square(canonical.apply(patient.labels)[box], size, kind="mask", pixel_mm=pixel_mm)
    shown = (image > -0.9).mean((1, 2)) > MINIMUM_BODY
    inside = slice(int(shown.argmax()), len(shown) - int(shown[::-1].argmax()))
    packed = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return packed[inside], label[inside].astype(np.uint8), canonical.spacing_mm


def _lung_slices(
    patient: Patient, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, float, float]]:
    """Slices of the lungs of one scan in their window, with their label below those of the scan."""
    nothing = np.zeros((0, size, size), np.uint8)
    field = lung_field(patient.scan, size)
    if field is None:
        return nothing, nothing, (1.0, 1.0, 1.0)
    canonical = field.seen.canonical
    labels = field.fitted(canonical.apply(patient.labels)).astype(np.uint8)
    labels = np.where((labels == 0) & field.lung, np.uint8(LUNG), labels)
    shown = np.flatnonzero((labels == LUNG).mean((1, 2)) > MINIMUM_LUNG)
    packed = np.clip((field.seen.images[shown] + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return packed, labels[shown], canonical.spacing_mm


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an ``.npy``, whole or not at all."""
    with written_whole(path) as temporary:
        np.save(temporary, array)
