"""Results of one scan: numbers, files, overlaps and their order."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume
from latentseg.methods import results as module
from latentseg.methods.results import Segmentation, Segmentations, check_writable


@pytest.fixture
def scan() -> Volume:
    array = np.random.default_rng(0).integers(-1000, 1000, (10, 12, 5)).astype(np.int16)
    affine = np.diag([-2.0, -1.0, 5.0, 1.0])
    affine[:3, 3] = [10, 20, 30]
    return Volume(array, affine, "CT", Path("case7_0000.nii.gz"))


def result(scan: Volume, name: str, *corner: int, size: int = 3) -> Segmentation:
    mask = np.zeros(scan.shape, bool)
    if corner:
        mask[tuple(slice(start, start + size) for start in corner)] = True
    return Segmentation(name, scan, mask, mask.astype(np.float32), 0.9 if corner else 0.1)


def test_stats(scan: Volume) -> None:
    stats = result(scan, "liver", 2, 3, 1).stats()
    assert stats == {
        "target": "liver",
        "absent": False,
        "presence": 0.9,
        "volume_ml": 0.27,
        "components": 1,
        "centroid_ras_mm": [10 - 2 * 3, 20 - 4, 30 + 5 * 2],
        "touches_border": False,
    }
    assert result(scan, "liver", 0, 3, 1).stats()["touches_border"]
    two = result(scan, "liver", 0, 0, 0, size=2)
    two.mask[5:, 5:, 3:] = True
    assert two.components == 2
    empty = result(scan, "spleen").stats()
    assert empty["absent"]
    assert empty["centroid_ras_mm"] is None
    assert not empty["touches_border"]
    json.dumps([stats, empty])


def test_files_of_a_scan(scan: Volume, tmp_path: Path) -> None:
    both = [result(scan, "liver/tumor ü", 2, 3, 1), result(scan, "../../etc", 0, 0, 0)]
    written = Segmentations({one.target: one for one in both}).save(tmp_path / "out")
    names = sorted(path.name for path in written)
    assert names == [
        "case7_prev" + "iew-.._.._etc.png",
        "case7_preview-liver_tumor_ü.png",
        "case7_prob-.._.._etc.nii.gz",
        "case7_prob-liver_tumor_ü.nii.gz",
        "case7_seg-.._.._etc.nii.gz",
        "case7_seg-liver_tumor_ü.nii.gz",
        "case7_stats.json",
    ]
    assert {path.parent for path in written} == {tmp_path / "out" / "case7"}
    assert sorted(p.name for p in (tmp_path / "out" / "case7").iterdir()) == names
    stats = json.loads((tmp_path / "out" / "case7" / "case7_stats.json").read_text(encoding="utf-8"))
    assert [row["target"] for row in stats] == ["liver/tumor ü", "../../etc"]
    again = nib.load(written[0])
    assert again.affine.tobytes() == scan.affine_ras_mm.tobytes()


def test_only_what_is_asked_for(scan: Volume, tmp_path: Path) -> None:
    one = result(scan, "liver", 1, 1, 1)
    assert [path.name for path in one.save(tmp_path, what=["mask"])] == ["case7_seg-liver.nii.gz"]
    with pytest.raises(UsageError, match=r"unknown output 'nifti'.*mask, prob, preview"):
        one.save(tmp_path / "b", what=["mask", "nifti"])
    assert not (tmp_path / "b").exists()


def test_targets_of_one_file_name_are_refused(scan: Volume, tmp_path: Path) -> None:
    results = Segmentations({name: result(scan, name, 1, 1, 1) for name in ("a/b", "a b")})
    with pytest.raises(UsageError, match=r"'a/b' and 'a b' would share one file name"):
        results.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_overlaps_are_kept_and_combined_by_priority(scan: Volume) -> None:
    results = Segmentations({n: result(scan, n, *at) for n, at in {"a": (1, 1, 1), "b": (2, 2, 1)}.items()})
    assert (results["a"].mask & results["b"].mask).sum() == 12
    labels, overlap = results.combined(["b", "a"])
    assert overlap == 12
    assert (labels == 1).sum() == 27
    assert (labels == 2).sum() == 27 - 12
    assert ((labels > 0) == (results["a"].mask | results["b"].mask)).all()
    for priority in (["a"], ["a", "b", "b"], ["a", "c"], []):
        with pytest.raises(UsageError, match=r"does not name each target once.*a, b"):
            results.combined(priority)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 1), (3, 2, 4), (200, 4, 2), (4, 200, 2)])
def test_previews_of_any_shape(shape: tuple[int, int, int]) -> None:
    array = np.arange(np.prod(shape) + 1, dtype=np.float32)[:-1].reshape(shape)
    array.flat[0] = -5
    scan = Volume(np.append(array, array[..., :1] + 1, 2), np.diag([-1.0, -1, 1, 1]), "MR")
    for one in (result(scan, "x"), result(scan, "x", 0, 0, 0, size=1)):
        picture = Image.open(io.BytesIO(one.preview()))
        assert min(picture.size) >= 1
        assert max(picture.size) <= 3 * 330


def test_one_slice(scan: Volume, tmp_path: Path) -> None:
    flat = replace(scan, array=scan.array[:, :, :1])
    assert len(result(flat, "x", 1, 1, 0).save(tmp_path)) == 3


def test_output_folders_are_checked_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_writable(tmp_path / "new" / "newer")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"a file is in the way.*file"):
        check_writable(tmp_path / "file" / "out")
    monkeypatch.setattr(module.os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(InputError, match=rf"no permission to write the output: {tmp_path}. Choose a folder"):
        check_writable(tmp_path / "new" / "newer")
