"""Kinds of DICOM that hospitals keep: mosaics, padding, several volumes, odd headers, links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from dicom_series import Draft, Trait
from helpers.dicom_files import mosaic, multi_frame, slice_datasets
from latentseg.imaging.dicom.series import DicomOptions

ODD_HEADERS = (
    {"SliceThickness": None},
    {"SliceThickness": ""},
    {"SliceThickness": "0"},
    {"SpacingBetweenSlices": "0"},
    {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    {"SpecificCharacterSet": ["", "ISO 2022 IR 149"], "PatientName": "Hong^Gildong=洪^吉洞"},
    {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    {"SpecificCharacterSet": "ISO_IR 144", "PatientName": "Люкceмбypг"},
    {"PatientSex": "U"},
    {"PatientID": None, "StudyID": None},
)


def as_mr(draft: Draft) -> None:
    """Make a draft an MR."""
    values = draft.truth.array - min(0, int(draft.truth.array.min()))
    draft.truth = replace(draft.truth, array=values.astype(np.int16), modality="MR")
    draft.slices = slice_datasets(draft.truth)


def mosaic_of_tiles(draft: Draft) -> None:
    """A Siemens mosaic, its slices from either end."""
    as_mr(draft)
    draft.slices = [mosaic(draft.slices[:: int(draft.rng.choice([-1, 1]))])]
    draft.has_seg, draft.plain = False, True


def mosaics_in_time(draft: Draft) -> None:
    """A series of mosaics, one per time, and one of them chosen."""
    as_mr(draft)
    later = replace(draft.truth, array=draft.truth.array + 7)
    draft.slices = [mosaic(slice_datasets(volume)) for volume in (later, draft.truth)]
    join(draft, [[draft.slices[0]], [draft.slices[1]]], "AcquisitionNumber", [1, 2])
    draft.options = DicomOptions(volume=2)
    draft.has_seg, draft.plain = False, True


def padding(draft: Draft) -> None:
    """Corners that hold a padding value far above the picture."""
    outside = np.zeros(draft.truth.shape, bool)
    outside[:9], outside[:, -5:] = True, True
    is_ct = draft.truth.modality == "CT"
    for k, one in enumerate(draft.slices):
        pixels = np.frombuffer(one.PixelData, "<u2").reshape(one.Rows, one.Columns).copy()
        pixels[outside[:, :, k].T] = 60000 + k
        one.PixelData = pixels.tobytes()
        one.add_new("PixelPaddingValue", "US", 60000)
        one.add_new("PixelPaddingRangeLimit", "US", 60000 + len(draft.slices))
    draft.truth.array[outside] = min(-1000, int(draft.truth.array[~outside].min())) if is_ct else 0
    draft.plain = True


def modality_missing(draft: Draft) -> None:
    """No modality, or OT, in a secondary capture."""
    named = draft.rng.random() < 0.5
    for one in draft.slices:
        one.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
        one.Modality = "OT" if named else ""


def spacing_elsewhere(draft: Draft) -> None:
    """The size of a pixel in another attribute."""
    name = str(draft.rng.choice(["NominalScannedPixelSpacing", "ImagerPixelSpacing"]))
    for one in draft.slices:
        setattr(one, name, one.PixelSpacing)
        del one.PixelSpacing


def odd_header(draft: Draft) -> None:
    """A header that bends the standard, which a SEG has to refer to."""
    for name, value in ODD_HEADERS[int(draft.rng.integers(len(ODD_HEADERS)))].items():
        for one in draft.slices:
            if value is None:
                del one[name]
            else:
                setattr(one, name, value)


def behind_a_link(draft: Draft) -> None:
    """The files behind a link to a folder, beside a link that leads back."""

    def link(folder: Path) -> None:
        store = folder.with_name("store")
        folder.rename(store)
        folder.mkdir()
        (folder / "scan").symlink_to(store, target_is_directory=True)
        (folder / "scan again").symlink_to(folder, target_is_directory=True)

    draft.after.append(link)
    draft.layout = "folder"


def join(draft: Draft, volumes: list, name: str, values: list) -> None:  # type: ignore[type-arg]
    """Make image objects one series, told apart by one attribute."""
    frame = draft.slices[0].FrameOfReferenceUID
    uid = draft.slices[0].SeriesInstanceUID
    for volume, value in zip(volumes, values, strict=True):
        for one in volume:
            one.SeriesInstanceUID, one.FrameOfReferenceUID, one.SOPInstanceUID = uid, frame, generate_uid()
            setattr(one, name, value)
    draft.slices = [one for volume in volumes for one in volume]


def echoes(draft: Draft) -> None:
    """Two echoes in one series, single images, and none chosen."""
    other = slice_datasets(replace(draft.truth, array=draft.truth.array + 5))
    join(draft, [draft.slices, other], "EchoTime", ["9.6", "4.8"])


def echo_chosen(draft: Draft) -> None:
    """Two echoes in one series, single images, and one chosen."""
    echoes(draft)
    draft.options = DicomOptions(volume=2)


def frames_of_echoes(draft: Draft) -> None:
    """Two echoes in one multi-frame object, and none chosen."""
    draft.truth = replace(draft.truth, modality="CT")
    volumes = [slice_datasets(replace(draft.truth, array=draft.truth.array + n)) for n in (0, 5)]
    draft.slices = [multi_frame([one for volume in volumes for one in volume])]
    frames = draft.slices[0].PerFrameFunctionalGroupsSequence
    for n, frame in enumerate(frames):
        frame.MREchoSequence = [Dataset()]
        frame.MREchoSequence[0].EffectiveEchoTime = 9.6 if n < len(frames) / 2 else 4.8
    draft.plain = True


def frames_of_one_echo(draft: Draft) -> None:
    """Two echoes in one multi-frame object, and one chosen."""
    frames_of_echoes(draft)
    draft.options = DicomOptions(volume=2)


def mosaic_not_counted(draft: Draft) -> None:
    """A Siemens mosaic whose header does not say of how many slices."""
    mosaic_of_tiles(draft)
    del draft.slices[0][0x0029, 0x1010]


EXACT: tuple[Trait, ...] = (
    *(mosaic_of_tiles, mosaics_in_time, padding, modality_missing, spacing_elsewhere, odd_header),
    *(behind_a_link, echo_chosen, frames_of_one_echo),
)
REFUSED: dict[Trait, str] = {
    echoes: r"2 at one position differ in EchoTime .*--volume N",
    frames_of_echoes: r"2 at one position differ in EffectiveEchoTime .*--volume N",
    mosaic_not_counted: "Siemens mosaic .* does not say of how many slices",
}
NOTED: tuple[Trait, ...] = (spacing_elsewhere, behind_a_link)
"""Read with a warning; all else without."""
