"""Damaged DICOM files of every kind: read, or refused with our own error; no other way out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentseg.errors import LatentsegError, noted
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom import DicomOptions
from latentseg.imaging.dicom_masks import read_masks
from latentseg.imaging.dicom_phantom import multi_frame, recode, save_slices, slice_datasets
from latentseg.imaging.dicom_seg import Segment, write_seg
from latentseg.text.codes import segment_code

pydicom = pytest.importorskip("pydicom")
imagecodecs = pytest.importorskip("imagecodecs")
pytest.importorskip("highdicom")
SHAPE = (34, 36, 4)
LENIENT = DicomOptions(allow_gaps=True, resample_tilt=True)


def phantom() -> Volume:
    values = np.random.default_rng(0).integers(-900, 900, SHAPE).astype(np.int16)
    return Volume(values, np.diag([-1.0, -1, 2.5, 1]), modality="CT")


def _plain(folder: Path) -> Any:
    return save_slices(slice_datasets(phantom()), folder)[1], lambda: read(folder, dicom=LENIENT)


def _compressed(folder: Path, syntax: str = pydicom.uid.JPEG2000Lossless) -> Any:
    slices = slice_datasets(phantom())
    for one in slices:
        recode(one, syntax)
    return save_slices(slices, folder)[1], lambda: read(folder, dicom=LENIENT)


def _jpeg_ls(folder: Path) -> Any:
    return _compressed(folder, pydicom.uid.JPEGLSLossless)


def _run_length(folder: Path) -> Any:
    return _compressed(folder, pydicom.uid.RLELossless)


def _jpeg(folder: Path) -> Any:
    slices = slice_datasets(phantom())
    for one in slices:
        pixels = np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns)
        one.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpeg8_encode(pixels, lossless=True)])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLosslessSV1
    return save_slices(slices, folder)[1], lambda: read(folder, dicom=LENIENT)


def _enhanced(folder: Path) -> Any:
    path = save_slices([multi_frame(slice_datasets(phantom()))], folder)[0]
    return path, lambda: read(path, dicom=LENIENT)


def _segmentation(folder: Path) -> Any:
    save_slices(slice_datasets(phantom()), folder / "scan")
    scan = read(folder / "scan")
    segment = Segment("liver", scan.array > 0, segment_code("liver"))
    path = write_seg([segment], like=scan, path=folder / "seg.dcm")
    return path, lambda: (read_masks(path, like=scan), read_masks(path))


@pytest.fixture(
    scope="module", params=[_plain, _compressed, _jpeg_ls, _run_length, _jpeg, _enhanced, _segmentation]
)
def target(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, Callable[[], Any]]:
    path, use = request.param(tmp_path_factory.mktemp("fuzz"))
    use()
    return path, path.read_bytes(), use


@given(
    places=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    header_only=st.booleans(),
    keep=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_damage_is_read_or_refused(
    target: Any, places: list[tuple[float, int]], header_only: bool, keep: float
) -> None:
    path, content, use = target
    damaged = bytearray(content)
    reach = min(len(content), 2000) if header_only else len(content)
    for where, value in places:
        damaged[min(int(where * reach), len(content) - 1)] = value
    path.write_bytes(damaged[: int(len(damaged) * keep)])
    with noted([]), suppress(LatentsegError):
        use()
