"""Small valid files of every kind that is read, each with what reads it."""

from __future__ import annotations

import gzip
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentseg.batch.cases import find_cases
from latentseg.batch.store import OutputFolder
from latentseg.evaluation.label_maps import parse_labels
from latentseg.imaging import Volume, read, read_labels, write_like
from latentseg.imaging.dicom.files import quiet_pydicom
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import SEG_KINDS, Segment, write_seg
from latentseg.imaging.dicom.series import DicomOptions
from latentseg.methods.fewshot.support import Support
from latentseg.methods.fewshot.support_folder import SupportFolder
from latentseg.report.cohort import read_run
from latentseg.text.codes import segment_code

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

from helpers.dicom_files import multi_frame, recode, save_slices, slice_datasets

SHAPE = (34, 36, 4)
AFFINE = np.diag([-1.0, -1, 2.5, 1])
LENIENT = DicomOptions(allow_gaps=True, resample_tilt=True)


class Target(NamedTuple):
    """A file to be damaged.

    Attributes:
        path: Where it is.
        use: Reads it.
        packed: Whether the damage is done to what is in a gzip file.
    """

    path: Path
    use: Callable[[], object]
    packed: bool = False

    def content(self) -> bytes:
        """The bytes that are damaged."""
        content = self.path.read_bytes()
        return gzip.decompress(content) if self.packed else content

    def put(self, content: bytes) -> None:
        """Write damaged bytes."""
        self.path.write_bytes(gzip.compress(content, 1) if self.packed else content)


def phantom() -> Volume:
    """Noise on a grid."""
    values = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    return Volume(values, AFFINE, modality="CT")


def mask() -> np.ndarray:
    """A box."""
    box = np.zeros(SHAPE, np.uint8)
    box[5:20, 6:18, 1:3] = 1
    return box


def nifti(folder: Path) -> Iterator[Target]:
    """NIfTI, plain and packed, as image and as labels."""
    for name in ("a.nii", "a.nii.gz"):
        path = write_like(phantom().array, like=phantom(), path=folder / name, kind="image")
        yield Target(path, lambda path=path: read(path))
    yield Target(path, lambda: read(path), packed=True)
    labels = write_like(mask(), like=phantom(), path=folder / "labels.nii")
    yield Target(labels, lambda: read_labels(labels))


def itk(folder: Path) -> Iterator[Target]:
    """NRRD and MetaImage, as image and as labels."""
    for suffix in (".nrrd", ".mha"):
        path = write_like(phantom().array, like=phantom(), path=folder / f"a{suffix}", kind="image")
        yield Target(path, lambda path=path: read(path))
        labels = write_like(mask(), like=phantom(), path=folder / f"labels{suffix}")
        yield Target(labels, lambda labels=labels: read_labels(labels))


def pictures(folder: Path) -> Iterator[Target]:
    """PNG, TIFF, JPEG, and a folder of slices."""
    from PIL import Image

    flat = Volume(mask()[:, :, 1:2] * 200, np.eye(4))
    for name in ("a.png", "a.tif"):
        path = write_like(flat.array, like=flat, path=folder / name)
        yield Target(path, lambda path=path: (read(path), read_labels(path)))
    Image.fromarray(flat.array[:, :, 0]).save(folder / "a.jpg")
    yield Target(folder / "a.jpg", lambda: read(folder / "a.jpg"))
    stack = write_like(mask(), like=phantom(), path=folder / "stack.tif")
    yield Target(stack, lambda: read(stack))
    for number in range(3):
        slices = write_like(flat.array, like=flat, path=folder / f"slices/{number}.png")
    yield Target(slices, lambda: read(folder / "slices"))


def dicom(folder: Path) -> Iterator[Target]:
    """One file of a series in every transfer syntax, and a multi-frame file."""
    import imagecodecs

    pydicom = quiet_pydicom()
    ids = pydicom.uid
    kinds = ("", ids.ImplicitVRLittleEndian, ids.ExplicitVRBigEndian, ids.DeflatedExplicitVRLittleEndian)
    kinds += (ids.JPEG2000Lossless, ids.JPEGLSLossless, ids.RLELossless, ids.JPEGLosslessSV1)
    for number, syntax in enumerate(kinds):
        slices = slice_datasets(phantom())
        for one in slices:
            if syntax == ids.JPEGLosslessSV1:
                pixels = np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns)
                one.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpeg8_encode(pixels, lossless=True)])
                one["PixelData"].VR, one.file_meta.TransferSyntaxUID = "OB", syntax
            elif syntax:
                recode(one, syntax)
        place = folder / str(number)
        yield Target(save_slices(slices, place)[1], lambda place=place: read(place, dicom=LENIENT))
    path = save_slices([multi_frame(slice_datasets(phantom()))], folder / "enhanced")[0]
    yield Target(path, lambda: read(path, dicom=LENIENT))


def archive(folder: Path) -> Iterator[Target]:
    """A zip archive of a series."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for path in save_slices(slice_datasets(phantom()), folder / "loose"):
            file.write(path, f"study/{path.name}")
    path = folder / "study.zip"
    path.write_bytes(packed.getvalue())
    yield Target(path, lambda: read(path, dicom=LENIENT))


def segmentation(folder: Path) -> Iterator[Target]:
    """DICOM SEG of every kind, on its scan and on its own grid."""
    save_slices(slice_datasets(phantom()), folder / "scan")
    scan = read(folder / "scan")
    box = mask() > 0
    for kind in SEG_KINDS:
        array = box.astype(np.float32) * 0.8 if kind == "fractional" else box
        segment = Segment("liver", array, segment_code("liver"))
        path = write_seg([segment], like=scan, path=folder / f"{kind}.dcm", kind=kind)
        yield Target(path, lambda path=path: (read_masks(path, like=scan), read_labels(path)))


def structures(folder: Path) -> Iterator[Target]:
    """RTSTRUCT on its scan."""
    save_slices(slice_datasets(phantom()), folder / "scan")
    scan = read(folder / "scan")
    path = save_contours(scan, {"GTV": (1, 2), "liver": (0, 1), "empty": ()}, folder / "structures.dcm")
    yield Target(path, lambda: (read_masks(path, like=scan), read_labels(path, like=scan, name="liver")))


def save_contours(scan: Volume, slices_of: dict[str, tuple[int, ...]], path: Path) -> Path:
    """Write an RTSTRUCT that shows a box on some slices, for each name."""
    pydicom = quiet_pydicom()
    dataset = slice_datasets(phantom())[0]
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.SOPClassUID, dataset.Modality = "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    corners = np.array([[4.6, 12.4, 12.4, 4.6], [5.6, 5.6, 15.4, 15.4]])
    for number, (name, slices) in enumerate(slices_of.items(), start=1):
        roi, drawing = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        roi.ReferencedFrameOfReferenceUID = scan.header.frame_of_reference
        drawing.ReferencedROINumber, drawing.ContourSequence = number, []
        for k in slices:
            world = scan.affine_ras_mm @ np.vstack([corners, np.full(4, k), np.ones(4)])
            contour = pydicom.Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.ContourData = [f"{value:.4f}" for value in (world[:3].T * (-1, -1, 1)).ravel()]
            drawing.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawing)
    return save_slices([dataset], path.parent, name=path.name)[0]


def supports(folder: Path) -> Iterator[Target]:
    """A folder of examples: its image, its mask, its table of names; and an encoded support."""
    import torch
    from safetensors.torch import save_file

    from latentseg.methods.fewshot.context import FORMAT, SupportContext

    image = write_like(phantom().array, like=phantom(), path=folder / "in/a.nii", kind="image")
    drawn = write_like(mask(), like=phantom(), path=folder / "in/a_mask.nii")
    names = folder / "in/labels.json"
    names.write_text('{"liver": 1, "spleen": 2}', encoding="utf-8")

    def use() -> None:
        SupportFolder(folder / "in")
        Support.from_folder(folder / "in", target="liver")

    yield from (Target(path, use) for path in (image, drawn, names))
    encoded = folder / "a.safetensors"
    about = {"name": "liver", "mode": "nearest", "model": "m", "flat": False, "format": FORMAT}
    tensors = {
        name: torch.zeros(1, 4) for name in ("fg", "bg", "signature", "cache/keys/0", "cache/values/0")
    }
    save_file(tensors, encoded, {"latentseg": json.dumps(about)})
    yield Target(encoded, lambda: SupportContext.load(encoded))


def tables(folder: Path) -> Iterator[Target]:
    """Lists of cases, names of labels, the record of a case and the manifest of a run."""
    record, manifest = folder / "run/a/a_case.json", folder / "run/run.json"
    record.parent.mkdir(parents=True)
    jobs = folder / "jobs.csv"
    text = "image,case,modality,orientation,series\nct.nii.gz,one,CT,,\nmr.nrrd,two,MR,LAS,3\n"
    jobs.write_text(text, encoding="utf-8")
    yield Target(jobs, lambda: find_cases(jobs))
    labels = folder / "dataset.json"
    labels.write_text('{"labels": {"background": 0, "liver": 1, "tumor": 2}}', encoding="utf-8")
    yield Target(labels, lambda: parse_labels(str(labels)))
    row = {"target": "liver", "absent": False, "presence": 0.9, "uncertainty": 0.1, "worst_slice": 2}
    row |= {"slice_axis": "K", "touches_border": False, "volume_ml": 2.5, "components": 1}
    about = {"case": "a", "image": "a.nii", "key": "k", "targets": [row], "files": {}, "warnings": []}
    record.write_text(json.dumps(about), encoding="utf-8")
    method = {"weights": "w", "options": {}, "targets": ["liver"]}
    whole = {"latentseg": "1", "status": "finished", "command": [], "methods": [method], "versions": {}}
    manifest.write_text(json.dumps(whole | {"machine": {}, "cases": []}), encoding="utf-8")

    def use() -> None:
        OutputFolder(folder / "run").record("a")
        _ = read_run(folder / "run").review

    yield from (Target(path, use) for path in (record, manifest))


READERS: dict[str, Callable[[Path], Iterator[Target]]] = {
    one.__name__: one
    for one in (
        *(nifti, itk, pictures, dicom, archive),
        *(segmentation, structures, supports, tables),
    )
}


def damage(content: bytes, draw: Callable[[int], int]) -> bytes:
    """Damage bytes: single ones, runs, numbers at their limits, cut off, repeated, or left out.

    Args:
        content: What is whole.
        draw: A number from 0 to below its argument.
    """
    damaged = bytearray(content)
    reach = min(len(damaged), 2000) if draw(2) else len(damaged)  # the header, or all of it
    for _ in range(draw(7)):
        _one_damage(damaged, draw, reach)
    return bytes(damaged[: draw(len(damaged) + 1)] if draw(6) == 0 else damaged)


def _one_damage(damaged: bytearray, draw: Callable[[int], int], reach: int) -> None:
    at, kind = draw(max(1, min(reach, len(damaged)))), draw(6)
    limits = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"-1e9")
    run = 1 + draw(40)
    if kind == 0:
        damaged[at : at + 4] = limits[draw(len(limits))]
    elif kind == 1:
        damaged[at : at + run] = b""
    elif kind == 2:
        damaged[at:at] = damaged[at : at + run]
    elif kind == 3:
        damaged[at : at + run] = bytes(draw(256) for _ in range(run))
    else:
        damaged[at : at + 1] = bytes([draw(256)])
