"""Segmentations of 3D Slicer: names and layers from the header, the smallest extent, overlapping segments."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentseg.errors import GeometryError, InputError, LatentsegWarning, UsageError, noted
from latentseg.imaging import Volume, read_labels
from latentseg.imaging.formats import structure_names

SHAPE = (10, 9, 8)
AFFINE = np.array([[-2.0, 0, 0, 30], [0, -2.0, 0, 40], [0, 0, 3.0, -50], [0, 0, 0, 1]])
SCAN = Volume(array=np.zeros(SHAPE, np.int16), affine_ras_mm=AFFINE)


def block(*spans: tuple[int, int]) -> Any:
    """True in a box of the scan."""
    inside = np.zeros(SHAPE, bool)
    inside[tuple(slice(*span) for span in spans)] = True
    return inside


LIVER, TUMOR = block((2, 7), (1, 8), (2, 6)), block((4, 6), (3, 5), (3, 5))


def write(path: Path, layers: list[Any], keys: list[str], *, start: tuple[int, int, int] = (0, 0, 0)) -> Path:
    """A file as Slicer writes it: label maps `(I, J, K)` that begin at a voxel of the scan."""
    origin = np.diag([-1, -1, 1]) @ (AFFINE @ [*start, 1])[:3]
    sizes, vectors = list(layers[0].shape), ["(2,0,0)", "(0,2,0)", "(0,0,3)"]
    kinds = ["domain"] * 3
    if len(layers) > 1:
        sizes, vectors, kinds = [len(layers), *sizes], ["none", *vectors], ["list", *kinds]
    header = [
        *("NRRD0004", "type: unsigned char", f"dimension: {len(sizes)}", "space: left-posterior-superior"),
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(vectors)}",
        *(f"kinds: {' '.join(kinds)}", "endian: little", "encoding: gzip"),
        f"space origin: ({','.join(map(str, origin))})",
        *keys,
    ]
    voxels = np.stack(layers).astype(np.uint8) if len(layers) > 1 else layers[0].astype(np.uint8)
    path.write_bytes("\n".join([*header, "", ""]).encode() + gzip.compress(voxels.tobytes(order="F")))
    return path


def named(*segments: tuple[str, int, int]) -> list[str]:
    """Keys of segments: name, label value, layer."""
    return [
        line
        for number, (name, value, layer) in enumerate(segments)
        for line in (
            f"Segment{number}_ID:=Segment_{number + 1}",
            f"Segment{number}_Name:={name}",
            f"Segment{number}_LabelValue:={value}",
            f"Segment{number}_Layer:={layer}",
        )
    ]


def test_segments_of_one_layer_by_name(tmp_path: Path) -> None:
    both = np.where(TUMOR, 7, LIVER * 3)
    path = write(tmp_path / "a.seg.nrrd", [both], named(("Liver", 3, 0), ("Tumor (größer)", 7, 0)))
    assert structure_names(path) == ["Liver", "Tumor (größer)"]
    np.testing.assert_array_equal(read_labels(path, like=SCAN, name="liver").array, LIVER & ~TUMOR)
    np.testing.assert_array_equal(read_labels(path, like=SCAN, name="Tumor (größer)").array, TUMOR)
    np.testing.assert_array_equal(read_labels(path, like=SCAN).array, both)
    with pytest.raises(UsageError, match=r"no segment is called 'spleen'; there are 'Liver', 'Tumor"):
        read_labels(path, like=SCAN, name="spleen")


def test_overlapping_segments_lie_in_layers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, TUMOR * 2], named(("liver", 1, 0), ("tumor", 2, 1)))
    for name, inside in (("liver", LIVER), ("tumor", TUMOR)):
        found = read_labels(path, like=SCAN, name=name)
        np.testing.assert_array_equal(found.array, inside)
        np.testing.assert_array_equal(found.affine_ras_mm, AFFINE)
    with pytest.raises(UsageError, match=r"several layers.*\('liver', 'tumor'\)"):
        read_labels(path, like=SCAN)


def test_files_before_layers_had_numbers(tmp_path: Path) -> None:
    """Slicer up to 4.10: one binary layer per segment, in their order."""
    path = write(tmp_path / "a.seg.nrrd", [LIVER, TUMOR], ["Segment0_Name:=liver", "Segment1_Name:=tumor"])
    np.testing.assert_array_equal(read_labels(path, like=SCAN, name="tumor").array, TUMOR)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_smallest_extent_is_put_where_it_was(layers: int, tmp_path: Path) -> None:
    cut = (slice(2, 7), slice(1, 8), slice(2, 6))
    stored = [LIVER[cut], TUMOR[cut] * 2][:layers]
    keys = [
        *named(("liver", 1, 0), ("tumor", 2, 1))[: 4 * layers],
        "Segmentation_ReferenceImageExtentOffset:=2 1 2",
    ]
    path = write(tmp_path / "a.seg.nrrd", stored, keys, start=(2, 1, 2))
    found = read_labels(path, like=SCAN, name="liver")
    np.testing.assert_array_equal(found.array, LIVER)
    assert found.shape == SHAPE
    moved = write(tmp_path / "b.seg.nrrd", stored, keys, start=(6, 1, 2))
    with pytest.raises(GeometryError, match=r"lie outside of the image: 10x9x8.*against 5x7x4"):
        read_labels(moved, like=SCAN, name="liver")


def test_one_segment_is_taken_whatever_its_name_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER * 4], named(("Segment_1", 4, 0)))
    with pytest.warns(LatentsegWarning, match=r"its only segment, 'Segment_1', is taken for 'liver'"):
        np.testing.assert_array_equal(read_labels(path, like=SCAN, name="liver").array, LIVER)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER, TUMOR], named(("x", 1, 0), ("x", 1, 1)))
    assert structure_names(path) == ["x", "x (2)"]
    np.testing.assert_array_equal(read_labels(path, like=SCAN, name="x (2)").array, TUMOR)


def test_a_file_without_segments_is_a_label_map(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER], [])
    assert structure_names(path) == []
    with noted([]) as notes:
        np.testing.assert_array_equal(read_labels(path, like=SCAN, name="liver").array, LIVER)
    assert notes == []


def test_a_layer_that_is_not_there_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.seg.nrrd", [LIVER], named(("liver", 1, 3), ("x", 1, 0)))
    with pytest.raises(InputError, match=r"damaged \(a segment is in layer 3 of 1\)"):
        read_labels(path, like=SCAN, name="liver")
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match="truncated or damaged"):
        read_labels(path, like=SCAN, name="x")
