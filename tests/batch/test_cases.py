"""Cases of a folder, of a table, of DICOM studies; their names; shards."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.batch import keys
from latentseg.batch.cases import Case, find_cases, take_shard
from latentseg.errors import InputError, UsageError, noted
from latentseg.imaging import read
from latentseg.phantom import abdomen


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_images_of_a_folder_in_natural_order(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "ct10.nii.gz",
        "ct2.nii.gz",
        "sub/mr_0000.nrrd",
        ".hidden.nii.gz",
        ".h/x.nii.gz",
        "notes.txt",
    )
    assert names(find_cases(tmp_path)) == ["ct2", "ct10", "mr"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    touch(tmp_path, "p1/ct.nii.gz", "p2/CT.nii.gz", "p2/mr.nii.gz", "a (1).mha")
    assert names(find_cases(tmp_path)) == ["a_1_", "p1_ct", "p2_CT", "mr"]


def test_two_formats_of_one_scan_need_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "ct.nii.gz", "ct.nrrd")
    with pytest.raises(UsageError, match=r"two scans would both be the case 'ct': .*ct.nii.gz and .*ct.nrrd"):
        find_cases(tmp_path)


def test_outputs_are_no_inputs(tmp_path: Path) -> None:
    touch(tmp_path, "ct.nii.gz", "out/ct/ct_seg-liver.nii.gz")
    assert names(find_cases(tmp_path, out=tmp_path / "out")) == ["ct"]
    with pytest.raises(UsageError, match="the output folder is the input folder"):
        find_cases(tmp_path, out=tmp_path / "sub" / "..")


def test_a_table(tmp_path: Path) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text(
        "\ufeffimage,case,modality,orientation,series\n"
        "p1/ct.nii.gz,,,,\np2/ct.nii.gz,second,ct,LAS,\nstudy,,,,1.2.3\n",
        encoding="utf-8",
    )
    first, second, third = find_cases(table)
    assert first == Case("p1_ct", tmp_path / "p1/ct.nii.gz")
    assert second == Case("second", tmp_path / "p2/ct.nii.gz", "CT", "LAS")
    assert third.name == "study"
    assert third.dicom is not None
    assert third.dicom.series == "1.2.3"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("file\na.nii\n", UsageError, "unknown column 'file'"),
        ("case\na\n", UsageError, "no column 'image'"),
        ("image,oriention\na.nii,LAS\n", UsageError, "unknown column 'oriention'"),
        ("image,case\na.nii,a,b\n", UsageError, "line 2 has more cells than columns"),
        ("image,case\n,a\n", UsageError, "line 2 names no image"),
        ("image,modality\na.nii,PET\n", UsageError, "unknown modality 'PET'"),
        ("image,case\na.nii,x/y\n", UsageError, "'x/y' cannot name a case"),
        ("image,case\na.nii,x\nb.nii,X\n", UsageError, "two scans would both be the case 'X'"),
        ("image\n", InputError, "there is no scan here"),
        ("", UsageError, "no column 'image'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str, kind: type[Exception], message: str) -> None:
    table = tmp_path / "jobs.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(kind, match=message):
        find_cases(table)


def test_nothing_to_work_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no scan here"):
        find_cases(touch(tmp_path / "in", "notes.txt"))
    with pytest.raises(InputError, match=r"cannot read the list of cases \(No such file"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(InputError, match="this is no list of cases"):
        find_cases(touch(tmp_path, "ct.nii.gz") / "ct.nii.gz")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot read the list of cases"):
        find_cases(tmp_path / "bytes.csv")


def test_shards_cover_everything_once() -> None:
    cases = [Case(f"c{number}", Path("x")) for number in range(10)]
    shards = [take_shard(cases, f"{part}/3") for part in range(3)]
    assert sorted(name for shard in shards for name in names(shard)) == names(cases)
    assert [len(shard) for shard in shards] == [4, 3, 3]


@pytest.mark.parametrize("shard", ["3/3", "0/0", "-1/3", "1", "a/b", ""])
def test_shards_that_are_none(shard: str) -> None:
    with pytest.raises(UsageError, match="is no part of a whole"):
        take_shard([Case("a", Path("x"))], shard)


def test_series_of_studies(tmp_path: Path, cohorts: SimpleNamespace) -> None:
    """One series in a folder, two in another, one in an archive; a localizer and a damaged file."""
    scan = read(cohorts.make_cohort(tmp_path / "nifti", 1) / "ct00.nii.gz")
    root = tmp_path / "in"
    save_slices(slice_datasets(scan), root / "p1" / "ct")
    for number in (1, 2):
        made = slice_datasets(scan, series_number=number)
        save_slices(made, root / "p2", name=f"s{number}_{{:04d}}")
    localizer = slice_datasets(scan)[:1]
    localizer[0].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    save_slices(localizer, root / "p3")
    (root / "p4").mkdir()
    (root / "p4" / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 50)
    files = save_slices(slice_datasets(scan), tmp_path / "zipped")
    with zipfile.ZipFile(root / "p5.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    shutil.copy(tmp_path / "nifti/ct00.nii.gz", root)
    with noted([]) as notes:
        cases = find_cases(root)
    assert names(cases) == ["ct00", "ct", "p2_series-1", "p2_series-2", "p4", "p5"]
    assert [note for note in notes if "1 series of" in note and "localizer" in note]
    for case in cases:
        if case.name != "p4":
            assert read(case.image, dicom=case.dicom).shape == scan.shape
    with pytest.raises(InputError, match=r"none of 1 DICOM files can be read"):
        read(cases[-2].image, dicom=cases[-2].dicom)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    scan = abdomen(seed=0, shape=(16, 16, 4)).image
    touch(tmp_path, "store/p1/ct.nii.gz", "store/p2/ct.nii.gz", "cohort/p3/ct.nii.gz")
    save_slices(slice_datasets(scan), tmp_path / "store" / "study")
    for name in ("p1", "p2", "study"):
        (tmp_path / "cohort" / name).symlink_to(Path("../store") / name)
    (tmp_path / "cohort" / "again").symlink_to(".")
    with noted([]) as notes:
        found = find_cases(tmp_path / "cohort")
    assert names(found) == ["p1_ct", "p2_ct", "p3_ct", "study"]
    assert read(found[3].image, dicom=found[3].dicom).shape == scan.shape
    assert sum("1 link(s) to folders that are listed already" in note for note in notes) >= 1


def label_map(path: Path) -> None:
    labels = np.zeros((16, 16, 4), np.uint8)
    labels[4:9, 3:12] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2, 5, 1])), path)


@pytest.mark.parametrize(
    ("scans", "masks"),
    [
        (["p1.nii.gz", "p2.nii.gz"], ["p1_mask.nii.gz", "p2_seg.mha"]),
        (["P1_0000.nii.gz"], ["p1_label.nii.gz"]),
        (["p1.nrrd"], ["p1.seg.nrrd"]),
        (["p1.nii.gz"], ["Segmentation.seg.nrrd"]),
        (
            ["imagesTr/p1_0000.nii.gz", "imagesTr/p2_0000.nii.gz"],
            ["labelsTr/p1.nii.gz", "labelsTr/p3.nii.gz"],
        ),
        (["a/images/p1.nii.gz"], ["a/masks/p1.nii.gz"]),
        (["p1_seg-nothing.nii.gz", "labels.nii.gz", "mask_p2.nii.gz", "labels/ct.nii.gz"], []),
    ],
)
def test_masks_beside_scans_are_left_out_and_said(scans: list[str], masks: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *scans, *masks)
    with noted([]) as notes:
        found = find_cases(tmp_path)
    assert {case.image.relative_to(tmp_path).as_posix() for case in found} == set(scans)
    said = [
        f"{len(masks)} of {len(scans) + len(masks)} images are left out as masks or results" in n
        for n in notes
    ]
    assert said == [True] * bool(masks)


def test_where_a_word_speaks_of_a_mask_the_voxels_decide(tmp_path: Path) -> None:
    scan = nib.Nifti1Image(np.random.default_rng(0).integers(0, 900, (16, 16, 4), np.int16), np.eye(4))
    nib.save(scan, tmp_path / "p1.nii.gz")
    nib.save(scan, tmp_path / "label_free_mri.nii.gz")
    for name in ("p1_liver_mask.nii.gz", "sub/gt.nii.gz", "p1-segmentation.nii.gz", "sub-1_dseg.nii.gz"):
        label_map(tmp_path / name)
    label_map(tmp_path / "p2.nii.gz")
    with noted([]) as notes:
        assert names(find_cases(tmp_path)) == ["label_free_mri", "p1", "p2"]
    assert "4 of 7 images are left out" in notes[0]


def test_results_of_another_run_are_no_scans(tmp_path: Path) -> None:
    touch(tmp_path, "p1.nii.gz", "old/p1/p1_seg-liver.nii.gz", "old/p1/p1_prob-liver.nii.gz")
    touch(tmp_path, "old/p1/p1_stats.json", "old/p1/p1_preview-liver.png", "old/p1/p1_combined.nii.gz")
    with noted([]) as notes:
        assert names(find_cases(tmp_path)) == ["p1"]
    assert "4 of 5 images are left out" in notes[0]


def test_a_table_lists_what_is_wanted(tmp_path: Path) -> None:
    """Who lists a mask wants it."""
    touch(tmp_path, "p1.nii.gz", "p1_mask.nii.gz")
    (tmp_path / "cases.csv").write_text("image\np1.nii.gz\np1_mask.nii.gz\n", encoding="utf-8")
    assert names(find_cases(tmp_path / "cases.csv")) == ["p1", "p1_mask"]


def test_a_nifti_pair_is_one_case(tmp_path: Path) -> None:
    assert names(find_cases(touch(tmp_path, "p1.hdr", "p1.img", "p2.hdr.gz", "p2.img.gz"))) == ["p1", "p2"]


def test_the_hash_of_a_case_knows_every_file_of_its_scan(tmp_path: Path) -> None:
    touch(tmp_path, "pair.hdr", "pair.img", "a.raw", "b.raw", "store/deep/1.dcm")
    (tmp_path / "meta.mhd").write_text("NDims = 3\nElementDataFile = a.raw\n", encoding="utf-8")
    (tmp_path / "nrrd.nhdr").write_text("NRRD0004\ndata file: b.raw\n", encoding="utf-8")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "series").symlink_to("../store")
    parts = {
        "pair.hdr": "pair.img",
        "meta.mhd": "a.raw",
        "nrrd.nhdr": "b.raw",
        "study": "store/deep/1.dcm",
    }
    for scan, part in parts.items():
        before = keys.scan_sha256(tmp_path / scan)
        (tmp_path / part).write_bytes(b"changed")
        assert keys.scan_sha256(tmp_path / scan) != before, scan
