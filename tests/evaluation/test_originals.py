"""Making the field's files from the downloads, on synthetic trees of the same layout."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from PIL import Image

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.evaluation.datasets import ACDC, CHAOS, MS_CMRSEG, SABS, Dataset, nnunet_folder
from latentseg.evaluation.datasets.chaos import read_slices
from latentseg.evaluation.datasets.originals import fit_in_plane, prepare_originals, reorient, resample_pair
from latentseg.imaging import Volume, to_canonical


def save(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, affine), path)


def write_dicom(path: Path, pixels: NDArray[np.uint16], *, z_mm: float) -> None:
    """One axial MR slice, rows to the posterior and columns to the patient's left, with an id of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(pixels[None])
    image.SetSpacing((2.0, 2.0, 5.0))
    image.SetOrigin((-10.0, -20.0, z_mm))
    for tag, value in {
        "0008|0060": "MR",
        "0020|000e": f"1.2.3.{path.stem[-1]}",
        "0020|0032": f"-10\\-20\\{z_mm}",
        "0020|0037": "1\\0\\0\\0\\1\\0",
    }.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)


def chaos_tree(root: Path, *, case: str = "1", names: str = "IMG-0004-0000{}") -> Path:
    """Five slices, top slice first; the liver (grey 63) at the patient's right in the two lowest."""
    scan = root / "Train_Sets" / "MR" / case / "T2SPIR"
    for number in range(5):
        grey = np.zeros((20, 16), np.uint8)
        if number >= 3:
            grey[4:8, 1:5] = 63
        grey[12:14, 12:14] = 252
        pixels = (100 + 100 * (grey == 63) + 10 * number).astype(np.uint16)
        stem = names.format(number + 1)
        write_dicom(scan / "DICOM_anon" / f"IMG-0004-0000{number + 1}.dcm", pixels, z_mm=20 - 5.0 * number)
        (scan / "Ground").mkdir(exist_ok=True)
        Image.fromarray(grey).save(scan / "Ground" / f"{stem}.png")
    return scan


def test_chaos_slices_are_ordered_by_position_and_keep_their_labels(tmp_path: Path) -> None:
    image, labels = read_slices(chaos_tree(tmp_path))
    assert image.spacing_mm == pytest.approx((2.0, 2.0, 5.0))
    assert image.axis_codes == "LPS"
    assert np.array_equal(labels.array == 1, image.array >= 200)
    slices = to_canonical(labels).apply(labels.array)
    assert np.flatnonzero((slices == 1).any(axis=(1, 2))).tolist() == [0, 1]  # the two lowest
    assert slices[0, 4, 1] == 1  # anterior, the patient's right
    assert slices[0, 12, 12] == 4


def test_chaos_from_the_download(tmp_path: Path) -> None:
    chaos_tree(tmp_path / "download")
    chaos_tree(tmp_path / "download", case="2", names="liver_{}")
    folder = tmp_path / "data" / CHAOS.folder
    written = prepare_originals(CHAOS, original=tmp_path / "download", folder=folder)
    assert list(written) == ["1", "2"]
    case = CHAOS.at(tmp_path / "data").load("1")
    assert case.image.shape == (256, 256, 3)
    assert case.image.axis_codes == "LAS"
    assert case.image.spacing_mm == pytest.approx((1.25, 1.25, 7.7))
    assert case.mask("liver").sum() > 0
    assert float(case.image.array[case.mask("liver")].mean()) > 180
    where = np.argwhere(case.mask("liver")).mean(0)
    center = (case.image.affine_ras_mm @ [*where, 1])[:3]
    # Rows 4-7 and columns 1-4 of 2 mm from (-10, -20) LPS: 5 mm to the right, 9 mm in front, in RAS.
    assert center[:2] == pytest.approx([5.0, 9.0], abs=0.7)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    chaos_tree(tmp_path / "download")
    folder = tmp_path / "out"
    list(prepare_originals(CHAOS, original=tmp_path / "download", folder=folder))
    before = (folder / "image_1.nii.gz").stat().st_mtime_ns
    list(prepare_originals(CHAOS, original=tmp_path / "download", folder=folder))
    assert (folder / "image_1.nii.gz").stat().st_mtime_ns == before


def test_damaged_chaos_trees_are_refused(tmp_path: Path) -> None:
    scan = chaos_tree(tmp_path / "a")
    next((scan / "Ground").glob("*.png")).unlink()
    with pytest.raises(InputError, match="5 DICOM slices and 4 PNG label maps"):
        read_slices(scan)
    scan = chaos_tree(tmp_path / "b")
    Image.fromarray(np.full((20, 16), 31, np.uint8)).save(scan / "Ground" / "IMG-0004-00002.png")
    with pytest.raises(InputError, match="unknown grey value 31"):
        read_slices(scan)
    Image.fromarray(np.zeros((20, 15), np.uint8)).save(scan / "Ground" / "IMG-0004-00002.png")
    with pytest.raises(GeometryError, match=r"\(15, 20\) pixels"):
        read_slices(scan)
    (scan / "DICOM_anon" / "IMG-0004-00003.dcm").write_bytes(b"\0" * 200)
    with pytest.raises(InputError, match="DICOM"):
        read_slices(scan)


def test_sabs_from_the_download(tmp_path: Path) -> None:
    array = np.full((80, 96, 4), -1000, np.int16)
    array[40:, 48:] = 75
    labels = np.where(array > 0, 6, 0).astype(np.uint8)
    raw = tmp_path / "RawData" / "Training"
    for number in ("0021", "0003"):
        save(raw / "img" / f"img{number}.nii.gz", array, np.diag([-0.8, -0.8, 3.0, 1.0]))
        save(raw / "label" / f"label{number}.nii.gz", labels, np.diag([-0.8, -0.8, 3.0, 1.0]))
    folder = tmp_path / "data" / SABS.folder
    assert list(prepare_originals(SABS, original=tmp_path, folder=folder)) == ["0", "1"]
    case = SABS.at(tmp_path / "data").load("0")
    assert case.image.spacing_mm == pytest.approx((1.4, 1.4, 3.0))
    assert case.image.shape == (round(16 / 1.75), round(32 / 1.75), 4)
    assert case.image.orientation is None  # stored as LAS: nothing is overruled
    inside = case.image.array[case.mask("liver")]
    assert np.median(inside) == pytest.approx(127.5)
    assert (case.image.array.min(), case.image.array.max()) == (0, pytest.approx(127.5))
    slices = to_canonical(case.image).apply(case.mask("liver"))
    assert slices[0, -1, -1]  # the original says L and P: posterior, at the patient's left
    assert not slices[0, 0, 0]


SHORT_AXIS = np.array([[0, 0, 8, 0], [0.9, 0, 0, 0], [0, -0.9, 0, 0], [0, 0, 0, 1.0]])


def heart() -> tuple[NDArray[np.int16], NDArray[np.uint16]]:
    labels = np.zeros((40, 50, 4), np.uint16)
    labels[10:20, 10:20] = 2
    labels[20:30, 10:20] = 1
    labels[10:20, 25:40] = 3
    return (labels * 100 + 50).astype(np.int16), labels


def test_ms_cmrseg_from_the_download(tmp_path: Path) -> None:
    image, labels = heart()
    ids = np.array([0, 200, 500, 600], np.int16)
    save(tmp_path / "raw" / "c0" / "patient12_C0.nii.gz", image, SHORT_AXIS)
    save(tmp_path / "raw" / "gt" / "patient12_C0_manual.nii.gz", ids[labels], SHORT_AXIS)
    save(tmp_path / "raw" / "c0" / "patient13_C0.nii.gz", image, SHORT_AXIS)  # without labels: left out
    folder = tmp_path / MS_CMRSEG.folder
    assert list(prepare_originals(MS_CMRSEG, original=tmp_path / "raw", folder=folder)) == ["12"]
    assert set(np.unique(nib.load(folder / "label_12.nii.gz").dataobj)) == {0, 200, 500, 600}
    case = MS_CMRSEG.at(tmp_path).load("12")
    assert case.image.spacing_mm == pytest.approx((1.25, 1.25, 7.99))
    assert case.image.shape == (256, 256, 4)
    assert float(case.image.array[case.mask("right_ventricle")].mean()) > 300
    assert to_canonical(case.image).slices.shape == (4, 256, 256)  # the acquired slices


def test_acdc_from_the_download(tmp_path: Path) -> None:
    image, labels = heart()
    raw = tmp_path / "raw" / "training" / "patient007"
    for frame, shown in (("01", labels), ("09", 0 * labels)):
        save(raw / f"patient007_frame{frame}.nii.gz", image, SHORT_AXIS)
        save(raw / f"patient007_frame{frame}_gt.nii.gz", shown, SHORT_AXIS)
    (raw / "Info.cfg").write_text("Group: DCM\nED: 1\nES: 9\n", encoding="utf-8")
    folder = tmp_path / ACDC.folder
    assert list(prepare_originals(ACDC, original=tmp_path / "raw", folder=folder)) == ["patient007"]
    case = ACDC.at(tmp_path).load("patient007")
    assert case.image.spacing_mm == pytest.approx((1.25, 1.25, 8.0))
    assert case.mask("left_ventricle").any()
    (raw / "Info.cfg").write_text("Group: DCM\n", encoding="utf-8")
    with pytest.raises(InputError, match="no end-diastolic frame"):
        list(prepare_originals(ACDC, original=tmp_path / "raw", folder=tmp_path / "again"))


@pytest.mark.parametrize("dataset", [SABS, CHAOS, ACDC, MS_CMRSEG])
def test_an_empty_download_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no case of {dataset.name} as downloaded"):
        list(prepare_originals(dataset, original=tmp_path, folder=tmp_path / "out"))


def test_a_data_set_that_is_read_as_it_is(tmp_path: Path) -> None:
    save(tmp_path / "labelsTr" / "a.nii.gz", heart()[1], SHORT_AXIS)
    (tmp_path / "dataset.json").write_text('{"labels": {"heart": 1}}', encoding="utf-8")
    with pytest.raises(UsageError, match="nothing to prepare"):
        list(prepare_originals(nnunet_folder(tmp_path), original=tmp_path, folder=tmp_path / "out"))


def test_reorienting_keeps_every_voxel_in_place() -> None:
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -2.0, 7], [3.0, 0, 0, -4], [0, -1.0, 0, 9], [0, 0, 0, 1]])
    volume = Volume(rng.random((3, 4, 5)), affine)
    turned = reorient(volume, "LAS")
    assert turned.axis_codes == "LAS"
    for index in ((0, 0, 0), (2, 1, 4), (1, 3, 2)):
        world = volume.affine_ras_mm @ [*index, 1]
        there = np.rint(np.linalg.solve(turned.affine_ras_mm, world)[:3]).astype(int)
        assert turned.array[tuple(there)] == volume.array[index]


def test_padding_and_cropping_keep_voxels_in_place() -> None:
    volume = Volume(np.arange(2 * 7 * 3.0).reshape(2, 7, 3), np.diag([2.0, 3.0, 4.0, 1.0]))
    fitted = fit_in_plane(volume, (5, 4), value=-1)
    assert fitted.shape == (5, 4, 3)
    assert (fitted.array >= 0).sum() == 2 * 4 * 3
    index = np.argwhere(fitted.array == volume.array[1, 3, 2])[0]
    assert fitted.affine_ras_mm @ [*index, 1] == pytest.approx(volume.affine_ras_mm @ [1, 3, 2, 1])


def test_resampling_keeps_the_first_voxel_and_the_label_ids() -> None:
    labels = np.zeros((8, 8, 4), np.uint8)
    labels[2:6, 2:6] = 7
    image = Volume(labels * 10.0, np.diag([2.0, 2.0, 4.0, 1.0]))
    fine, fine_labels = resample_pair(image, image.with_array(labels), spacing_mm=(1.0, 1.0, 4.0))
    assert fine.shape == (16, 16, 4)
    assert np.array_equal(fine.affine_ras_mm[:3, 3], [0, 0, 0])
    assert set(np.unique(fine_labels.array)) == {0, 7}
    assert np.array_equal(fine_labels.array[::2, ::2], labels)
    assert np.array_equal(fine_labels.array == 7, fine.array >= 35)
