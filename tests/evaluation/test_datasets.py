"""Data sets on a synthetic tree of the layout of the real ones."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from latentseg.errors import GeometryError, InputError, UsageError
from latentseg.evaluation.datasets import CHAOS, SABS, get_dataset
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
    nib.save(nib.Nifti1Image(labels[:, :, :4], LAS), tmp_path / "chaos_t2" / "label_1.nii.gz")
    with pytest.raises(GeometryError):
        CHAOS.at(tmp_path).load("1")


def test_unknown_names() -> None:
    assert get_dataset("chaos") is CHAOS
    with pytest.raises(UsageError, match="no data set 'x'"):
        get_dataset("x")
    with pytest.raises(UsageError, match="no fold 5"):
        CHAOS.fold(5)
