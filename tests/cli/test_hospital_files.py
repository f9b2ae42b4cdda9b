"""Files as hospitals have them, from the command line to the result: links, masks, pairs, segments."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from helpers.dicom_files import save_slices, slice_datasets
from latentseg.cli import main
from latentseg.cli.output import in_options
from latentseg.imaging import write_like
from latentseg.phantom.bodies import Phantom

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def files(shown: Phantom, searched: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`ex/a.nii.gz` with the mask of its liver, and two scans of a store."""
    liver = (shown.labels.array == 1).astype(np.uint8)
    write_like(shown.image.array, like=shown.image, path=tmp_path / "ex/a.nii.gz", kind="image")
    write_like(liver, like=shown.labels, path=tmp_path / "ex/a_mask.nii.gz")
    for name in ("p1", "p2"):
        path = tmp_path / f"store/{name}/{name}.nii.gz"
        write_like(searched.image.array, like=searched.image, path=path, kind="image")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(model: Path, cohort: str, *more: str) -> list[str]:
    return ["batch", cohort, "--support", "ex", "-t", "liver", "-o", "out", "--backbone", str(model), *more]


def test_a_cohort_of_links(files: Path, tiny_model: Path, capsys: Capture) -> None:
    (files / "cohort").mkdir()
    for name in ("p1", "p2"):
        (files / "cohort" / name).symlink_to(files / "store" / name)
    (files / "cohort/loop").symlink_to(files / "cohort")
    shutil.copy("ex/a_mask.nii.gz", files / "store/p1/p1_mask.nii.gz")
    assert main(batch(tiny_model, "cohort", "--dry-run")) == 0
    shown = capsys.readouterr()
    assert "2 to do, 0 finished, 0 cannot be read" in shown.out
    assert (
        "warning: 1 of 3 images are left out as masks or results, such as cohort/p1/p1_mask.nii.gz"
        in shown.err
    )
    assert "1 link(s) to folders that are listed already left out, such as cohort/loop" in shown.err


def test_what_cannot_be_read_is_not_estimated(files: Path, tiny_model: Path, capsys: Capture) -> None:
    whole = (files / "store/p1/p1.nii.gz").read_bytes()
    (files / "store/p1/p1.nii.gz").write_bytes(whole[: len(whole) // 2])
    assert main(batch(tiny_model, "store", "--dry-run")) == 6
    shown = capsys.readouterr()
    assert "1 to do, 0 finished, 1 cannot be read" in shown.out
    assert "p1: E300 this NIfTI file is truncated or damaged" in shown.err


def test_a_linked_series_is_inspected(files: Path, searched: Phantom, capsys: Capture) -> None:
    save_slices(slice_datasets(searched.image), files / "store/series")
    (files / "study").mkdir()
    (files / "study/series").symlink_to(files / "store/series")
    (files / "study/lost").symlink_to(files / "moved")
    assert main(["inspect", "study", "--json"]) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert facts["shape"] == list(searched.image.shape)
    said = [*facts["warnings"], shown.err]
    assert any(
        "1 folder(s) or link(s) that cannot be opened left out, such as study/lost" in one for one in said
    )


def test_units_and_scales_are_said(files: Path, searched: Phantom, capsys: Capture) -> None:
    image = nib.load("store/p1/p1.nii.gz")
    image.header.set_xyzt_units("meter")
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header), "meter.nii.gz")
    assert main(["inspect", "meter.nii.gz"]) == 0
    assert "warning: meter.nii.gz measures" in capsys.readouterr().out
    nib.save(nib.Nifti1Pair(np.asanyarray(image.dataobj), image.affine), "pair.img")
    for name in ("pair.hdr", "pair.img"):
        assert main(["inspect", name]) == 0
        assert "file                        pair.hdr" in capsys.readouterr().out


def test_the_command_line_speaks_of_options(
    files: Path, tiny_model: Path, shown: Phantom, capsys: Capture
) -> None:
    write_like(shown.labels.array, like=shown.labels, path=files / "many.nii.gz")
    words = ["segment", "store/p1/p1.nii.gz", "--support", "ex/a.nii.gz,many.nii.gz", "-o", "out"]
    assert main([*words, "--backbone", str(tiny_model)]) == 2
    assert "Say which with --label, or name them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("give label=, or allow_gaps=True.", "give --label, or --allow-gaps."),
        (
            'choose volume=N, series=UID or orientation="auto"',
            "choose --volume N, --series UID or --orientation auto",
        ),
        ("nothing is meant by method=NAME or a=b", "nothing is meant by method=NAME or a=b"),
        ("read it with like=", "read it with --like"),
        ("/data/label=3/ct.nii", "/data/label=3/ct.nii"),
    ],
)
def test_arguments_become_options(said: str, shown: str) -> None:
    assert in_options(said) == shown
