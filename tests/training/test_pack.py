"""Packing: which scans, which labels, which way up."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from helpers import packs
from latentseg.errors import InputError
from latentseg.phantom.bodies import abdomen
from latentseg.training.pack import Pack, PackOptions, Source, pack, save_array


def packed_from(data: Path, **changes: object) -> Pack:
    options = PackOptions(size=64, sources=(packs.source(**changes),))
    return pack(options, data=data, folder=data.parent / "pack")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two phantoms; the folder's own name holds what is replaced in the names of the label maps."""
    folder = tmp_path / "image_data"
    folder.mkdir()
    packs.write_phantoms(folder)
    return folder


def test_a_pack_holds_slices_labels_and_where_they_come_from(data: Path) -> None:
    packed = packed_from(data)
    assert packed.images.dtype == packed.labels.dtype == np.uint8
    assert packed.images.shape == packed.labels.shape == (16, 64, 64)
    assert isinstance(packed.images, np.memmap)
    assert packed.supervoxels is None
    assert [(scan.case, scan.first, scan.count) for scan in packed.scans] == [
        ("image_1", 0, 8),
        ("image_2", 8, 8),
    ]
    scan = packed.scans[0]
    assert scan.source == "phantom"
    assert scan.modality == "CT"
    assert scan.labels == packs.KEEP
    assert scan.spacing_mm == pytest.approx(abdomen(seed=1, shape=(64, 64, 8)).image.spacing_mm[::-1])
    assert packed.images.min() == 0
    assert packed.images.max() == 255
    names = sorted(path.name for path in packed.folder.iterdir())
    assert names == ["images.npy", "labels.npy", "pack.json"]


def test_slices_may_be_cut_to_the_body_and_brought_to_another_window(tmp_path: Path) -> None:
    """A picture in a wide window: body of 200, lungs of 60, air of 40 around it; its label moves along."""
    picture, label = np.full((64, 64), 40, np.uint8), np.zeros((64, 64), np.uint8)
    picture[16:48, 20:52], picture[24:32, 28:36], label[40:44, 40:48] = 200, 60, 1
    for name, array in (("a", picture), ("a_label", label)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    source = Source(
        name="chest", images="a.png", labels=(".png", "_label.png"), modality="CT", keep_labels={1: "tumor"}
    )
    grey = source.model_copy(update={"grey": (180.0, 220.0)})
    packed = pack(PackOptions(size=64, body=True, sources=(grey,)), data=tmp_path, folder=tmp_path / "p")
    image, tumor = packed.images[0], packed.labels[0] > 0
    assert image[0].max() < 60
    assert (image > 100).any(1).mean() > 0.85  # the body fills the slice
    assert int(image.max()) == pytest.approx(128, abs=3)  # half way between black and white
    assert (image[tumor] > 100).all()
    assert tumor.mean() == pytest.approx(3.4 * (label > 0).mean(), rel=0.3)
    whole = pack(PackOptions(size=64, sources=(source,)), data=tmp_path, folder=tmp_path / "q").images[0]
    assert (whole > 100).any(1).mean() == pytest.approx(0.5, abs=0.02)


def test_excluded_scans_are_not_even_opened(data: Path) -> None:
    (data / "image_3.nii.gz").write_text("reading this would fail", encoding="utf-8")
    packed = packed_from(data, exclude=("image_3.nii.gz", "image_1.nii.gz"))
    assert [scan.case for scan in packed.scans] == ["image_2"]
    with pytest.raises(InputError, match=r"image_3"):
        packed_from(data)


def test_labels_that_are_not_kept_never_enter_a_pack(data: Path) -> None:
    whole = packed_from(data)
    assert {1, 4, 11} <= set(np.unique(whole.labels)) <= {0, *packs.KEEP}
    assert packs.KEEP.keys() < set(np.unique(nib.load(data / "label_1.nii.gz").dataobj))
    few = packed_from(data, keep_labels={4: "spleen"})
    assert set(np.unique(few.labels)) == {0, 4}
    assert np.array_equal(few.labels == 4, whole.labels == 4)
    assert not packed_from(data, keep_labels={}).labels.any()


def test_scans_without_label_maps(data: Path) -> None:
    for path in data.glob("label_*"):
        path.unlink()
    with pytest.raises(InputError, match="label_1"):
        packed_from(data)
    assert not packed_from(data, labels=None).labels.any()


def test_slices_are_upright_however_the_voxels_are_stored(data: Path) -> None:
    upright = packed_from(data)
    images, labels = np.array(upright.images), np.array(upright.labels)
    rows, columns = (labels == 11).nonzero()[1].mean(), (labels == 1).nonzero()[2].mean()
    assert rows > 36  # the spine is below the middle: anterior is up
    assert columns < 30  # the liver is at the left of the picture: the patient's right
    for path in data.glob("*.nii.gz"):
        stored = nib.load(path)
        target = nib.orientations.axcodes2ornt(("S", "A", "R"))
        move = nib.orientations.ornt_transform(nib.io_orientation(stored.affine), target)
        nib.save(stored.as_reoriented(move), path)
    assert nib.aff2axcodes(nib.load(data / "image_1.nii.gz").affine) == ("S", "A", "R")
    turned = packed_from(data)
    assert np.array_equal(turned.images, images)
    assert np.array_equal(turned.labels, labels)


def test_a_wrong_affine_can_be_overruled(data: Path) -> None:
    right = packed_from(data)
    images, labels = np.array(right.images), np.array(right.labels)
    for path in data.glob("*.nii.gz"):
        stored = nib.load(path)
        lying = stored.affine @ np.diag([1.0, -1, 1, 1])  # says that the rows run the other way
        nib.save(nib.Nifti1Image(np.asanyarray(stored.dataobj), lying), path)
    fooled = packed_from(data)
    assert np.array_equal(fooled.images, images[:, ::-1])
    mended = packed_from(data, orientation="LPS")
    assert np.array_equal(mended.images, images)
    assert np.array_equal(mended.labels, labels)


def test_empty_ends_of_a_scan_are_left_out(data: Path) -> None:
    stored = nib.load(data / "image_1.nii.gz")
    values = np.asanyarray(stored.dataobj).copy()
    values[..., :2] = values[..., -1:] = values.min()
    nib.save(nib.Nifti1Image(values, stored.affine), data / "image_1.nii.gz")
    packed = packed_from(data)
    assert [scan.count for scan in packed.scans] == [5, 8]
    assert (packed.images.reshape(13, -1) > 12).any(1).all()


def test_procedural_patients_need_no_files(tmp_path: Path) -> None:
    source = {
        "name": "chests",
        "phantom": "chest",
        "seeds": [3, 5],
        "slices": 6,
        "keep_labels": ["lung", "liver"],
    }
    options = PackOptions.model_validate({"size": 64, "sources": [source]})
    packed = pack(options, data=tmp_path / "none", folder=tmp_path / "pack")
    assert [(scan.source, scan.case) for scan in packed.scans] == [
        ("chests", "chest-3"),
        ("chests", "chest-4"),
    ]
    assert {scan.modality for scan in packed.scans} == {"CT"}
    assert packed.scans[0].labels == {1: "lung", 2: "liver"}
    assert set(np.unique(packed.labels)) <= {0, 1, 2}
    assert (packed.labels == 1).mean() > 0.05
    limbs = {"name": "limbs", "phantom": "limb", "modality": "MR", "seeds": [0, 1], "slices": 3}
    options = PackOptions.model_validate({"size": 64, "sources": [limbs]})
    packed = pack(options, data=tmp_path / "none", folder=tmp_path / "limbs")
    assert packed.scans[0].modality == "MR"
    assert not packed.labels.any()


def test_a_source_that_matches_nothing(data: Path) -> None:
    with pytest.raises(InputError, match=r"'phantom' matches no file.*scan_"):
        packed_from(data, images="scan_*.nii.gz")


def test_folders_that_hold_no_pack(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="latentseg train pack"):
        Pack(tmp_path)


@pytest.mark.parametrize("name", ["pack.json", "images.npy", "labels.npy"])
def test_damaged_packs(data: Path, name: str) -> None:
    folder = packed_from(data).folder
    (folder / name).write_bytes(b"half")
    with pytest.raises(InputError, match="damaged") as caught:
        Pack(folder)
    assert "\n" not in str(caught.value)


def test_arrays_are_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_array(tmp_path / "a.npy", np.arange(3))

    def half(path: Path, _array: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", half)
    with pytest.raises(KeyboardInterrupt):
        save_array(tmp_path / "a.npy", np.arange(9))
    assert np.array_equal(np.load(tmp_path / "a.npy"), [0, 1, 2])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
