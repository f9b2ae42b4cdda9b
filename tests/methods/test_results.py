"""Results of one scan: numbers, files, overlaps and their order."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from latentseg.errors import InputError, UsageError
from latentseg.imaging import Volume
from latentseg.methods import results as module
from latentseg.methods.radiomic_features import radiomic_features
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
    inside = scan.array[2:5, 3:6, 1:4].astype(float)
    shares = (5, 25, 50, 75, 95)
    spread = dict(
        zip([f"intensity_p{share}" for share in shares], np.percentile(inside, shares), strict=True)
    )
    assert stats == {
        "target": "liver",
        "absent": False,
        "presence": 0.9,
        "volume_ml": 0.27,
        "components": 1,
        "largest_axial_diameter_mm": round(float(np.hypot(6, 2)), 2),
        "centroid_ras_mm": [10 - 2 * 3, 20 - 4, 30 + 5 * 2],
        "bounding_box_ijk": [[2, 4], [3, 5], [1, 3]],
        "touches_border": False,
        "intensity_mean": round(inside.mean(), 3),
        "intensity_sd": round(inside.std(), 3),
        **{name: round(value, 3) for name, value in spread.items()},
    }
    assert result(scan, "liver", 0, 3, 1).stats()["touches_border"]
    two = result(scan, "liver", 0, 0, 0, size=2)
    two.mask[5:, 5:, 3:] = True
    assert two.components == 2
    empty = result(scan, "spleen").stats()
    assert empty["absent"]
    assert empty["centroid_ras_mm"] is empty["bounding_box_ijk"] is empty["intensity_mean"] is None
    assert empty["largest_axial_diameter_mm"] == 0
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


def test_one_label_map_with_its_names(scan: Volume, tmp_path: Path) -> None:
    results = Segmentations({n: result(scan, n, *at) for n, at in {"a": (1, 1, 1), "b c": (2, 2, 1)}.items()})
    results.save(tmp_path / "ml", what=["multilabel"])
    folder = tmp_path / "ml/case7"
    assert {path.name for path in folder.iterdir()} == {
        "case7_combined.nii.gz",
        "case7_stats.json",
        "labels.json",
    }
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8")) == {"a": 1, "b c": 2}
    labels = np.asarray(nib.load(folder / "case7_combined.nii.gz").dataobj)
    assert ((labels == 1) == results["a"].mask).all()

    results.save(tmp_path / "bids", what=["dseg"])
    folder = tmp_path / "bids/case7"
    name = "sub-case7_desc-latentseg_dseg"
    assert {path.name for path in folder.iterdir()} == {f"{name}.nii.gz", f"{name}.tsv", "case7_stats.json"}
    assert (np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) == labels).all()
    rows = [line.split("\t") for line in (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()]
    assert [row[:2] for row in rows] == [["index", "name"], ["0", "background"], ["1", "a"], ["2", "b c"]]
    assert all(len(row) == 3 for row in rows)

    results.save(tmp_path / "both", what=["dseg", "multilabel"])
    assert len(list((tmp_path / "both/case7").iterdir())) == 5


def test_a_picture_has_a_dseg_too(tmp_path: Path) -> None:
    png = Volume(
        np.eye(8, dtype=np.uint8)[..., None] * 200, np.diag([-1.0, -1, 1, 1]), "MR", Path("sub-9_T1w.png")
    )
    Segmentations({"x": result(png, "x", 1, 1, 0)}).save(tmp_path, what=["dseg"])
    assert (tmp_path / "sub-9_T1w/sub-9_desc-latentseg_dseg.nii.gz").exists()


def test_radiomics(scan: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = result(scan, "liver", 2, 3, 1)
    monkeypatch.setitem(sys.modules, "radiomics", None)
    with pytest.raises(
        UsageError, match=r"radiomics needs pyradiomics .*Run `pip install 'latentseg\[radiomics\]'`"
    ):
        one.save(tmp_path / "out", what=["mask", "radiomics"])
    assert not (tmp_path / "out").exists()

    class Extractor:
        def execute(self, image: Any, mask: Any) -> dict[str, Any]:
            assert image.GetSpacing() == mask.GetSpacing() == (2.0, 1.0, 5.0)
            assert image.GetOrigin() == (-10.0, -20.0, 30.0)
            place = image.TransformContinuousIndexToPhysicalPoint((3.0, 4.0, 2.0))
            assert place == (-4.0, -16.0, 40.0)  # LPS of the centroid
            if not mask[3, 4, 2]:
                raise ValueError("mask has too few dimensions")
            inside = SimpleITK.GetArrayFromImage(image)[SimpleITK.GetArrayFromImage(mask) > 0]
            return {"original_firstorder_Mean": np.float64(inside.mean()), "diagnostics_Mask": (1, 2)}

    module_ = SimpleNamespace(featureextractor=SimpleNamespace(RadiomicsFeatureExtractor=Extractor))
    monkeypatch.setitem(sys.modules, "radiomics", module_)
    assert len(one.save(tmp_path / "out", what=["radiomics"])) == 1
    found = json.loads((tmp_path / "out/case7/case7_radiomics-liver.json").read_text(encoding="utf-8"))
    assert found["original_firstorder_Mean"] == pytest.approx(one.stats()["intensity_mean"], abs=1e-3)
    assert radiomic_features(scan, np.zeros(scan.shape, bool)) == {}
    with pytest.raises(UsageError, match=r"pyradiomics refuses the mask .*too few dimensions.*case7"):
        radiomic_features(scan, result(scan, "x", 0, 0, 0, size=1).mask)


def test_repr_is_one_line_and_html_shows_the_mask(scan: Volume) -> None:
    liver, spleen = result(scan, "liver", 2, 3, 1), result(scan, "spleen")
    assert repr(liver) == "Segmentation('liver': 0.3 ml, presence 0.90, in case7)"
    assert repr(spleen) == "Segmentation('spleen': absent, presence 0.10, in case7)"
    both = Segmentations({one.target: one for one in (liver, spleen)})
    assert repr(both) == "Segmentations(2 targets in case7: liver 0.3 ml, spleen absent)"
    assert repr(Segmentations()) == "Segmentations(0 targets: none)"
    assert liver._repr_html_().count("<img") == 1
    assert both._repr_html_().count("<img") == 2
    assert "<i>" not in result(scan, "<i>", 2, 3, 1)._repr_html_()
