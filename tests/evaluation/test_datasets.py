"""Data sets on a synthetic tree of the layout of the real ones."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.evaluation.datasets import (
    ACDC,
    CHAOS,
    MS_CMRSEG,
    SABS,
    field_folds,
    get_dataset,
    nnunet_folder,
)
from latentseg.imaging import to_canonical

LAS = np.diag([-1.5, 1.5, 4.0, 1.0])
FALSE_LPS = np.diag([-1.5, -1.5, 4.0, 1.0])


def save(
    root: Path, folder: str, case: str, labels: NDArray[np.uint8], *, affine: NDArray[np.float64] = LAS
) -> None:
    (root / folder).mkdir(parents=True, exist_ok=True)
    image = (labels * 20 + np.arange(labels.shape[2]) + 1).astype(np.uint8)
    for kind, array in (("image", image), ("label", labels)):
        nib.save(nib.Nifti1Image(array, affine), root / folder / f"{kind}_{case}.nii.gz")


@pytest.fixture
def labels() -> NDArray[np.uint8]:
    array = np.zeros((8, 6, 5), np.uint8)
    array[0:3, 4:6, 2:4] = 6
    return array


def test_folds_are_the_published_ones() -> None:
    assert [len(fold) for fold in CHAOS.folds] == [5] * 5
    assert [len(fold) for fold in SABS.folds] == [7] * 5
    # Spec: index 2 gives these supports, index -1 never queries the last scan.
    assert [fold[2] for fold in CHAOS.folds] == [2, 6, 10, 14, 17]
    assert [fold[2] for fold in SABS.folds] == [2, 8, 14, 20, 25]
    assert CHAOS.folds[-1] == (0, 16, 17, 18, 19)
    assert CHAOS.ids[:6] == ("1", "2", "3", "5", "8", "10")
    assert [(fold[0], fold[-1]) for fold in MS_CMRSEG.folds] == [(0, 7), (7, 14), (14, 21), (21, 28), (0, 34)]
    assert [fold[2] for fold in MS_CMRSEG.folds[:4]] == [2, 9, 16, 23]
    assert [(fold[0], fold[-1]) for fold in SABS.folds] == [(0, 6), (6, 12), (12, 18), (18, 24), (0, 29)]
    assert SABS.across_domains().folds == CHAOS.folds
    with pytest.raises(UsageError, match="no folds here: ACDC"):
        ACDC.across_domains()


def test_a_fold_does_not_depend_on_which_other_cases_exist(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    for case in ("22", "31", "32", "33", "34"):
        save(tmp_path, "chaos_t2", case, labels)
    dataset = CHAOS.at(tmp_path)
    assert dataset.present() == ["22", "31", "32", "33", "34"]
    with pytest.raises(InputError, match=r"fold 2 lacks 3 of 5 cases \(19, 20, 21\)"):
        dataset.fold(2)
    for case in ("36", "37", "38", "39", "1"):
        save(tmp_path, "chaos_t2", case, labels)
    assert dataset.fold(4) == ["1", "36", "37", "38", "39"]


def test_missing_data_say_how_to_help(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LATENTSEG_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"SABS: no image_0.nii.gz: .*sabs. Set LATENTSEG_DATA"):
        SABS.load("0")
    assert SABS.present() == []


def test_load_reads_image_labels_and_masks(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    save(tmp_path, "sabs", "4", labels)
    case = SABS.at(tmp_path).load("4")
    assert case.image.modality == "CT"
    assert case.mask("liver").sum() == 12
    assert not case.mask("spleen").any()
    with pytest.raises(UsageError, match="no organ 'toe'"):
        case.mask("toe")


def test_the_false_header_of_sabs_is_mended_and_a_true_one_kept(
    tmp_path: Path, labels: NDArray[np.uint8]
) -> None:
    save(tmp_path, "sabs", "0", labels, affine=FALSE_LPS)
    save(tmp_path, "sabs", "1", labels)
    dataset = SABS.at(tmp_path)
    assert [dataset.load(case).image.orientation for case in ("0", "1")] == ["LAS", None]
    assert np.array_equal(dataset.load("0").image.affine_ras_mm, FALSE_LPS)
    for case in (dataset.load("0"), dataset.load("1")):
        slices = to_canonical(case.image).apply(case.mask("liver"))
        assert slices[2, 0, 0]  # anterior, on the patient's right
        assert not slices[2, -1, 0]


def test_other_grid_of_labels_is_refused(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    save(tmp_path, "chaos_t2", "1", labels)
    nib.save(
        nib.Nifti1Image(labels[:, :, :4], LAS @ np.diag([1, 1, 2, 1])),
        tmp_path / "chaos_t2" / "label_1.nii.gz",
    )
    with pytest.raises(GeometryError):
        CHAOS.at(tmp_path).load("1")


def test_unknown_label_ids_are_refused(tmp_path: Path, labels: NDArray[np.uint8]) -> None:
    labels[0, 0, 0], labels[1, 0, 0] = 14, 200
    save(tmp_path, "sabs", "0", labels)
    with pytest.raises(
        InputError, match=r"unknown label ids 14, 200: .*label_0.nii.gz. SABS has the labels 0, 1,"
    ):
        SABS.at(tmp_path).load("0")


def nnunet(root: Path, *, cases: int, about: dict[str, object], ending: str = ".nii.gz") -> Path:
    labels = np.zeros((8, 6, 5), np.uint8)
    labels[2:5, 2:5, 1:4] = 1
    for number in range(1, cases + 1):
        for folder, name, array in (
            ("imagesTr", f"case_{number}_0000", labels * 50),
            ("labelsTr", f"case_{number}", labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, LAS), root / folder / f"{name}{ending}")
    (root / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
    return root


def test_a_folder_of_nnunet(tmp_path: Path) -> None:
    about = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver tumor": 1},
        "file_ending": ".nii",
    }
    dataset = get_dataset(str(nnunet(tmp_path / "Dataset001_X", cases=11, about=about, ending=".nii")))
    assert dataset.name == "Dataset001_X"
    assert dataset.modality == "CT"
    assert dataset.ids[1:3] == ["case_2", "case_3"]  # 2 before 10
    assert dataset.targets == ("liver_tumor",)
    assert dataset.fold(0) == ["case_1", "case_2", "case_3"]
    case = dataset.load("case_11")
    assert case.mask("liver_tumor").sum() == 27
    assert case.image.array.max() == 50


def test_the_splits_of_nnunet_are_the_folds(tmp_path: Path) -> None:
    about = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "spleen"}}
    folder = nnunet(tmp_path, cases=4, about=about)
    splits = [{"train": [], "val": ["case_4", "case_2"]}, {"train": [], "val": ["case_1"]}]
    (folder / "splits_final.json").write_text(json.dumps(splits), encoding="utf-8")
    dataset = nnunet_folder(folder)
    assert dataset.modality == "MR"
    assert dataset.label_of == {"spleen": 1}
    assert dataset.fold(0) == ["case_2", "case_4"]
    with pytest.raises(InputError, match="fold 1 has 1 case, a support scan and a query are needed"):
        dataset.fold(1)
    (folder / "splits_final.json").write_text('[{"val": ["case_9"]}]', encoding="utf-8")
    with pytest.raises(InputError, match="the splits cannot be used"):
        nnunet_folder(folder)


@pytest.mark.parametrize(
    ("about", "text"),
    [
        ("{", "cannot read it"),
        ("[]", "no JSON object"),
        ("{}", "there is no table of labels"),
        ('{"labels": {"whole": "a and b"}}', "labels cannot be read"),
        ('{"labels": {"whole tumor": [1, 2], "core": [2]}}', "'whole tumor' is labels 1 and 2"),
        ('{"labels": {"background": 0}}', "no label but the background"),
        (None, "no such file"),
    ],
)
def test_broken_descriptions_are_refused(tmp_path: Path, about: str | None, text: str) -> None:
    nnunet(tmp_path, cases=1, about={})
    (tmp_path / "dataset.json").unlink()
    if about is not None:
        (tmp_path / "dataset.json").write_text(about, encoding="utf-8")
    with pytest.raises(InputError, match=text):
        get_dataset(str(tmp_path))


def test_a_folder_without_label_maps_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"liver": 1}}', encoding="utf-8")
    with pytest.raises(InputError, match="no label maps"):
        nnunet_folder(tmp_path)


@pytest.mark.parametrize(("cases", "folds"), [(2, 1), (3, 1), (4, 2), (7, 3), (10, 5), (33, 5)])
def test_folds_of_any_number_of_cases(cases: int, folds: int) -> None:
    found = field_folds(cases)
    assert len(found) == folds
    assert set().union(*found) == set(range(cases))
    assert all(len(fold) >= 2 for fold in found)


def test_unknown_names() -> None:
    assert get_dataset("chaos") is CHAOS
    assert get_dataset("MS-CMRSeg") is MS_CMRSEG
    with pytest.raises(UsageError, match="no data set 'x'"):
        get_dataset("x")
    with pytest.raises(UsageError, match="no fold 5"):
        CHAOS.fold(5)
