"""`latentseg batch`: from a folder of scans to masks and tables."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import pytest

from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.methods.fewshot import segmenter as module
from latentseg.phantom.bodies import Phantom, abdomen
from latentseg.text.encoders import load_encoder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cohort(tmp_path: Path, shown: Phantom, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`in/` with two scans and a file that is none, `ex.nii.gz` and its `ex_mask.nii.gz`."""
    for number in range(2):
        scan = abdomen(seed=number + 1, shape=(60, 64, 6)).image
        write_like(scan.array, like=scan, path=tmp_path / f"in/ct{number}.nii.gz", kind="image")
    write_like(shown.image.array, like=shown.image, path=tmp_path / "ex.nii.gz", kind="image")
    write_like(shown.labels.array == 1, like=shown.image, path=tmp_path / "ex_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "in"


def line(model: Path, *words: str) -> list[str]:
    return ["batch", "in", "-s", "ex.nii.gz,ex_mask.nii.gz", "--backbone", str(model), "-o", "out", *words]


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_folder_becomes_masks_and_a_table(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model)) == 0
    assert "2 done" in capsys.readouterr().out
    rows = rows_of("out/cases.csv")
    assert {row["case"] for row in rows} == {"ct0", "ct1"}
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert rows_of("out/failures.csv") == []
    for case in ("ct0", "ct1"):
        names = {path.name for path in Path("out", case).iterdir()}
        mask = f"{case}_seg-ex_mask.nii.gz"
        expected = {mask, f"{case}_prob-ex_mask.nii.gz", f"{case}_preview-ex_mask.png"}
        assert names == expected | {f"{case}_stats.json", f"{case}_case.json"}
        written, scan = nib.load(f"out/{case}/{mask}"), nib.load(f"in/{case}.nii.gz")
        assert written.affine.tobytes() == scan.affine.tobytes()
    assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]


def test_a_second_pass(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model, "--second-pass", "--save", "mask")) == 0
    assert "2 done, 0 kept, 0 failed" in capsys.readouterr().out
    assert len(rows_of("out/first-pass/cases.csv")) == len(rows_of("out/cases.csv")) == 2
    (method,) = json.loads(Path("out/run.json").read_text(encoding="utf-8"))["methods"]
    there = [row["case"] for row in rows_of("out/first-pass/cases.csv") if row["absent"] == "False"]
    assert sorted(method["results that were examples"]["ex_mask"]) == sorted(there)
    assert main(line(tiny_model, "--second-pass", "--save", "mask", "--shard", "0/2")) == 2
    assert "whole cohort, not of one shard" in capsys.readouterr().err


def test_the_same_masks_as_one_by_one(cohort: Path, tiny_model: Path) -> None:
    assert main(line(tiny_model)) == 0
    for case in ("ct0", "ct1"):
        words = ["segment", f"in/{case}.nii.gz", "-s", "ex.nii.gz,ex_mask.nii.gz"]
        assert main([*words, "--backbone", str(tiny_model), "-o", "single"]) == 0
        for kind in ("seg", "prob"):
            name = f"{case}/{case}_{kind}-ex_mask.nii.gz"
            assert Path("single", name).read_bytes() == Path("out", name).read_bytes()


def test_a_bad_scan_stops_no_other(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    (cohort / "ct1.nii.gz").write_bytes((cohort / "ct1.nii.gz").read_bytes()[:500])
    shutil.copy(cohort / "ct0.nii.gz", cohort / "ct2.nii.gz")
    assert main(line(tiny_model)) == 6
    captured = capsys.readouterr()
    assert captured.err.splitlines()[0].startswith("ct1: E300 this NIfTI file is truncated or damaged")
    assert captured.err.splitlines()[1].startswith("E600 1 of 3 cases failed: out/failures.csv. Correct")
    assert {row["case"] for row in rows_of("out/cases.csv")} == {"ct0", "ct2"}
    (failure,) = rows_of("out/failures.csv")
    assert (failure["case"], failure["code"]) == ("ct1", "E300")


def test_resume_keeps_what_is_finished(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model)) == 0
    assert main(line(tiny_model)) == 2
    assert "case 'ct0' is finished already: out. Give --resume" in capsys.readouterr().err
    assert main(line(tiny_model, "--resume")) == 0
    assert "0 done, 2 kept, 0 failed" in capsys.readouterr().out


def test_a_manifest_says_how_it_was_made(cohort: Path, tiny_model: Path) -> None:
    assert main(line(tiny_model, "--save", "mask", "--shard", "0/2")) == 0
    manifest = json.loads(Path("out/run_shard-0-of-2.json").read_text(encoding="utf-8"))
    (method,) = manifest["methods"]
    weights = {f"{name}.safetensors" for name in ("autoencoder", "fewshot", "matching")}
    assert set(method["files"]) == {"autoencoder.json"} | weights
    assert method["targets"] == ["ex_mask"]
    assert method["options"]["support_mode"] == "nearest"
    assert [case["case"] for case in manifest["cases"]] == ["ct0"]


def test_prompts_whatever_the_order_and_the_shard(
    cohort: Path, tiny_tumor_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws are a function of the seed and the scan: shards and the order of a table change nothing."""
    words = ["-p", "liver tumor", "--backbone", str(tiny_tumor_model), "--save", "mask,prob"]
    assert main(["batch", "in", *words, "-o", "whole"]) == 0
    Path("jobs.csv").write_text("image\nin/ct1.nii.gz\nin/ct0.nii.gz\n", encoding="utf-8")
    for part in ("1/2", "0/2"):
        assert main(["batch", "jobs.csv", *words, "-o", "parts", "--shard", part]) == 0
    assert main(["batch", "in", *words, "-o", "other", "--seed", "1"]) == 0
    for case in ("ct0", "ct1"):
        name = f"{case}/{case}_prob-liver_tumor.nii.gz"
        assert Path("whole", name).read_bytes() == Path("parts", name).read_bytes()
    assert json.loads(Path("other/run.json").read_text(encoding="utf-8"))["methods"][0]["seed"] == 1


def test_one_label_map_of_all_targets(
    cohort: Path, tiny_model: Path, shown: Phantom, capsys: Capture
) -> None:
    write_like(shown.labels.array == 4, like=shown.image, path=Path("spleen.nii.gz"))
    both = ["-s", "ex.nii.gz,spleen.nii.gz", "--save", "mask"]
    assert main(line(tiny_model, *both, "--combined", "spleen")) == 2
    assert "the priority spleen does not name each target once" in capsys.readouterr().err
    assert main(line(tiny_model, *both, "--combined", "spleen,ex_mask")) == 0
    for case in ("ct0", "ct1"):
        found = nib.load(f"out/{case}/{case}_combined.nii.gz").get_fdata()
        spleen = nib.load(f"out/{case}/{case}_seg-spleen.nii.gz").get_fdata() > 0
        liver = nib.load(f"out/{case}/{case}_seg-ex_mask.nii.gz").get_fdata() > 0
        assert ((found == 1) == spleen).all()
        assert ((found == 2) == (liver & ~spleen)).all()
        names = json.loads(Path("out", case, "labels.json").read_text(encoding="utf-8"))
        assert names == {"spleen": 1, "ex_mask": 2}
    record = json.loads(Path("out/ct0/ct0_case.json").read_text(encoding="utf-8"))
    assert {"ct0_combined.nii.gz", "labels.json"} <= set(record["files"])
    assert main(line(tiny_model, *both, "--combined", "spleen,ex_mask", "--resume")) == 0
    assert "0 done, 2 kept" in capsys.readouterr().out
    assert main(line(tiny_model, *both, "--combined", "ex_mask,spleen", "--resume")) == 0
    assert "2 done, 0 kept" in capsys.readouterr().out
    assert main(line(tiny_model, *both[:2], "--save", "mask,dseg", "--resume")) == 0
    table = Path("out/ct0/sub-ct0_desc-latentseg_dseg.tsv").read_text(encoding="utf-8")
    assert {row.split("\t")[1] for row in table.splitlines()[2:]} == {"ex_mask", "spleen"}
    for row in rows_of("out/cases.csv"):
        is_found = float(row["volume_ml"] or 0) > 0
        assert (float(row["largest_axial_diameter_mm"] or 0) > 0) == is_found
        assert row["bounding_box_ijk"].startswith("I ") == is_found
        assert bool(row["intensity_mean"]) == is_found


def test_a_dry_run_writes_nothing(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model, "--dry-run")) == 0
    out = capsys.readouterr().out
    assert "ct0   60 x 64 x 6  6" in out
    assert "cases   2 to do, 0 finished, 0 cannot be read" in out
    assert "time    about" in out
    assert "memory  about" in out
    assert not Path("out").exists()
    (cohort / "ct1.nii.gz").write_bytes(b"")
    assert main(line(tiny_model, "--dry-run")) == 6
    error = capsys.readouterr().err
    assert "ct1: E300 the file is empty" in error
    assert "E600 1 of 2 cases cannot be read" in error


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-p", "liver tumor"], 2, "examples and prompts in one call"),
        (["--save", "masks"], 2, "unknown output 'masks'"),
        (["--save", "evidence"], 2, "unknown output 'evidence'"),
        (["--shard", "2/2"], 2, "'2/2' is no part of a whole"),
        (["-t", "spleen"], 0, ""),
        (["--modality", "PET"], 2, "unknown modality 'PET'"),
        (["-o", "ex.nii.gz"], 3, "a file is in the way of the output"),
        (["-o", "in"], 2, "the output folder is the input folder"),
    ],
)
def test_options(
    cohort: Path, tiny_model: Path, capsys: Capture, words: list[str], code: int, message: str
) -> None:
    assert main(line(tiny_model, "--save", "mask", *words)) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "message", "extra"),
    [
        ("  ", "E200 ", []),
        ("?!", "the prompt '?!' holds no word", ["--dry-run"]),
        ("liver tumor " * 40, "the prompt has 479 characters, at most 200 are read", []),
        ("CT scan", "the prompt 'CT scan' names no structure", ["--engine", "ray"]),
        ("liver", "the prompt 'liver' names an organ, and tumors are looked for", []),
        ("a quibbling snark", "new ones need a text encoder", []),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_once(
    cohort: Path,
    tiny_tumor_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    prompt: str,
    message: str,
    extra: list[str],
) -> None:
    monkeypatch.setattr("latentseg.text.encoders.DISTRIBUTION", "no-such-distribution")
    monkeypatch.setattr("latentseg.text.bank._default_encoder", load_encoder)  # which keeps none
    words = ["-p", "liver tumor", "-p", prompt, "--backbone", str(tiny_tumor_model), "-o", "out"]
    assert main(["batch", "in", *words, *extra]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_supports_that_cannot_be_used_are_refused_once(
    cohort: Path, tiny_model: Path, other_tiny_model: Path, capsys: Capture
) -> None:
    Path("examples/empty").mkdir(parents=True)
    shutil.copy("ex.nii.gz", "examples/ex.nii.gz")
    shutil.copy("ex_mask.nii.gz", "examples/ex_mask.nii.gz")
    words = ["--backbone", str(tiny_model), "-o", "out"]
    for folder, message in (
        ("nowhere", "not a folder: nowhere"),
        ("examples/empty", "no image with its mask"),
    ):
        assert main(["batch", "in", "-s", folder, *words]) == 3
        assert message in capsys.readouterr().err
    encode = ["support", "encode", "examples", "-t", "liver", "-o", "liver.safetensors"]
    assert main([*encode, "--backbone", str(other_tiny_model)]) == 0
    assert main(["batch", "in", "-s", "liver.safetensors", *words]) == 4
    assert "the support 'liver' was encoded by other weights" in capsys.readouterr().err
    Path("examples/labels.json").write_text("{", encoding="utf-8")
    assert main(["batch", "in", "-s", "examples", *words]) == 3
    assert "the label names cannot be read" in capsys.readouterr().err
    Path("examples/labels.json").unlink()
    Path("examples/ex_mask.nii.gz").write_bytes(b"")
    assert main(["batch", "in", "-s", "examples", *words]) == 3
    assert "the file is empty" in capsys.readouterr().err
    assert not Path("out").exists()


def test_neither_examples_nor_prompts(cohort: Path, capsys: Capture) -> None:
    assert main(["batch", "in"]) == 2
    assert "neither examples nor a prompt" in capsys.readouterr().err
    assert main(["batch", "nowhere", "-p", "liver tumor"]) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly(
    cohort: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, number: int
) -> None:
    presence, calls = module.presence_of, []

    def stop_at_second(found: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), number)
        return presence(found)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "presence_of", stop_at_second)
    assert main(line(tiny_model, "--save", "mask")) == 130
    assert "E130 interrupted, 1 of 2 cases are finished. Run again with --resume" in capsys.readouterr().err
    assert len(rows_of("out/cases.csv")) == 1
    assert not [path for path in Path("out").iterdir() if path.name.startswith(".")]
    assert main(line(tiny_model, "--save", "mask", "--resume")) == 0


def test_engines(cohort: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(line(tiny_model, "--engine", "dask")) == 2
    assert "unknown engine 'dask': --engine. Choose from here, ray" in capsys.readouterr().err
    assert main(line(tiny_model, "--engine", "ray", "--workers", "0")) == 2
