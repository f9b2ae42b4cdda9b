"""The audit: every orientation is exact; gaps, tilts and mixtures are refused with the numbers measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.errors import GeometryError, InputError, LatentsegWarning
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.series import DicomOptions

pytest.importorskip("pydicom")

NAMED = {
    "axial": "LPS",
    "flipped": "LPI",
    "prone": "RAS",
    "coronal": "LIP",
    "sagittal": "PIL",
    "sagittal, to the right": "PIR",
}
LETTERS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def affine_of(codes: str, spacing: tuple[float, float, float] = (0.75, 0.5, 2.5)) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = np.array([LETTERS[code] for code in codes]).T * spacing
    affine[:3, 3] = (-12.5, 31.25, 7.0)
    return affine


def phantom(affine: Any = None, shape: tuple[int, int, int] = (9, 8, 7)) -> Volume:
    values = np.random.default_rng(3).integers(-1000, 1000, shape).astype(np.int16)
    return Volume(values, affine_of("LPS") if affine is None else affine, modality="CT")


def by_position(volume: Volume) -> dict[tuple[float, ...], int]:
    index = np.indices(volume.shape).reshape(3, -1)
    world = volume.affine_ras_mm[:3, :3] @ index + volume.affine_ras_mm[:3, 3:]
    keys = map(tuple, np.round(world.T, 2) + 0.0)
    return dict(zip(keys, volume.array.reshape(-1).tolist(), strict=True))


@pytest.mark.parametrize("codes", NAMED.values(), ids=NAMED)
def test_every_voxel_stays_where_it_is(codes: str, tmp_path: Path) -> None:
    volume = phantom(affine_of(codes))
    save_slices(slice_datasets(volume), tmp_path)
    again = read(tmp_path)
    assert by_position(again) == by_position(volume)
    assert np.linalg.det(again.affine_ras_mm) > 0  # K runs along the normal: right-handed


@st.composite
def oblique_affines(draw: Any) -> np.ndarray:
    angles = [draw(st.floats(-3.1, 3.1)) for _ in range(3)]
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [n for n in range(3) if n != axis]
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation * [draw(st.floats(0.3, 4)) for _ in range(3)]
    affine[:3, 2] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


@given(oblique_affines())
def test_oblique_series_are_exact(tmp_path_factory: pytest.TempPathFactory, affine: np.ndarray) -> None:
    volume = phantom(affine, (5, 4, 3))
    folder = tmp_path_factory.mktemp("oblique")
    save_slices(slice_datasets(volume), folder)
    again = read(folder)
    right_handed = np.linalg.det(affine) > 0
    expected = volume.array if right_handed else volume.array[:, :, ::-1]
    np.testing.assert_array_equal(again.array, expected)
    origin = affine @ [0, 0, 0 if right_handed else 2, 1]
    np.testing.assert_allclose(again.affine_ras_mm[:3, 3], origin[:3], atol=1e-3)
    np.testing.assert_allclose(again.affine_ras_mm[:3, :2], affine[:3, :2], atol=1e-4)


def _drop(*which: int) -> Callable[[list[Any]], list[Any]]:
    return lambda slices: [one for n, one in enumerate(slices) if n not in which]


def _shift(which: int, axis: int, mm: float) -> Callable[[list[Any]], list[Any]]:
    def change(slices: list[Any]) -> list[Any]:
        position = [float(value) for value in slices[which].ImagePositionPatient]
        position[axis] += mm
        slices[which].ImagePositionPatient = position
        return slices

    return change


def _tilt(degrees: float) -> Callable[[list[Any]], list[Any]]:
    def change(slices: list[Any]) -> list[Any]:
        for n, one in enumerate(slices):
            x, y, z = map(float, one.ImagePositionPatient)
            one.ImagePositionPatient = [x, round(y + 2.5 * n * np.tan(np.radians(degrees)), 6), z]
        return slices

    return change


def _set(which: int, **values: Any) -> Callable[[list[Any]], list[Any]]:
    def change(slices: list[Any]) -> list[Any]:
        for name, value in values.items():
            if value is None:
                del slices[which][name]
            else:
                setattr(slices[which], name, value)
        return slices

    return change


REFUSED: dict[str, tuple[Callable[[list[Any]], list[Any]], str]] = {
    "one slice missing": (_drop(3), r"gap of 5 mm after slice_0003.dcm .* \(expected 2.5\); 1 slice looks"),
    "two slices missing": (_drop(3, 4), r"gap of 7.5 mm .*; 2 slices look missing"),
    "uneven": (_shift(3, 2, 1.0), r"gap of (3.5|1.5) mm .*gaps range from 1.5 to 3.5 mm"),
    "tilted": (_tilt(15), r"gantry tilt of 15.0 degrees.*resample_tilt=True"),
    "beside the stack": (_shift(3, 0, 4.0), r"not in a straight stack: slice_0004.dcm .* is 4 mm beside"),
    "turned slice": (
        _set(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]),
        r"mixed orientations: 1 of 7 are turned by up to 90.0 degrees",
    ),
    "skewed axes": (_set(0, ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), "no pair of right-angled unit"),
    "pixel spacing changes": (_set(2, PixelSpacing=[0.6, 0.75]), "pixel spacing changes .*0.75 x 0.6 mm"),
    "pixel spacing of zero": (_set(2, PixelSpacing=[0, 0.75]), "PixelSpacing is 0, 0.75"),
    "no pixel spacing": (_set(2, PixelSpacing=None), "PixelSpacing is missing: .*slice_0003.dcm"),
    "two frames of reference": (_set(2, FrameOfReferenceUID="1.2.3"), "2 frames of reference"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_grid_is_refused_with_numbers(
    change: Callable[[list[Any]], list[Any]], message: str, tmp_path: Path
) -> None:
    save_slices(slice_datasets(phantom()), tmp_path)  # names stay those of the full series
    paths = sorted(tmp_path.iterdir())
    changed = change(slice_datasets(phantom()))
    kept = {one.InstanceNumber for one in changed}
    for path in paths:
        path.unlink()
    for one in changed:
        save_slices([one], tmp_path, name=f"slice_{one.InstanceNumber:04d}.dcm")
    assert len(kept) == len(changed)
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path) -> None:
    slices = slice_datasets(phantom(affine_of("LPS", (0.5, 0.5, 0.625)), (4, 4, 40)))
    for one in slices:
        one.ImagePositionPatient = [round(float(value), 1) for value in one.ImagePositionPatient]
    save_slices(slices, tmp_path)
    assert read(tmp_path).spacing_mm[2] == pytest.approx(0.625, abs=0.005)


def ramp(shape: tuple[int, int, int] = (16, 16, 9)) -> Volume:
    """Values that are a linear function of the position: what linear resampling keeps exactly."""
    affine = affine_of("LPS", (1.0, 1.0, 2.5))
    world = np.einsum("ab,bijk->aijk", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    return Volume(np.rint(world[1] * 8 + world[2] * 4).astype(np.int16), affine, modality="CT")


def test_gaps_are_filled_on_request_and_marked(tmp_path: Path) -> None:
    whole = ramp()
    save_slices(_drop(3, 4)(slice_datasets(whole)), tmp_path)
    with pytest.warns(LatentsegWarning, match="is approximate: resampled: .* 2 slices look missing"):
        filled = read(tmp_path, dicom=DicomOptions(allow_gaps=True))
    np.testing.assert_allclose(filled.array, whole.array, atol=0.01)
    np.testing.assert_allclose(filled.affine_ras_mm, whole.affine_ras_mm, atol=1e-6)
    assert "2 slices look missing" in filled.header.marks[0]


@pytest.mark.parametrize("degrees", [12.0, -20.0])
def test_a_tilt_is_resampled_on_request_and_marked(tmp_path: Path, degrees: float) -> None:
    slices = _tilt(degrees)(slice_datasets(ramp()))
    for n, one in enumerate(slices):  # the picture follows the patient, not the table
        moved = 2.5 * n * np.tan(np.radians(degrees))
        pixels = np.frombuffer(one.PixelData, "<u2").reshape(16, 16) - np.float64(8 * moved)
        one.PixelData = np.rint(pixels).astype("<u2").tobytes()
    save_slices(slices, tmp_path)
    with pytest.warns(LatentsegWarning, match="gantry tilt of .* degrees resampled"):
        scan = read(tmp_path, dicom=DicomOptions(resample_tilt=True))
    world = np.einsum("ab,bijk->aijk", scan.affine_ras_mm[:3, :3], np.indices(scan.shape))
    world += scan.affine_ras_mm[:3, 3, None, None, None]
    starts = np.array([float(one.ImagePositionPatient[1]) for one in slices])
    below = -world[1] - starts  # rows run to the back: millimeters behind the first row of each slice
    inside = (below >= 0) & (below <= 15)
    assert inside.sum(1).min() >= 15
    assert np.abs(scan.array - world[1] * 8 - world[2] * 4)[inside].max() < 0.6
    assert (scan.array[(below < -1) | (below > 16)] == scan.array.min()).all()


def test_options_change_nothing_where_nothing_is_wrong(tmp_path: Path) -> None:
    save_slices(slice_datasets(phantom()), tmp_path)
    scan = read(tmp_path, dicom=DicomOptions(allow_gaps=True, resample_tilt=True))
    assert scan.header.marks == ()
    np.testing.assert_array_equal(scan.array, phantom().array)


def test_errors_are_geometry_errors(tmp_path: Path) -> None:
    save_slices(_tilt(15)(slice_datasets(phantom())), tmp_path)
    with pytest.raises(GeometryError) as caught:
        read(tmp_path)
    assert caught.value.exit_code == 3
