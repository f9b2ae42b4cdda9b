"""Several volumes in one series: what tells them apart is said, and one can be chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.dicom_files import multi_frame, save_slices, slice_datasets
from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.series import DicomOptions

pydicom = pytest.importorskip("pydicom")

SHAPE = (20, 16, 4)
TRUTH = Volume(
    np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16),
    np.diag([-1.0, -1, 3, 1]),
    modality="CT",
)


def volume_of(number: int) -> Volume:
    return replace(TRUTH, array=TRUTH.array + number)


def item(**values: Any) -> Any:
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return [dataset]


def enhanced(groups: list[dict[str, Any]], order: str = "volumes") -> Any:
    """One multi-frame object; volume n has the values TRUTH + n and `groups[n]` in each of its frames."""
    slices = [(n, one) for n in range(len(groups)) for one in slice_datasets(volume_of(n))]
    if order == "slices":
        slices.sort(key=lambda pair: pair[1].InstanceNumber)
    whole = multi_frame([one for _, one in slices])
    for (n, _), frame in zip(slices, whole.PerFrameFunctionalGroupsSequence, strict=True):
        for name, value in groups[n].items():
            setattr(frame, name, value)
    return whole


def classic(values: dict[str, list[Any]], folder: Path) -> Path:
    """Single images of one series; volume n has the n-th of the values of each attribute."""
    series = [slice_datasets(volume_of(n)) for n in range(len(next(iter(values.values()))))]
    first = series[0][0]
    for n, slices in enumerate(series):
        for one in slices:
            one.SeriesInstanceUID, one.FrameOfReferenceUID = (
                first.SeriesInstanceUID,
                first.FrameOfReferenceUID,
            )
            one.InstanceNumber += n * len(slices)
            for name, listed in values.items():
                setattr(one, name, listed[n])
    save_slices([one for slices in series for one in slices], folder)
    return folder


def content(**values: Any) -> dict[str, Any]:
    return {"FrameContentSequence": item(**values)}


@pytest.mark.parametrize("order", ["volumes", "slices"])
@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            [{"MREchoSequence": item(EffectiveEchoTime=time)} for time in (4.6, 2.3, 10.0)],
            r"EffectiveEchoTime \(4.6, 2.3, 10.0\)",
        ),
        (
            [{"MRDiffusionSequence": item(DiffusionBValue=value)} for value in (800.0, 0.0, 1000.0)],
            r"DiffusionBValue \(800.0, 0.0, 1000.0\)",
        ),
        (
            [
                {"CardiacSynchronizationSequence": item(NominalCardiacTriggerDelayTime=time)}
                for time in (300.0, 100.0, 700.0)
            ],
            "NominalCardiacTriggerDelayTime",
        ),
        ([content(TemporalPositionIndex=n) for n in (2, 1, 3)], r"TemporalPositionIndex \(2, 1, 3\)"),
        (
            [{"MRImageFrameTypeSequence": item(ComplexImageComponent=kind)} for kind in ("REAL", "A", "Z")],
            "ComplexImageComponent",
        ),
    ],
)
def test_frames_of_one_file(groups: list[dict[str, Any]], said: str, order: str, tmp_path: Path) -> None:
    path = save_slices([enhanced(groups, order)], tmp_path, name="e.dcm")[0]
    with pytest.raises(
        InputError, match=rf"12 images lie at 4 positions; 3 at one position differ in {said}"
    ):
        read(path)
    try:
        ranks = list(np.argsort(np.argsort([value_of(group) for group in groups])))
    except TypeError:
        ranks = [0, 1, 2]  # words keep their order
    for n, rank in enumerate(ranks):
        scan = read(path, dicom=DicomOptions(volume=int(rank) + 1))
        np.testing.assert_array_equal(scan.array, volume_of(n).array)
        assert scan.shape == SHAPE
        assert scan.name == f"e_volume-{rank + 1}"
    with pytest.raises(
        UsageError, match=r"there is no volume 4, only 3 volumes: .*Give --volume N from 1 to 3"
    ):
        read(path, dicom=DicomOptions(volume=4))


def value_of(group: dict[str, Any]) -> float:
    value = next(iter(next(iter(group.values()))[0])).value
    if isinstance(value, str):
        raise TypeError
    return float(value)


def test_echoes_times_phases(tmp_path: Path) -> None:
    groups = [
        {"MREchoSequence": item(EffectiveEchoTime=echo), **content(TemporalPositionIndex=phase)}
        for phase in (1, 2, 3)
        for echo in (2.3, 4.6)
    ]
    path = save_slices([enhanced(groups)], tmp_path, name="e.dcm")[0]
    with pytest.raises(
        InputError, match=r"EffectiveEchoTime \(2.3, 4.6\) and TemporalPositionIndex \(1, 2, 3\)"
    ):
        read(path)
    scan = read(path, dicom=DicomOptions(volume=4))  # the second echo's first phase
    np.testing.assert_array_equal(scan.array, volume_of(1).array)


def test_an_own_dimension_of_the_maker(tmp_path: Path) -> None:
    groups = [content(DimensionIndexValues=[1, n]) for n in (1, 2)]
    whole = enhanced(groups)
    dimensions = [*item(DimensionIndexPointer=0x00209057), *item(DimensionDescriptionLabel="Fat fraction")]
    whole.DimensionIndexSequence = dimensions
    for n, frame in enumerate(whole.PerFrameFunctionalGroupsSequence):
        frame.InstanceNumber = n + 1  # differs from frame to frame, and tells no volumes apart
    path = save_slices([whole], tmp_path, name="e.dcm")[0]
    with pytest.raises(InputError, match=r"differ in Fat fraction \(1, 2\)"):
        read(path)
    np.testing.assert_array_equal(read(path, dicom=DicomOptions(volume=2)).array, volume_of(1).array)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"EchoTime": ["2.3", "4.6"]}, r"EchoTime \(2.3, 4.6\)"),
        ({"TriggerTime": ["10", "20", "30"], "AcquisitionNumber": [1, 1, 1]}, "TriggerTime"),
        ({"ImageType": [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]}, "ImageType"),
    ],
)
def test_single_images_of_one_series(values: dict[str, list[Any]], said: str, tmp_path: Path) -> None:
    folder = classic(values, tmp_path / "series")
    with pytest.raises(InputError, match=rf"at one position differ in {said}.*--volume N: 1 is {said[:8]}"):
        read(folder)
    for n in range(len(next(iter(values.values())))):
        scan = read(folder, dicom=DicomOptions(volume=n + 1))
        np.testing.assert_array_equal(scan.array, volume_of(n).array)


def test_what_no_attribute_tells_apart_is_taken_in_the_order_of_time(tmp_path: Path) -> None:
    folder = classic({"SeriesDescription": ["", "", ""]}, tmp_path / "series")
    with pytest.raises(InputError, match=r"differ in their pixels.*1 is image 1 of 3 by time"):
        read(folder)
    np.testing.assert_array_equal(read(folder, dicom=DicomOptions(volume=3)).array, volume_of(2).array)


def test_times_that_jitter_from_slice_to_slice_do_not_tell_volumes_apart(tmp_path: Path) -> None:
    folder = classic({"AcquisitionTime": ["100000", "110000"]}, tmp_path / "series")
    for n, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionTime = f"{dataset.AcquisitionTime[:4]}{n:02d}"
        dataset.save_as(path)
    np.testing.assert_array_equal(read(folder, dicom=DicomOptions(volume=2)).array, volume_of(1).array)


def test_images_that_are_missing_in_one_volume_are_no_guess(tmp_path: Path) -> None:
    folder = classic({"SeriesDescription": ["", ""]}, tmp_path / "series")
    (folder / "slice_0006.dcm").unlink()
    with pytest.raises(InputError, match="Separate them into one folder per volume"):
        read(folder)


def test_a_single_volume_has_no_second(tmp_path: Path) -> None:
    save_slices(slice_datasets(TRUTH), tmp_path)
    np.testing.assert_array_equal(read(tmp_path, dicom=DicomOptions(volume=1)).array, TRUTH.array)
    with pytest.raises(UsageError, match=r"there is no volume 2, only one volume: .*Leave --volume out"):
        read(tmp_path, dicom=DicomOptions(volume=2))


@pytest.mark.parametrize("per_frame", [False, True])
def test_a_seg_refers_to_the_frames_of_the_volume(per_frame: bool, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    from latentseg.imaging.dicom.masks import read_masks
    from latentseg.imaging.dicom.seg import Segment, write_seg
    from latentseg.text.codes import segment_code

    whole = enhanced([{"MREchoSequence": item(EffectiveEchoTime=time)} for time in (2.3, 4.6)], "slices")
    shared = whole.SharedFunctionalGroupsSequence[0]
    if per_frame:
        for name in ("PixelMeasuresSequence", "PlaneOrientationSequence"):
            for frame in whole.PerFrameFunctionalGroupsSequence:
                setattr(frame, name, shared[name].value)
            del shared[name]
    path = save_slices([whole], tmp_path, name="e.dcm")[0]
    scan = read(path, dicom=DicomOptions(volume=2))
    masks = [np.random.default_rng(n).random(SHAPE) < 0.3 for n in range(2)]
    segments = [Segment(name, mask, segment_code(name)) for name, mask in zip("ab", masks, strict=True)]
    seg = write_seg(segments, like=scan, path=tmp_path / "seg" / "seg.dcm")
    for name, mask in zip("ab", masks, strict=True):
        np.testing.assert_array_equal(read_masks(seg, like=scan)[name], mask)
    frames = pydicom.dcmread(seg).PerFrameFunctionalGroupsSequence
    numbers = {
        int(frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber) for frame in frames
    }
    assert numbers == {2, 4, 6, 8}
    assert highdicom.seg.segread(seg).get_volume().spacing == (3.0, 1.0, 1.0)
