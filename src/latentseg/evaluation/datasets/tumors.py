"""Tumor categories of the zero-shot protocol, and the healthy controls that belong to each.

Slices of MSD (Antonelli et al. 2022) and KiTS19 (Heller et al. 2019) are pictures without a scale; sarcomas
(Vallieres et al. 2015), gliomas (TCGA-LGG, TCGA-GBM) and a chest (NSCLC-Radiomics, Aerts et al. 2014) are
volumes. Controls are slices of SABS fold 0 and of CHAOS, and every second IXI volunteer for the brain.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, UsageError
from latentseg.evaluation.datasets.base import data_root
from latentseg.evaluation.datasets.chaos import CHAOS
from latentseg.evaluation.datasets.sabs import SABS
from latentseg.imaging import Volume, read, read_labels
from latentseg.imaging.intensity import Modality
from latentseg.text.prompts import read_prompt

CONTROL_STEP = 4  # every fourth slice of a healthy volume


class TumorCase(NamedTuple):
    """A scan, and where its tumors are on its grid; no mask says that it is healthy."""

    name: str
    patient: str
    image: Volume
    mask: NDArray[np.bool_] | None


@dataclass(frozen=True)
class TumorFiles:
    """Scans of one kind.

    Attributes:
        images: Glob below the data folder.
        labels: What to replace in an image's path to get its label map.
        ids: Label ids of the tumor.
        modality: Of the scans.
        orientation: Axis codes where the files' own are wrong.
    """

    images: str
    labels: tuple[str, str]
    ids: tuple[int, ...]
    modality: Modality
    orientation: str | None = None

    def cases(self, root: Path) -> Iterator[TumorCase]:
        """Scans below the data folder, with their masks."""
        for path in sorted(root.glob(self.images)):
            name = str(path.relative_to(root))
            image = read(path, modality=self.modality, orientation=self.orientation)
            labels = read_labels(root / name.replace(*self.labels), like=image)
            yield TumorCase(name, patient_of(path), image, np.isin(labels.array, self.ids))


@dataclass(frozen=True)
class TumorArchive:
    """A DICOM series with its structure set, packed together.

    Attributes:
        archive: A tar file below the data folder.
        image: Folder of the series in it.
        structures: Folder of the structure set in it.
        structure: Name of the tumor.
    """

    archive: str
    image: str
    structures: str
    structure: str

    def cases(self, root: Path) -> Iterator[TumorCase]:
        """The scan with its mask; nothing where the archive is not there."""
        path = root / self.archive
        if not path.exists():
            return
        with TemporaryDirectory() as folder, tarfile.open(path) as packed:
            packed.extractall(folder, filter="data")
            image = read(Path(folder) / self.image)
            labels = read_labels(Path(folder) / self.structures, like=image, name=self.structure)
        yield TumorCase(self.archive, Path(self.image).parts[0], image, labels.array > 0)


@dataclass(frozen=True)
class Category:
    """A tumor that is left out of the training it is tested on.

    Attributes:
        name: Short name.
        prompt: What is asked.
        files: Its scans.
        controls: ``CT``, ``MR`` or ``brain``: which healthy slices it is told apart from.
    """

    name: str
    prompt: str
    files: tuple[TumorFiles | TumorArchive, ...]
    controls: tuple[str, ...]

    @property
    def prompt_concept(self) -> str:
        """Name of the finding that the prompt means."""
        return read_prompt(self.prompt).name

    def cases(self) -> Iterator[TumorCase]:
        """Its scans with their masks.

        Raises:
            InputError: They are not on this machine, or cannot be read.
        """
        root, found = data_root(), False
        for files in self.files:
            for case in files.cases(root):
                found = True
                yield case
        if not found:
            fix = "set LATENTSEG_DATA to the folder with tumour_2d/ and tumour_3d/"
            raise InputError(f"no scans of the category '{self.name}'", where=str(root), fix=fix)

    def healthy(self) -> Iterator[TumorCase]:
        """Its controls; those that are not on this machine are left out."""
        for kind in self.controls:
            yield from CONTROLS[kind]()


def patient_of(path: Path) -> str:
    """Whose scan a file is: the first part of a slice's name, or the folder of a volume."""
    if path.suffix == ".png":
        return path.stem.split("_")[0]
    return path.stem if path.parent.name == "tumour_3d" else path.parent.name


def _volumes(kind: str) -> Iterator[TumorCase]:
    """Every few slices of SABS fold 0, or of CHAOS."""
    dataset = SABS if kind == "CT" else CHAOS
    present = set(dataset.present())
    for case in dataset.members(0) if kind == "CT" else dataset.ids:
        if case in present:
            image = dataset.load(case).image
            axis = int(np.argmax(image.spacing_mm))
            kept = image.array.take(range(CONTROL_STEP // 2, image.shape[axis], CONTROL_STEP), axis=axis)
            yield TumorCase(
                f"{dataset.name} {case}", f"{dataset.name} {case}", thinned(image, kept, axis), None
            )


def thinned(image: Volume, array: NDArray[np.generic], axis: int) -> Volume:
    """A volume of every few slices of another."""
    affine = image.affine_ras_mm.copy()
    affine[:3, axis] *= CONTROL_STEP
    return Volume(array, affine, modality=image.modality, source=image.source, orientation=image.orientation)


def _brains() -> Iterator[TumorCase]:
    """Every second volunteer; the tumor networks are trained on the others (configs/tumor.yaml)."""
    for path in sorted((data_root() / "healthy_brain").glob("*.png"))[1::2]:
        yield TumorCase(path.name, path.stem, read(path, modality="MR"), None)


CONTROLS = {"CT": lambda: _volumes("CT"), "MR": lambda: _volumes("MR"), "brain": _brains}

_PICTURES = (".png", "_label.png")
_SARCOMA = ("_image", "_mask")
CATEGORIES = {
    category.name: category
    for category in (
        Category(
            "liver",
            "liver tumor",
            (TumorFiles("tumour_2d/hepatic_vessel/*[0-9].png", _PICTURES, (2,), "CT", "ARS"),),
            ("CT",),
        ),
        Category(
            "lung",
            "lung tumor",
            (
                TumorFiles("tumour_2d/lung/*[0-9].png", _PICTURES, (2,), "CT", "ARS"),
                TumorArchive("dicom/LUNG1-001.tar.xz", "LUNG1-001/image", "LUNG1-001/mask_rtstruct", "GTV-1"),
            ),
            ("CT",),
        ),
        Category(
            "kidney",
            "kidney tumor",
            (TumorFiles("tumour_2d/kidney/*[0-9].png", _PICTURES, (2,), "CT"),),
            ("CT",),
        ),
        Category(
            "glioma",
            "glioma",
            (
                TumorFiles("tumour_3d/TCGA-*/t1c.nii.gz", ("t1c", "consensus_label"), (1, 2, 4), "MR"),
                TumorFiles("tumour_3d/TCGA-*/flair.nii.gz", ("flair", "consensus_label"), (1, 2, 4), "MR"),
                TumorFiles("tumour_3d/brain1_image.nrrd", ("_image", "_label"), (1,), "MR"),
            ),
            ("brain",),
        ),
        Category(
            "sarcoma",
            "soft tissue sarcoma",
            (
                TumorFiles("tumour_3d/STS_*/CT_image.nii.gz", _SARCOMA, (1,), "CT"),
                TumorFiles("tumour_3d/STS_*/MR_T1_image.nii.gz", _SARCOMA, (1,), "MR"),
                TumorArchive(
                    "dicom/STS_001_MR_T2.tar.xz", "STS_001/MR_T2/image", "STS_001/MR_T2/mask", "GTV Mass"
                ),
            ),
            ("CT", "MR"),
        ),
    )
}


def get_category(name: str) -> Category:
    """A category by name.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in CATEGORIES:
        raise UsageError(f"no category {name!r}", fix=f"choose from {', '.join(CATEGORIES)}")
    return CATEGORIES[name]
