"""Tumor data sets as they are downloaded: each layout, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume, write_like
from latentseg.training.tumor.downloads import find_scans
from latentseg.training.tumor.volumes import TumorFolder, VolumeFiles

SCAN = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([50.0, 50.0, 50.0, 1.0]), "CT")
LABELS = np.array([0, 1, 2, 3, 4, 0] * 4, np.uint8).reshape(2, 3, 4)


def write(path: Path, *, mask: bool = False) -> None:
    write_like(LABELS, like=SCAN, path=path) if mask else write_like(
        SCAN.array, like=SCAN, path=path, kind="image"
    )


def tumor_voxels(folder: Path, *labels: str, sequence: str = "") -> int:
    data = TumorFolder(folder=folder, prompt="glioma", labels=labels, sequence=sequence)
    return int(VolumeFiles(data).case(0).mask.sum())


def test_kits(tmp_path: Path) -> None:
    for case in ("case_00000", "case_00001"):
        write(tmp_path / "dataset" / case / "imaging.nii.gz")
        write(tmp_path / "dataset" / case / "segmentation.nii.gz", mask=True)
    found = find_scans(tmp_path)
    assert (found.names, found.modality) == (("case_00000", "case_00001"), "CT")
    assert tumor_voxels(tmp_path, "tumor") == 4
    assert tumor_voxels(tmp_path, "tumor", "cyst") == 8
    (tmp_path / "dataset" / "case_00001" / "imaging.nii.gz").unlink()
    with pytest.raises(InputError, match="1 of 2 label maps have no image, such as case_00001"):
        find_scans(tmp_path)


@pytest.mark.parametrize(
    ("case", "separator", "contrast", "enhancing"),
    [("BraTS2021_00000", "_", "t1ce", 4), ("BraTS-GLI-00000-000", "-", "t1c", 3)],
)
def test_brats(tmp_path: Path, case: str, separator: str, contrast: str, enhancing: int) -> None:
    for name in (contrast, "flair" if separator == "_" else "t2f", "seg"):
        path = tmp_path / "TrainingData" / case / f"{case}{separator}{name}.nii.gz"
        write(path, mask=name == "seg")
    found = find_scans(tmp_path)
    assert (found.names, found.modality) == ((case,), "MR")
    assert found.images[0].name == f"{case}{separator}{contrast}.nii.gz"
    assert found.labels["whole tumor"] == (1, 2, enhancing)
    assert "f" in find_scans(tmp_path, sequence="FLAIR").images[0].name.removeprefix(case)
    assert tumor_voxels(tmp_path, "whole tumor") == 12
    with pytest.raises(InputError, match="1 of 1 label maps have no image"):
        find_scans(tmp_path, sequence="t2")
    with pytest.raises(UsageError, match="no sequence 'pet'"):
        find_scans(tmp_path, sequence="pet")


def test_all_scans_of_a_patient_are_on_one_side(tmp_path: Path) -> None:
    for case in ("00000-000", "00001-000", "00001-001", "00001-002"):
        for name in ("t1c", "seg"):
            path = tmp_path / f"BraTS-GLI-{case}" / f"BraTS-GLI-{case}-{name}.nii.gz"
            write(path, mask=name == "seg")
    data = TumorFolder(folder=tmp_path, prompt="glioma", labels=("edema",), share=0.25)
    assert list(VolumeFiles(data).held_out) == [1, 2, 3]


def test_atlas(tmp_path: Path) -> None:
    """Images and label maps are called differently; they belong together by their numbers."""
    folder = tmp_path / "atlas-train-dataset-1.0.1" / "train"
    for number in (2, 10):
        write(folder / "imagesTr" / f"im{number}.nii.gz")
        write(folder / "labelsTr" / f"lb{number}.nii.gz", mask=True)
    about = {"modality": {"0": "T1w"}, "labels": {"0": "background", "1": "liver", "2": "tumor"}}
    (folder / "dataset.json").write_text(json.dumps(about))
    found = find_scans(tmp_path)
    assert [path.name for path in found.images] == ["im2.nii.gz", "im10.nii.gz"]
    assert (found.modality, tumor_voxels(tmp_path, "tumor")) == ("MR", 4)


def test_channels_of_nnunet_have_names(tmp_path: Path) -> None:
    for channel in (0, 1):
        write(tmp_path / "imagesTr" / f"a_000{channel}.nii.gz")
    write(tmp_path / "labelsTr" / "a.nii.gz", mask=True)
    about = {"channel_names": {"0": "T1", "1": "T1CE"}, "labels": {"background": 0, "core": [1, 4]}}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    assert find_scans(tmp_path).images[0].name == "a_0000.nii.gz"
    assert find_scans(tmp_path, sequence="t1ce").images[0].name == "a_0001.nii.gz"
    assert tumor_voxels(tmp_path, "core") == 8
    with pytest.raises(UsageError, match="no sequence 'dwi'"):
        find_scans(tmp_path, sequence="dwi")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no data set that is known here"):
        find_scans(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": "liver"}))
    with pytest.raises(InputError, match=r"no files \*.nii.gz"):
        find_scans(tmp_path)
    write(tmp_path / "labelsTr" / "a.nii.gz", mask=True)
    write(tmp_path / "imagesTr" / "a.nii.gz")
    with pytest.raises(InputError, match="the labels cannot be read"):
        find_scans(tmp_path)
