"""Folders and archives of DICOM files: series are told apart by their headers, damage is named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_files import multi_frame, recode, save_slices, slice_datasets
from latentseg.errors import InputError, LatentsegWarning
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.files import scan
from latentseg.imaging.dicom.series import DicomOptions

pydicom = pytest.importorskip("pydicom")

IMPLICIT, BIG_ENDIAN, DEFLATED = (f"1.2.840.10008.1.2{end}" for end in ("", ".2", ".1.99"))
AFFINE = np.array([[-0.7, 0, 0, 1.5], [0, -0.8, 0, 7.25], [0, 0, 2.5, -12], [0, 0, 0, 1]])


def phantom(*, seed: int = 0, shape: tuple[int, int, int] = (10, 8, 5), affine: Any = AFFINE) -> Volume:
    values = np.random.default_rng(seed).integers(-1000, 1500, shape).astype(np.int16)
    return Volume(values, affine, modality="CT")


def non_image(sop_class: str, modality: str) -> Any:
    dataset = slice_datasets(phantom())[0]
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.SOPClassUID, dataset.Modality = sop_class, modality
    dataset.SeriesInstanceUID = pydicom.uid.generate_uid()
    return dataset


def test_a_multi_frame_file_is_a_volume(tmp_path: Path) -> None:
    save_slices([multi_frame(slice_datasets(phantom()))], tmp_path, name="enhanced")
    for path in (tmp_path, tmp_path / "enhanced"):
        again = read(path)
        np.testing.assert_array_equal(again.array, phantom().array)
        np.testing.assert_allclose(again.affine_ras_mm, AFFINE, atol=1e-6)
    assert again.name == "enhanced"


def test_a_zip_is_read_like_its_folder(tmp_path: Path) -> None:
    paths = save_slices(slice_datasets(phantom()), tmp_path / "f")
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, f"a/b/{path.stem}")
        archive.writestr("a/readme.txt", "hello")
    again = read(tmp_path / "study.zip")
    assert again.name == "study"
    np.testing.assert_array_equal(again.array, phantom().array)


def test_names_and_subfolders_do_not_matter(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    save_slices(slices[:2], tmp_path / "a", name="{}.jpg")
    save_slices(slices[2:], tmp_path / "b" / "c", name="{}")
    (tmp_path / "b" / "notes.dcm").write_text("not DICOM at all", encoding="utf-8")
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


def test_a_file_without_preamble_is_understood(tmp_path: Path) -> None:
    paths = save_slices(slice_datasets(phantom()), tmp_path)
    for path in paths:
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        path.write_bytes(b"")
        plain = pydicom.dcmread(path, force=True)
        plain.update(dataset)
        plain.save_as(path, implicit_vr=True, little_endian=True)
        assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


LOSSLESS = {
    "implicit": IMPLICIT,
    "big endian": BIG_ENDIAN,
    "deflated": DEFLATED,
    "RLE": pydicom.uid.RLELossless,
    "JPEG-LS": pydicom.uid.JPEGLSLossless,
    "JPEG 2000": pydicom.uid.JPEG2000Lossless,
}


@pytest.mark.parametrize("syntax", LOSSLESS.values(), ids=LOSSLESS)
def test_transfer_syntaxes_are_read_exactly(syntax: str, tmp_path: Path) -> None:
    volume = phantom(shape=(40, 36, 3))
    slices = slice_datasets(volume)
    for one in slices:
        recode(one, syntax)
    save_slices(slices, tmp_path)
    np.testing.assert_array_equal(read(tmp_path).array, volume.array)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("end", [".57", ".70", ".80"])
def test_jpeg_lossless_is_read_exactly(end: str, signed: bool, tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    slices = slice_datasets(phantom())
    for n, one in enumerate(slices):
        pixels = phantom().array[:, :, n].T
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, int(signed)
        one.RescaleIntercept = 0 if signed else -1024
        stored = (pixels & 0xFFF if signed else pixels + 1024).astype(np.uint16)
        if end == ".80":
            frame = imagecodecs.jpegls_encode(np.ascontiguousarray(stored))
        else:
            frame = imagecodecs.jpeg8_encode(np.ascontiguousarray(stored), lossless=True, bitspersample=12)
        one.PixelData = pydicom.encaps.encapsulate([frame])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = f"1.2.840.10008.1.2.4{end}"
    save_slices(slices, tmp_path)
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


def test_a_compressed_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    slices = slice_datasets(phantom())
    for one in slices:
        one.PixelData = pydicom.encaps.encapsulate([imagecodecs.jpegls_encode(np.zeros((90, 90), np.uint16))])
        one["PixelData"].VR = "OB"
        one.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    save_slices(slices, tmp_path)
    with pytest.raises(InputError, match=r"a compressed frame of \(90, 90\) pixels in an image of \(8, 10\)"):
        read(tmp_path)
    slices[0].PixelData = pydicom.encaps.encapsulate([b"no stream of any kind"])
    path = save_slices(slices[:1], tmp_path / "one")[0]
    with pytest.raises(InputError, match="a compressed frame without a header"):
        read(path)


def test_signed_and_twelve_bit_pixels(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    for n, one in enumerate(slices):
        one.PixelRepresentation, one.BitsStored, one.HighBit = 1, 12, 11
        one.RescaleIntercept = 0
        one.PixelData = phantom().array[:, :, n].T.astype("<i2").tobytes()
    save_slices(slices, tmp_path)
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


def test_overlay_bits_above_the_pixels_are_ignored(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    for n, one in enumerate(slices):
        one.BitsStored, one.HighBit = 12, 11
        stored = (phantom().array[:, :, n].T + 1024).astype("<u2")
        one.PixelData = (stored | np.uint16(0x1000)).tobytes()
    save_slices(slices, tmp_path)
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


def test_slopes_that_change_from_slice_to_slice(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    for n, one in enumerate(slices):
        one.RescaleSlope = 0.5 + n
    save_slices(slices, tmp_path)
    again = read(tmp_path)
    expected = (phantom().array.astype(np.float64) + 1024) * (0.5 + np.arange(5)) - 1024
    assert again.array.dtype == np.float32
    np.testing.assert_allclose(again.array, expected)


def test_copies_are_left_out_with_a_warning(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    save_slices(slices, tmp_path)
    save_slices(slices[1:3], tmp_path / "copy")
    with pytest.warns(LatentsegWarning, match="2 copies of images were left out"):
        np.testing.assert_array_equal(read(tmp_path).array, phantom().array)


def test_two_images_at_each_position_are_refused(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    for seed, echo in ((0, 4.6), (1, 9.2)):
        again = slice_datasets(phantom(seed=seed))
        for one, first in zip(again, slices, strict=True):
            one.EchoTime, one.SeriesInstanceUID = echo, first.SeriesInstanceUID
            one.FrameOfReferenceUID = first.FrameOfReferenceUID
        save_slices(again, tmp_path / str(echo))
    message = r"10 images lie at 5 positions; 2 at one position differ in EchoTime \(4.6, 9.2\)"
    with pytest.raises(InputError, match=message):
        read(tmp_path)


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    first, second = (
        slice_datasets(phantom(), series_number=3),
        slice_datasets(phantom(seed=1), description="late"),
    )
    save_slices(first, tmp_path / "a")
    save_slices(second, tmp_path / "b")
    with pytest.raises(
        InputError, match=r"there are 2 series: .*\(CT, 5 images, 'late'\).*--series UID"
    ) as error:
        read(tmp_path)
    assert first[0].SeriesInstanceUID in str(error.value)
    uid = second[0].SeriesInstanceUID
    chosen = read(tmp_path, dicom=DicomOptions(series=uid))
    np.testing.assert_array_equal(chosen.array, phantom(seed=1).array)
    assert read(tmp_path, dicom=DicomOptions(series="3")).name == f"{tmp_path.name}_series-3"
    with pytest.raises(InputError, match="0 series are called '7'; there are"):
        read(tmp_path, dicom=DicomOptions(series="7"))


def test_localizers_and_other_objects_are_set_aside(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    scout = slice_datasets(phantom(affine=AFFINE[[1, 2, 0, 3]]))[0]
    scout.ImageType, scout.SeriesInstanceUID = (
        ["ORIGINAL", "PRIMARY", "LOCALIZER"],
        slices[0].SeriesInstanceUID,
    )
    picture = slice_datasets(phantom())[0]
    del picture.ImagePositionPatient
    picture.SeriesInstanceUID = "1.2.3"
    report = non_image("1.2.840.10008.5.1.4.1.1.88.33", "SR")
    save_slices(slices, tmp_path, name="i{}")
    save_slices([scout, picture, report], tmp_path, name="o{}")
    np.testing.assert_array_equal(read(tmp_path).array, phantom().array)
    kinds = [one.kind for one in scan(tmp_path).series]
    assert kinds[0] == "image"
    assert sorted(kinds[1:]) == ["Comprehensive SR", "localizer", "picture without position"]
    with pytest.raises(InputError, match="ImagePositionPatient is missing"):
        read(tmp_path, dicom=DicomOptions(series="1.2.3"))


def test_no_slices_at_all_says_what_there_is(tmp_path: Path) -> None:
    save_slices([non_image("1.2.840.10008.5.1.4.1.1.88.33", "SR")], tmp_path)
    with pytest.raises(InputError, match=r"no series of slices .*\(SR, 1 x Comprehensive SR, 'phantom'\)"):
        read(tmp_path)


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = save_slices(slice_datasets(phantom()), tmp_path)[2]
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match=r"truncated or damaged .*slice_0003.dcm"):
        read(tmp_path)


def test_a_file_cut_in_its_header_is_warned_about(tmp_path: Path) -> None:
    path = save_slices(slice_datasets(phantom()), tmp_path)[4]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.warns(LatentsegWarning, match=r"1 DICOM file is damaged .*slice_0005.dcm"):
        assert read(tmp_path).shape == (10, 8, 4)


def test_a_colored_picture_is_refused(tmp_path: Path) -> None:
    slices = slice_datasets(phantom())
    for one in slices:
        one.SamplesPerPixel, one.PhotometricInterpretation = 3, "RGB"
    save_slices(slices, tmp_path)
    with pytest.raises(InputError, match="5 x color picture"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"PK\3\4 nothing else"), "zip file is truncated or damaged"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "hello"), "there is no DICOM in it"),
    ],
)
def test_archives_without_dicom(make: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a.zip")
    with pytest.raises(InputError, match=message):
        read(tmp_path / "a.zip")


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slices = slice_datasets(phantom(shape=(40, 36, 3)))
    for one in slices:
        one.compress(pydicom.uid.JPEG2000Lossless, generate_instance_uid=False)
    save_slices(slices, tmp_path)
    decoder = pydicom.pixels.decoders.JPEG2000LosslessDecoder
    monkeypatch.setattr(decoder, "_available", {})
    monkeypatch.setattr(decoder, "_unavailable", {"pylibjpeg": ("pylibjpeg>=2.0",)})
    with pytest.raises(InputError, match=r"its compression \(JPEG 2000 .*\) needs a decoder"):
        read(tmp_path)


def test_one_slice_has_the_thickness_as_its_step(tmp_path: Path) -> None:
    path = save_slices(slice_datasets(phantom()), tmp_path)[1]
    assert read(path).spacing_mm == pytest.approx((0.7, 0.8, 2.5))


def test_all_series_of_a_folder_are_read_with_one_pass_over_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentseg.batch.cases import find_cases
    from latentseg.imaging.dicom import files

    passes: list[files.Entry] = []
    facts_in = files._facts_in
    monkeypatch.setattr(files, "_facts_in", lambda entry: (passes.append(entry), facts_in(entry))[1])
    for number in range(4):
        save_slices(
            slice_datasets(phantom(seed=number), series_number=number), tmp_path, name=f"{number}_{{}}"
        )
    cases = find_cases(tmp_path)
    assert len(cases) == 4
    for number, case in enumerate(cases):
        scan_of_series = read(case.image, dicom=case.dicom)
        np.testing.assert_array_equal(scan_of_series.array, phantom(seed=number).array)
    assert len(passes) == len(set(passes)) == 20


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    paths = save_slices(slice_datasets(phantom()), tmp_path)
    assert scan(tmp_path).series[0].images == 5
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    again = scan(tmp_path)
    assert (again.series[0].images, len(again.damaged)) == (4, 1)
    paths[1].unlink()
    save_slices(slice_datasets(phantom()), tmp_path / "new")
    assert [one.images for one in scan(tmp_path).series] == [3, 5] or [
        one.images for one in scan(tmp_path).series
    ] == [5, 3]


def test_headers_that_are_kept_are_few() -> None:
    from latentseg.imaging.dicom.files import Entry, _Headers

    headers = _Headers(most=2)
    for path in sorted(Path(__file__).parent.glob("test_*.py"))[:5]:
        assert headers.get(Entry(path)) is None
    assert len(headers.kept) == 2
    assert headers.get(Entry(Path("nowhere"))) == "No such file or directory"


def test_series_behind_links_to_folders_are_read(tmp_path: Path) -> None:
    save_slices(slice_datasets(phantom()), tmp_path / "store" / "a")
    study = tmp_path / "study"
    study.mkdir()
    (study / "series").symlink_to(tmp_path / "store" / "a", target_is_directory=True)
    (study / "loop").symlink_to(study, target_is_directory=True)
    with pytest.warns(LatentsegWarning, match="1 link"):
        again = read(study)
    np.testing.assert_array_equal(again.array, phantom().array)
    np.testing.assert_array_equal(read(study / "series").array, phantom().array)
