"""Scans packed once into memory-mapped slices, so that a training reads at the speed of memory.

A pack is a folder: ``images.npy`` and ``labels.npy``, uint8 ``(N, size, size)`` canonical axial slices, and
``pack.json``, which says which slices belong to which scan and what its labels are called.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import fit_square, normalize, read, read_labels, to_canonical
from latentseg.imaging.intensity import Modality

log = logging.getLogger(__name__)
MINIMUM_BODY = 0.03  # a slice with less foreground than this share teaches nothing


class Source(BaseModel):
    """Scans of one kind under the data folder.

    Attributes:
        name: Name of the data set; labels mean the same thing within one.
        images: Glob relative to the data folder.
        labels: ``(old, new)``: replacing ``old`` by ``new`` in an image's path gives its label map.
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


class PackOptions(BaseModel):
    """What to pack, as read from a YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int = 256
    sources: tuple[Source, ...]


class PackedScan(BaseModel):
    """Where one scan lies in a pack."""

    source: str
    case: str
    modality: Modality
    first: int
    count: int
    spacing_mm: tuple[float, float, float]
    labels: dict[int, str]


class Pack:
    """A pack opened for reading; arrays are memory-mapped.

    Attributes:
        images: ``(N, size, size)`` uint8, [-1, 1] mapped to 0..255.
        labels: ``(N, size, size)`` uint8, 0 where unlabelled.
        supervoxels: ``(N, size, size)`` uint16, ids unique within a scan; ``None`` before they are computed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "pack.json").exists():
            raise InputError("no packed slices are here", where=str(folder), fix="run `latentseg train pack` first")
        self.folder = folder
        self.scans = [PackedScan(**row) for row in json.loads((folder / "pack.json").read_text())]
        self.images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")
        self.labels: NDArray[np.uint8] = np.load(folder / "labels.npy", mmap_mode="r")
        path = folder / "supervoxels.npy"
        self.supervoxels: NDArray[np.uint16] | None = np.load(path, mmap_mode="r") if path.exists() else None


def pack(options: PackOptions, *, data: Path, folder: Path) -> Pack:
    """Read every scan of every source and write a pack.

    Raises:
        InputError: When a source matches no file.
    """
    images, labels, scans = [], [], []
    first = 0
    for source in options.sources:
        paths = [p for p in sorted(data.glob(source.images)) if p.name not in source.exclude]
        if not paths:
            raise InputError(f"source {source.name!r} matches no file", where=str(data / source.images))
        for path in paths:
            image, label, spacing = _slices(path, source, options.size)
            scans.append(
                PackedScan(
                    source=source.name,
                    case=path.name.split(".")[0],
                    modality=source.modality,
                    first=first,
                    count=len(image),
                    spacing_mm=spacing,
                    labels=source.keep_labels,
                )
            )
            images.append(image)
            labels.append(label)
            first += len(image)
            log.info("%s %s: %d slices", source.name, path.name, len(image))
    _write(folder, np.concatenate(images), np.concatenate(labels), scans)
    return Pack(folder)


def _slices(path: Path, source: Source, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[float, ...]]:
    """Normalised canonical slices of one scan with its labels, near-empty slices at both ends left out."""
    volume = read(path, modality=source.modality, orientation=source.orientation)
    canonical = to_canonical(volume)
    pixel_mm = canonical.spacing_mm[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LatentsegWarning)
        values = normalize(canonical.slices, modality=source.modality, window=source.window)
    image, _ = fit_square(values, size, pixel_mm=pixel_mm)
    label = np.zeros(image.shape, np.uint8)
    if source.labels is not None:
        old, new = source.labels
        truth = read_labels(str(path).replace(old, new), like=volume)
        kept = np.where(np.isin(truth.array, list(source.keep_labels)), truth.array, 0).astype(np.uint8)
        label, _ = fit_square(canonical.apply(kept), size, kind="mask", pixel_mm=pixel_mm)
    body = (image > -0.9).mean((1, 2)) > MINIMUM_BODY
    inside = slice(int(body.argmax()), len(body) - int(body[::-1].argmax()))
    packed = np.clip((image + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
    return packed[inside], label[inside], canonical.spacing_mm


def _write(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], scans: list[PackedScan]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_array(folder / "images.npy", images)
    save_array(folder / "labels.npy", labels)
    temporary = folder / "pack.json.tmp"
    temporary.write_text(json.dumps([scan.model_dump(mode="json") for scan in scans], indent=1))
    os.replace(temporary, folder / "pack.json")


def save_array(path: Path, array: NDArray[np.generic]) -> None:
    """Write an ``.npy`` under a temporary name, then rename it."""
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, array)
    os.replace(temporary, path)
