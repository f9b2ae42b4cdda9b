"""Real scans: canonical frame, grids and modality, where the data folder is present."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from latentseg.imaging import Volume, read, read_labels, to_canonical, write_like
from latentseg.imaging.orientation import check_orientation

DATA = Path(os.environ.get("LATENTSEG_DATA") or "../shared/data")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data in {DATA} (set LATENTSEG_DATA)")


def _center(labels: Volume, value: int) -> np.ndarray:
    return np.argwhere(to_canonical(labels).slices == value).mean(0)


@pytest.mark.parametrize(
    ("folder", "case", "orientation", "liver", "spleen"),
    [
        ("sabs", 7, "LAS", 6, 1),
        ("sabs", 12, "LAS", 6, 1),
        ("chaos_t2", 1, None, 1, 4),
        ("chaos_t2", 20, None, 1, 4),
    ],
)
def test_liver_on_the_left_of_the_image_kidneys_behind(
    folder: str, case: int, orientation: str | None, liver: int, spleen: int
) -> None:
    image = read(DATA / folder / f"image_{case}.nii.gz", orientation=orientation)
    labels = read_labels(DATA / folder / f"label_{case}.nii.gz", like=image)
    _, row, column = _center(labels, liver)
    assert column < image.shape[0] / 2 < _center(labels, spleen)[2]
    for kidney in (2, 3):
        assert _center(labels, kidney)[1] > row


PAIRS = [
    ("sabs/image_7.nii.gz", "sabs/label_7.nii.gz", ".nii.gz"),
    ("chaos_t2/image_1.nii.gz", "chaos_t2/label_1.nii.gz", ".nii.gz"),
    ("tumour_2d/lung/10035_100.png", "tumour_2d/lung/10035_100_label.png", ".png"),
    ("tumour_3d/brain1_image.nrrd", "tumour_3d/brain1_label.nrrd", ".nrrd"),
    ("tumour_3d/STS_003/CT_image.nii.gz", "tumour_3d/STS_003/CT_mask.nii.gz", ".nii.gz"),
    (
        "totalsegmentator_example/example_ct_sm.nii.gz",
        "totalsegmentator_example/example_seg.nii.gz",
        ".nii.gz",
    ),
]


@pytest.mark.parametrize(("image", "mask", "suffix"), PAIRS)
def test_masks_return_on_the_grid_of_the_scan(image: str, mask: str, suffix: str, tmp_path: Path) -> None:
    scan = read(DATA / image)
    labels = read_labels(DATA / mask, like=scan)
    canonical = to_canonical(scan)
    restored = canonical.restore(canonical.apply(labels.array))
    again = read_labels(write_like(restored, like=scan, path=tmp_path / f"m{suffix}"), like=scan)
    np.testing.assert_array_equal(again.array, labels.array)
    assert again.affine_ras_mm.tobytes() == scan.affine_ras_mm.tobytes()


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("totalsegmentator_example/example_ct.nii.gz", "CT"),
        ("tumour_3d/STS_003/CT_image.nii.gz", "CT"),
        ("chaos_t2/image_1.nii.gz", "MR"),
        ("sabs/image_7.nii.gz", "unknown"),
    ],
)
def test_modality_is_guessed_or_unknown(name: str, modality: str) -> None:
    assert read(DATA / name).modality == modality


def test_a_picture_of_a_chest_on_its_head_is_noticed(tmp_path: Path) -> None:
    source = DATA / "slices_2d" / "iq_othnccd" / "malignant" / "0401.jpg"
    assert check_orientation(read(source)).warning() is None
    upside_down = tmp_path / "chest.png"
    Image.open(source).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(upside_down)
    check = check_orientation(read(upside_down))
    assert check.is_wrong
    assert check.found[1] == "A"
