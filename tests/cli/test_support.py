"""`latentseg support check`, `add` and `encode`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import latentseg as ls
from latentseg.cli import main
from latentseg.imaging import write_like
from latentseg.phantom.bodies import Phantom

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(shown: Phantom, searched: Phantom, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, phantom in (("a", shown), ("b", searched)):
        liver = (phantom.labels.array == 1).astype(np.uint8)
        write_like(phantom.image.array, like=phantom.image, path=tmp_path / f"ex/{name}.nii.gz", kind="image")
        write_like(liver, like=phantom.labels, path=tmp_path / f"ex/{name}_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ex"


def test_check(folder: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(["support", "check", "ex", "--json", "--backbone", str(tiny_model)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["target"], row["case"]) for row in rows] == [("ex", "a"), ("ex", "b")]
    assert all(0 <= row["dice"] <= 1 for row in rows)
    assert main(["support", "check", "ex", "--backbone", str(tiny_model)]) == 0
    assert "Dice from the others" in capsys.readouterr().out


def test_encode(folder: Path, tiny_model: Path, capsys: Capture) -> None:
    words = [
        "support",
        "encode",
        "ex",
        "-t",
        "liver",
        "-o",
        "new/liver.safetensors",
        "--support-mode",
        "joint",
    ]
    assert main([*words, "--backbone", str(tiny_model)]) == 0
    assert capsys.readouterr().out.strip() == "new/liver.safetensors"
    context = ls.SupportContext.load("new/liver.safetensors")
    assert (context.name, context.mode) == ("liver", "joint")


def test_add(folder: Path, tiny_model: Path, capsys: Capture) -> None:
    assert main(["support", "add", "more", "ex/a.nii.gz", "ex/a_mask.nii.gz", "-t", "liver"]) == 0
    assert capsys.readouterr().out.strip() == "more/a_mask.nii.gz"
    assert main(["support", "add", "more", "ex/b.nii.gz", "ex/b_mask.nii.gz", "-t", "liver"]) == 0
    assert json.loads(Path("more/labels.json").read_text(encoding="utf-8")) == {"liver": 1}
    assert len(ls.Support.from_folder("more", target="liver").scans) == 2
    assert main(["support", "add", "more", "ex/b.nii.gz", "ex/missing.nii.gz", "-t", "liver"]) == 3
    assert "missing.nii.gz" in capsys.readouterr().err


def empty_mask(folder: Path) -> list[str]:
    mask = ls.read_labels(folder / "a_mask.nii.gz")
    write_like(mask.array * 0, like=mask, path=folder / "a_mask.nii.gz")
    return []


def other_shape(folder: Path) -> list[str]:
    (folder / "a_mask.nii.gz").write_bytes((folder / "b_mask.nii.gz").read_bytes())
    return []


def named(folder: Path) -> list[str]:
    (folder / "labels.json").write_text('{"spleen": 1}', encoding="utf-8")
    return []


@pytest.mark.parametrize(
    ("verb", "spoil", "code", "text"),
    [
        ("check", empty_mask, 3, "E300 the support mask is empty: ex/a_mask.nii.gz. Give a mask"),
        ("check", other_shape, 3, "E310 image and mask are on different grids"),
        ("encode", empty_mask, 3, "E300 the support mask is empty: ex/a_mask.nii.gz."),
        ("encode", named, 2, "E200 unknown target 'liver': ex. Choose from spleen."),
        (
            "encode",
            lambda folder: ["-o", "liver.bin"],
            2,
            "E200 a support is not written as 'liver.bin': --out.",
        ),
        ("encode", lambda folder: ["-o", "ex/a.nii.gz/l.safetensors"], 3, "E300 a file is in the way"),
        ("encode", lambda folder: ["--label", "8"], 3, "E300 no example holds 'liver' (label 8): ex."),
        ("encode", lambda folder: ["--support-mode", "x"], 2, "E200 unknown support mode 'x'"),
        ("encode", lambda folder: ["--backbone", "compct"], 4, "E400 unknown model 'compct'"),
    ],
)
def test_bad_input(
    verb: str, spoil: object, code: int, text: str, folder: Path, tiny_model: Path, capsys: Capture
) -> None:
    words = ["support", verb, "ex", "--backbone", str(tiny_model)]
    words += ["-t", "liver", "-o", "liver.safetensors"] if verb == "encode" else []
    words += spoil(folder)  # type: ignore[operator]
    before = sorted(os.walk("."))
    assert main(words) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(text)
    assert captured.err.count("\n") == 1
    assert sorted(os.walk(".")) == before
