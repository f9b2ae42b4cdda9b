"""One scan of a project on disk: where it came from, what was drawn, found and judged.

Layout of its folder::

    scan.json                 name, source, grid
    source/                   the file, where it was uploaded
    view.nii                  its voxels as viewers get them (latentseg.serve.view)
    drawn/<target>/<z>.png    slices that a person drew or checked, one picture each
    found/<target>.npz, .json what was found, and how sure it is; <target>-before.* the time before
    verdicts.json             what was accepted or rejected, by whom and when
    history/<event>/          what an event replaced, for undo
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

from latentseg.errors import InputError
from latentseg.imaging import Volume, read
from latentseg.imaging.files import write_file
from latentseg.serve.json_files import read_about, write_json
from latentseg.serve.view import View, nifti_bytes, shown_values

DAMAGED = "remove the scan and add it again"


@dataclass(eq=False)
class Scan:
    """One scan.

    Attributes:
        folder: Its folder in the project.
        about: What ``scan.json`` says.
        lock: Held while its files change.
    """

    folder: Path
    about: dict[str, Any]
    lock: Any = field(default_factory=RLock, repr=False)

    @classmethod
    def open(cls, folder: Path) -> Scan | None:
        """The scan in a folder; None where there is none, or only the remains of one."""
        about = read_about(folder / "scan.json")
        return cls(folder, about) if about and (folder / "view.nii").exists() else None

    @property
    def id(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def name(self) -> str:
        """What it is called."""
        return str(self.about["name"])

    @property
    def shape(self) -> tuple[int, int, int]:
        """``(X, Y, Z)`` in the view frame."""
        x, y, z = self.about["shape"]
        return int(x), int(y), int(z)

    @property
    def slices(self) -> int:
        """Axial slices."""
        return self.shape[2]

    @property
    def source(self) -> Path:
        """The file or folder that was added."""
        if self.about["uploaded"]:
            return next(path for path in (self.folder / "source").iterdir() if path.name[0] != ".")
        return Path(self.about["source"])

    def read(self) -> Volume:
        """Read the scan.

        Raises:
            InputError: Its file is gone, or another one lies there now.
        """
        volume = read(self.source, modality=self.about["modality"])
        if list(View.of(volume).shape) != list(self.shape):
            what = "another scan lies where this one was added from"
            raise InputError(what, where=str(self.source), fix=DAMAGED)
        return volume

    @cached_property
    def view_file(self) -> Path:
        """The voxels as a NIfTI file in the view frame."""
        return self.folder / "view.nii"


def write_view(path: Path, folder: Path, about: dict[str, Any]) -> None:
    """Read a scan and write what viewers need of it: ``scan.json`` and ``view.nii``.

    Raises:
        InputError: A scan that cannot be read.
    """
    volume = read(path)
    view = View.of(volume)
    voxels = shown_values(view.apply(volume.array))
    write_file(folder / "view.nii", nifti_bytes(voxels, view.affine_ras_mm))
    grid = {
        "source": None if about["uploaded"] else str(path.absolute()),
        "modality": volume.modality,
        "shape": list(view.shape),
        "spacing_mm": [round(mm, 6) for mm in view.spacing_mm],
        "axis_codes": volume.axis_codes,
        "dicom": hasattr(volume.header, "series"),
        "window": window(volume),
    }
    write_json(folder / "scan.json", about | grid)


def window(volume: Volume) -> list[float]:
    """Values shown as black and white at first: soft tissue of CT, else the middle 99 % of what is no air."""
    import numpy as np

    low, high = float(volume.array.min()), float(volume.array.max())
    if volume.modality == "CT" and low < -500:
        return [-125.0, 275.0]
    inside = volume.array[volume.array > low]
    if inside.size:
        sample = inside[:: max(1, inside.size // 200_000)]
        low, high = (float(value) for value in np.percentile(sample, [0.5, 99.5]))
    return [low, max(high, low + 1e-3)]
