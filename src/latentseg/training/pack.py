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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, fit_square, normalize, read, read_labels, to_canonical
from latentseg.imaging.files import written_whole
from latentseg.imaging.intensity import Modality
from latentseg.phantom import bodies as phantom
from latentseg.training.splits import Part, Split

log = logging.getLogger(__name__)
MINIMUM_BODY = 0.03  # a slice with less foreground than this share teaches nothing


class Source(BaseModel):
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
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    images: str
    labels: tuple[str, str] | None = None
    modality: Modality = "MR"
    keep_labels: dict[int, str] = {}
    exclude: tuple[str, ...] = ()
    orientation: str | None = None
    window: tuple[float, float] = (-125.0, 275.0)


class PhantomSource(BaseModel):
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

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    phantom: Literal["abdomen", "chest", "limb"]
    modality: Literal["CT", "MR"] = "CT"
    seeds: tuple[int, int]
    slices: int = Field(24, gt=0)
    keep_labels: tuple[str, ...] = ()
    window: tuple[float, float] = (-125.0, 275.0)


class PackOptions(BaseModel):
    """What to pack, as read from a YAML file.

    Attributes:
        size: Edge of the slices.
        split: YAML file of a :class:`~latentseg.training.splits.Split`, beside this one.
        sources: Scans and procedural patients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 256
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
    images, labels, scans = [], [], []
    first = 0
    for source in options.sources:
        for patient in _patients(source, options.size, data, chosen):
            image, label, spacing = _slices(
                patient.scan, patient.labels, window=source.window, size=options.size
            )
            scans.append(
                PackedScan(
                    source=source.name,
                    case=patient.case,
                    modality=patient.scan.modality,
                    first=first,
                    count=len(image),
                    spacing_mm=spacing,
                    labels=patient.names,
                    procedural=isinstance(source, PhantomSource),
                )
            )
            images.append(image)
            labels.append(label)
            first += len(image)
            log.info("%s %s: %d slices", source.name, patient.case, len(image))
    if not images:
        raise InputError(f"no scan is {chosen.part}", where=str(data), fix="name a split that keeps some")
    _write(folder, np.concatenate(images), np.concatenate(labels), scans)
    return Pack(folder)


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
    volume: Volume, labels: NDArray[np.uint8], *, window: tuple[float, float], size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, float, float]]:
    """Normalized canonical slices of one scan with its labels, near-empty slices at both ends left out."""
    canonical = to_canonical(volume)
    pixel_mm = canonical.spacing_mm[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)
        values = normalize(canonical.slices, modality=volume.modality, window=window)
    image, _ = fit_square(values, size, pixel_mm=pixel_mm)
    label, _ = fit_square(canonical.apply(labels), size, kind="mask", pixel_mm=pixel_mm)
    body = (image > -0.9).mean((1, 2)) > MINIMUM_BODY
    inside = slice(int(body.argmax()), len(body) - int(body[::-1].argmax()))
    packed = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return packed[inside], label[inside].astype(np.uint8), canonical.spacing_mm


def _write(
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], scans: list[PackedScan]
) -> None:
    save_array(folder / "images.npy", images)
    save_array(folder / "labels.npy", labels)
    with written_whole(folder / "pack.json") as temporary:
        temporary.write_text(
            json.dumps([scan.model_dump(mode="json") for scan in scans], indent=1), encoding="utf-8"
        )


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an ``.npy``, whole or not at all."""
    with written_whole(path) as temporary:
        np.save(temporary, array)
