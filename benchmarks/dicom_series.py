"""Series of DICOM files with one trait each: what ``dicom_robustness.py`` reads."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from latentseg.imaging import Volume
from latentseg.imaging.dicom.series import DicomOptions

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.dicom_files import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    multi_frame,
    recode,
    save_slices,
    slice_datasets,
)

ORIENTATIONS = ("LPS", "LPI", "RPS", "RAS", "LAS", "LIP", "LSP", "PIL", "PIR", "AIL", "turned", "oblique")
SYNTAXES = (EXPLICIT, EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, RLELossless, JPEGLSLossless, JPEG2000Lossless)
NAMES = ("IM{:05d}", "{}", "slice {}.dcm", "{:03d}.jpg", "{}.nii.gz", "{}.txt", "Ångström-{}.ima")
LAYOUTS = ("folder", "nested", "zip", "shuffled")
LETTERS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


@dataclass
class Draft:
    """A series in the making.

    Attributes:
        rng: draws what is left open.
        orientation: one of ``ORIENTATIONS``.
        truth: the volume that the slices were cut from.
        slices: image objects, to be changed, dropped or joined by others.
        options: how it is read.
        after: changes the folder once the files are written.
        kept: index of the slices K of the truth that must be found again.
        moved_ras_mm: how far each slice K was moved on purpose.
        plain: whether its pixels must stay uncompressed.
        layout: of its files, where it matters.
        has_seg: whether a SEG can refer to it.
    """

    rng: np.random.Generator
    orientation: str
    truth: Volume
    slices: list[Any]
    options: DicomOptions = field(default_factory=DicomOptions)
    after: list[Callable[[Path], Any]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    moved_ras_mm: dict[int, Any] = field(default_factory=dict)
    plain: bool = False
    layout: str = ""
    has_seg: bool = True

    @property
    def middle(self) -> int:
        """A slice that is neither the first nor the last two."""
        return int(self.rng.integers(1, len(self.slices) - 2))


Trait = Callable[[Draft], None]


def draft_of(seed: int) -> Draft:
    """A clean series."""
    rng = np.random.default_rng(seed)
    modality = ("CT", "MR")[int(rng.integers(2))]
    shape = (int(rng.integers(34, 48)), int(rng.integers(34, 48)), int(rng.integers(6, 12)))
    low = -1000 if modality == "CT" else 0
    values = rng.integers(low, low + 3000, shape).astype(np.int16)
    orientation = str(rng.choice(ORIENTATIONS))
    truth = Volume(values, affine_of(orientation, rng), modality=modality)
    return Draft(
        rng, orientation, truth, slice_datasets(truth, series_number=seed), kept=list(range(shape[2]))
    )


def affine_of(orientation: str, rng: np.random.Generator) -> Any:
    """A right-angled grid."""
    turn = np.eye(3)
    if orientation in ("turned", "oblique"):
        turn, _ = np.linalg.qr(rng.normal(size=(3, 3))) if orientation == "oblique" else (turn, None)
        angle = rng.uniform(0, 2 * np.pi)
        c, s = np.cos(angle), np.sin(angle)
        turn = turn @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        orientation = "LPS"
    affine = np.eye(4)
    spacing = rng.uniform((0.3, 0.3, 1.5), (1.2, 1.2, 6.0)).round(4)
    affine[:3, :3] = turn @ np.array([LETTERS[letter] for letter in orientation]).T * spacing
    affine[:3, 3] = rng.uniform(-300, 300, 3).round(3)
    return affine


def clean(_: Draft) -> None:
    """Nothing is wrong."""


def copies(_: Draft) -> None:
    """Two files are there twice: see :func:`write`."""


def localizer(draft: Draft) -> None:
    """A scout in the same series."""
    scout = slice_datasets(replace(draft.truth, affine_ras_mm=draft.truth.affine_ras_mm[[1, 2, 0, 3]]))[0]
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.SeriesInstanceUID = draft.slices[0].SeriesInstanceUID
    draft.slices.append(scout)


def report_beside(draft: Draft) -> None:
    """A structured report in the same folder."""
    draft.slices.append(no_image())


def junk_beside(draft: Draft) -> None:
    """Files that are no DICOM, whatever their names say."""

    def litter(folder: Path) -> None:
        (folder / "notes.dcm").write_text("not DICOM at all", encoding="utf-8")
        (folder / "empty.dcm").write_bytes(b"")
        (folder / "noise.bin").write_bytes(bytes(draft.rng.integers(0, 256, 500, dtype=np.uint8)))

    draft.after.append(litter)


def enhanced(draft: Draft) -> None:
    """One multi-frame object, its frames in any order."""
    if draft.truth.modality == "CT":
        draft.slices = [multi_frame([draft.slices[n] for n in draft.rng.permutation(len(draft.slices))])]


def bare(draft: Draft) -> None:
    """Files without preamble and meta information."""

    def strip(folder: Path) -> None:
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            dataset = pydicom.dcmread(path)
            plain = pydicom.Dataset()
            plain.update(dataset)
            plain.save_as(path, implicit_vr=True, little_endian=True)

    draft.after.append(strip)


def stored_signed(draft: Draft) -> None:
    """Signed pixels of 13 bits."""
    for n, one in enumerate(draft.slices):
        one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 13, 12
        if draft.truth.modality == "CT":
            one.RescaleIntercept = 0
        one.PixelData = draft.truth.array[:, :, n].T.astype("<i2").tobytes()


def slopes(draft: Draft) -> None:
    """Another rescale slope in every slice."""
    for n, one in enumerate(draft.slices):
        one.RescaleSlope, one.RescaleIntercept = 2 + n, -24
        values = np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns).T
        draft.truth.array[:, :, n] = values % 2000 * (2 + n) - 24
        one.PixelData = np.ascontiguousarray((values % 2000).T).tobytes()


def one_of_two(draft: Draft) -> None:
    """A second series, and the first chosen by its UID."""
    other = slice_datasets(draft.truth, description="other", series_number=1000)
    draft.options = DicomOptions(series=str(draft.slices[0].SeriesInstanceUID))
    draft.slices += other


def cut_last_header(draft: Draft) -> None:
    """The last slice cut within its header: it is left out, with a warning."""
    draft.slices.sort(key=lambda one: one.InstanceNumber)
    last = draft.slices[-1]
    last.AcquisitionComments = "cut me"
    draft.kept = draft.kept[:-1]
    draft.after.append(lambda folder: cut(folder, last.SOPInstanceUID, 300))


def slice_missing(draft: Draft) -> None:
    """One slice is missing."""
    del draft.slices[draft.middle]


def slices_missing(draft: Draft) -> None:
    """Two neighboring slices are missing."""
    n = draft.middle
    del draft.slices[n : n + 2]


def gap_allowed(draft: Draft) -> None:
    """One slice is missing and may be interpolated."""
    n = draft.middle
    del draft.slices[n], draft.kept[n]
    draft.options = DicomOptions(allow_gaps=True)


def uneven(draft: Draft) -> None:
    """One slice lies 0.37 steps too far."""
    move(draft.slices[draft.middle], draft.truth.affine_ras_mm[:3, 2] * 0.37)


def beside(draft: Draft) -> None:
    """One slice lies three pixels beside the stack."""
    move(draft.slices[draft.middle], draft.truth.affine_ras_mm[:3, 0] * 3)


def tilted(draft: Draft) -> None:
    """A gantry tilt of 2 to 28 degrees."""
    slope = np.tan(np.radians(draft.rng.uniform(2, 28))) * draft.rng.choice([-1, 1])
    affine = draft.truth.affine_ras_mm
    across = affine[:3, 1] / np.linalg.norm(affine[:3, 1])
    for n, one in enumerate(draft.slices):
        move(one, across * slope * n * draft.truth.spacing_mm[2])


def tilt_resampled(draft: Draft) -> None:
    """A gantry tilt of whole pixels per slice, below 40 degrees, which may be resampled."""
    _, pixel_mm, step_mm = draft.truth.spacing_mm
    most = max(1, min(3, int(0.8 * step_mm / pixel_mm)))
    pixels = int(draft.rng.integers(1, most + 1) * draft.rng.choice([-1, 1]))
    for n, one in enumerate(draft.slices):
        draft.moved_ras_mm[n] = draft.truth.affine_ras_mm[:3, 1] * pixels * n
        move(one, draft.moved_ras_mm[n])
    draft.options = DicomOptions(resample_tilt=True)


def turned_slice(draft: Draft) -> None:
    """One slice has its rows and columns exchanged."""
    one = draft.slices[draft.middle]
    one.ImageOrientationPatient = [*one.ImageOrientationPatient[3:], *one.ImageOrientationPatient[:3]]


def two_volumes(draft: Draft) -> None:
    """Two acquisitions at the same positions."""
    other = slice_datasets(replace(draft.truth, array=draft.truth.array[::-1]))
    for time, part in enumerate((draft.slices, other)):
        for one in part:
            one.AcquisitionNumber, one.SeriesInstanceUID = time, draft.slices[0].SeriesInstanceUID
            one.FrameOfReferenceUID = draft.slices[0].FrameOfReferenceUID
    draft.slices += other


def two_series(draft: Draft) -> None:
    """Two series, and none chosen."""
    one_of_two(draft)
    draft.options = DicomOptions()


def truncated(draft: Draft) -> None:
    """One file cut within its pixels."""
    one = draft.slices[draft.middle]
    draft.after.append(lambda folder: cut(folder, one.SOPInstanceUID, -200))


def only_a_report(draft: Draft) -> None:
    """No image at all."""
    draft.slices = [no_image()]


def only_a_localizer(draft: Draft) -> None:
    """Scouts alone."""
    for one in draft.slices:
        one.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def color(draft: Draft) -> None:
    """Color pictures."""
    for one in draft.slices:
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"


def no_position(draft: Draft) -> None:
    """Pictures without a position."""
    for one in draft.slices:
        del one.ImagePositionPatient


def no_spacing(draft: Draft) -> None:
    """One slice without pixel spacing."""
    del draft.slices[draft.middle].PixelSpacing


def bad_numbers(draft: Draft) -> None:
    """A position of two or of four numbers."""
    one = draft.slices[draft.middle]
    one.ImagePositionPatient = [[1, 2], [0, 0, 0, 0]][int(draft.rng.integers(2))]


def skewed(draft: Draft) -> None:
    """Rows and columns that are not at right angles."""
    for one in draft.slices:
        one.ImageOrientationPatient = [1, 0, 0, 0.3, 1, 0]


def other_size(draft: Draft) -> None:
    """One slice with two rows less."""
    one = draft.slices[draft.middle]
    one.Rows, one.PixelData = one.Rows - 2, one.PixelData[: -2 * 2 * one.Columns]


def other_spacing(draft: Draft) -> None:
    """One slice with larger pixels."""
    one = draft.slices[draft.middle]
    one.PixelSpacing = [float(value) * 1.1 for value in one.PixelSpacing]


def other_frame(draft: Draft) -> None:
    """One slice in another frame of reference."""
    draft.slices[draft.middle].FrameOfReferenceUID = generate_uid()


EXACT: tuple[Trait, ...] = (
    *(clean, clean, clean, copies, localizer, report_beside, junk_beside, enhanced, bare, stored_signed),
    *(slopes, one_of_two, cut_last_header, gap_allowed, tilt_resampled),
)
REFUSED: dict[Trait, str] = {
    slice_missing: r"gap of .* \(expected .*\); 1 slice looks missing",
    slices_missing: "2 slices look missing",
    uneven: "not evenly spaced: a gap of .* gaps range from",
    beside: "not in a straight stack: .* mm beside it",
    tilted: r"gantry tilt of \d+\.\d degrees",
    turned_slice: r"mixed orientations: 1 of \d+ are turned by up to",
    two_volumes: r"images lie at \d+ positions; 2 at one position differ in AcquisitionNumber",
    two_series: "there are 2 series: .*--series UID",
    truncated: "truncated or damaged",
    only_a_report: "no series of slices .*Comprehensive SR",
    only_a_localizer: "no series of slices .*localizer",
    color: "no series of slices .*color picture",
    no_position: "no series of slices .*picture without position",
    no_spacing: "PixelSpacing is missing",
    bad_numbers: "ImagePositionPatient should be 3 numbers|not in a straight stack|evenly|apart",
    skewed: "no pair of right-angled unit vectors",
    other_size: "2 sizes",
    other_spacing: "pixel spacing changes within the series",
    other_frame: "2 frames of reference",
}
TRAITS: tuple[Trait, ...] = (*EXACT, *REFUSED)
NOTED: tuple[Trait, ...] = (copies, cut_last_header, gap_allowed, tilt_resampled)
"""Read with a warning; all else without."""

PLAIN: tuple[Trait, ...] = (bare, truncated, color, enhanced)
"""Traits that are made of uncompressed files."""


def no_image() -> Any:
    """A structured report."""
    dataset = slice_datasets(Volume(np.zeros((2, 2, 1), np.int16), np.eye(4)))[0]
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    return dataset


def move(dataset: Any, by_ras_mm: Any) -> None:
    """Move a slice in the patient."""
    position = np.array(dataset.ImagePositionPatient, float) + np.array(by_ras_mm) * (-1, -1, 1)
    dataset.ImagePositionPatient = [f"{value:.6f}" for value in position]


def cut(folder: Path, uid: str, end: int) -> None:
    """Cut the file of an image short."""
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        if uid.encode() in content:
            path.write_bytes(content[:end])


def write(draft: Draft, folder: Path, trait: Trait) -> Path:
    """Write the files in a random layout, order, naming and transfer syntax; return the path to read."""
    rng = draft.rng
    layout = draft.layout or LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    name = NAMES[int(rng.integers(len(NAMES)))]
    syntax = EXPLICIT if draft.plain or trait in PLAIN else SYNTAXES[int(rng.integers(len(SYNTAXES)))]
    slices = draft.slices
    for one in slices:
        if "PixelData" in one and syntax != EXPLICIT:
            recode(one, syntax)
    order = rng.permutation(len(slices)) if layout == "shuffled" else range(len(slices))
    save_slices([slices[n] for n in order], folder, name=name)
    if trait is copies:
        save_slices(slices[1:3], folder / "again", name=name)
    if layout == "nested":
        for n, path in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
            (folder / f"part {n % 3}" / "x").mkdir(parents=True, exist_ok=True)
            path.rename(folder / f"part {n % 3}" / "x" / path.name)
    for change in draft.after:
        change(folder)
    return zipped(folder) if layout == "zip" else folder


def zipped(folder: Path) -> Path:
    """The folder as an archive beside it."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder))
    return archive
