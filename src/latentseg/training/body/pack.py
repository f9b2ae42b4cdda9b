"""Scans reduced to cells, packed once for the training of the body network.

A body pack is a folder: ``cells.npz`` holds the cells `(S, H, W)` of every scan, uint8, in canonical order,
and ``body.json`` says what is known of each.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from latentseg.errors import InputError
from latentseg.imaging import Volume, read, read_labels, to_canonical
from latentseg.imaging.body_cells import Cells
from latentseg.imaging.files import write_json, written_whole
from latentseg.imaging.intensity import SOFT_TISSUE_WINDOW_HU, Modality
from latentseg.phantom import bodies as phantom

log = logging.getLogger(__name__)


class BodyFacts(BaseModel):
    """What is known of the scans of a source.

    Attributes:
        name: of the source.
        share: how often it is drawn, relative to the others.
        tells: which directions can be told from its pictures: ``"all"``, all but left from right
            (``"no sides"``) or ``"none"``; the network is taught to be as unsure as that.
        middle_mm: height of the middle of the scan above the kidneys, where it is known from its kind alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    share: float = 1.0
    tells: Literal["all", "no sides", "none"] = "all"
    middle_mm: float | None = None


class BodySource(BodyFacts):
    """Scans of one kind under the data folder.

    Attributes:
        images: glob relative to the data folder.
        modality: CT or MR, where the files do not tell.
        orientation: axis codes of the voxels, where the files' affines are known to be wrong.
        exclude: parts of the names of files that must never be trained on.
        windows: HU windows that a CT is packed in, each as another scan.
        pixel_mm: edge of a pixel, for pictures, which do not say it.
        labels: ``(old, new)``: replacing ``old`` by ``new`` in an image's path gives its label map.
        kidneys: labels whose middle has height 0.
    """

    images: str
    modality: Modality | None = None
    orientation: str | None = None
    exclude: tuple[str, ...] = ()
    windows: tuple[tuple[float, float], ...] = (SOFT_TISSUE_WINDOW_HU,)
    pixel_mm: float | None = None
    labels: tuple[str, str] | None = None
    kidneys: tuple[int, ...] = ()


class BodyPhantoms(BodyFacts):
    """Procedural patients: which part, how it is scanned, the first seed and the one after the last."""

    phantom: Literal["abdomen", "chest", "limb"]
    modality: Literal["CT", "MR"] = "CT"
    seeds: tuple[int, int]


class BodyPackOptions(BaseModel):
    """What to pack, as read from a YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sources: tuple[BodySource | BodyPhantoms, ...]


class PackedBody(BodyFacts):
    """One scan of a pack.

    Attributes:
        case: its name.
        layer_mm: distance between axial layers of cells.
        kidneys_mm: how far above its lowest edge the middle of the kidneys lies, where that is known.
    """

    case: str
    layer_mm: float
    kidneys_mm: float | None = None


class BodyPack:
    """A body pack in memory.

    Attributes:
        scans: what is known of each scan.
        cells: `(S, H, W)` uint8 of each, [-1, 1] mapped to 0..255.

    Raises:
        InputError: there is no pack in the folder, or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "body.json").exists():
            fix = "run `latentseg train pack-body` first"
            raise InputError("no packed scans are here", where=str(folder), fix=fix)
        try:
            rows = json.loads((folder / "body.json").read_text(encoding="utf-8"))
            self.scans = [PackedBody(**row) for row in rows]
            with np.load(folder / "cells.npz") as stored:
                self.cells: list[NDArray[np.uint8]] = [stored[str(n)] for n in range(len(self.scans))]
        except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            fix = "remove the folder and run `latentseg train pack-body` again"
            raise InputError(f"the pack is damaged ({error})", where=str(folder), fix=fix) from error


def pack_body(options: BodyPackOptions, *, data: Path, folder: Path) -> BodyPack:
    """Read every scan of every source and write a body pack.

    Raises:
        InputError: a source matches no file.
    """
    scans: list[PackedBody] = []
    cells: dict[str, NDArray[np.uint8]] = {}
    for source in options.sources:
        drawn = _phantoms(source) if isinstance(source, BodyPhantoms) else _scans(source, data)
        for scan, values in drawn:
            cells[str(len(scans))] = np.clip((values + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
            scans.append(scan)
            log.info("%s %s: %s cells", scan.name, scan.case, values.shape)
    with written_whole(folder / "cells.npz") as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **cells)  # type: ignore[arg-type]
    write_json(folder / "body.json", [scan.model_dump(mode="json") for scan in scans])
    return BodyPack(folder)


def _scans(source: BodySource, data: Path) -> Iterator[tuple[PackedBody, NDArray[np.float32]]]:
    """The scans of a source, each in every window.

    Raises:
        InputError: it matches no file.
    """
    found = sorted(data.glob(source.images))
    paths = [path for path in found if not any(part in path.name for part in source.exclude)]
    if not paths:
        raise InputError(f"source {source.name!r} matches no file", where=str(data / source.images))
    for path in paths:
        volume = read(path, modality=source.modality, orientation=source.orientation)
        if source.pixel_mm:
            affine = np.diag([source.pixel_mm, source.pixel_mm, 1.0, 1.0]) @ volume.affine_ras_mm
            volume = replace(volume, affine_ras_mm=affine)
        for window in source.windows:
            yield _packed(
                volume, source, path.name.split(".nii")[0], window, _kidneys_mm(volume, source, data)
            )


def _phantoms(source: BodyPhantoms) -> Iterator[tuple[PackedBody, NDArray[np.float32]]]:
    make = {"abdomen": phantom.abdomen, "chest": phantom.chest, "limb": phantom.limb}[source.phantom]
    for seed in range(*source.seeds):
        made = make(seed=seed, modality=source.modality, shape=(128, 128, 40))
        yield _packed(made.image, source, f"{source.phantom}-{seed}", SOFT_TISSUE_WINDOW_HU, None)


def _packed(
    volume: Volume, facts: BodyFacts, case: str, window: tuple[float, float], kidneys_mm: float | None
) -> tuple[PackedBody, NDArray[np.float32]]:
    canonical = to_canonical(volume)
    cells = Cells.of(canonical.slices, canonical.spacing_mm, modality=volume.modality, window=window)
    layer_mm = len(canonical.slices) * canonical.spacing_mm[0] / len(cells.values)
    known = facts.model_dump(include=set(BodyFacts.model_fields))
    return PackedBody(**known, case=case, layer_mm=layer_mm, kidneys_mm=kidneys_mm), cells.values


def _kidneys_mm(volume: Volume, source: BodySource, data: Path) -> float | None:
    """How far above the lowest edge the middles of the kidneys lie on average."""
    if source.labels is None or volume.source is None:
        return None
    name = str(volume.source.relative_to(data)).replace(*source.labels)
    canonical = to_canonical(volume)
    labels = canonical.apply(read_labels(data / name, like=volume).array)
    middles = []
    for label in source.kidneys:
        voxels = (labels == label).sum((1, 2))
        middles.append(float((np.arange(len(voxels)) + 0.5) @ voxels / voxels.sum()))
    return float(np.mean(middles)) * canonical.spacing_mm[0]
