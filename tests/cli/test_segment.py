"""`latentseg segment`: outputs, and every kind of bad input as one line with its exit code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import latentseg as ls
from latentseg.backbones import registry
from latentseg.cli import main
from latentseg.cli.request import read_targets, split_pair
from latentseg.errors import UsageError
from latentseg.imaging import Volume, write_like
from latentseg.methods.fewshot import segmenter as module
from latentseg.phantom.bodies import Phantom

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def cases(tmp_path: Path, shown: Phantom, searched: Phantom, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder: `scan.nii.gz`, `ex.nii.gz`, its liver `ex_mask.nii.gz`, all its organs `organs.nii.gz`."""
    folder = tmp_path / "in"
    save(searched.image, folder / "scan.nii.gz", kind="image")
    save(shown.image, folder / "ex.nii.gz", kind="image")
    save(shown.labels, folder / "organs.nii.gz")
    save(shown.labels.with_array((shown.labels.array == 1).astype(np.uint8)), folder / "ex_mask.nii.gz")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def named(cases: Path) -> Path:
    """A folder of one example with names."""
    folder = cases.parent / "named"
    for kind, name in (("images", "ex"), ("labels", "organs")):
        (folder / kind).mkdir(parents=True)
        shutil.copy(cases / f"{name}.nii.gz", folder / kind / "ex.nii.gz")
    (folder / "labels.json").write_text(
        json.dumps({"liver": 1, "spleen": 4, "left/right": 2}), encoding="utf-8"
    )
    return folder


@pytest.fixture
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights: let nothing be called absent."""
    monkeypatch.setattr(module, "presence_of", lambda found: 1.0)


def save(volume: Volume, path: Path, *, kind: str = "mask") -> Path:
    return write_like(volume.array, like=volume, path=path, kind=kind)  # type: ignore[arg-type]


def line(model: Path, *words: str | Path, scan: str = "in/scan.nii.gz") -> list[str]:
    return ["segment", scan, "--backbone", str(model), "-o", "out", *map(str, words)]


def test_masks_on_the_grid_of_the_scan(
    cases: Path, named: Path, tiny_model: Path, present: None, capsys: Capture
) -> None:
    assert main(line(tiny_model, "-s", "named", "--combined", "spleen,left/right,liver")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "written to out/scan" in captured.out
    assert "voxels were claimed by more than one target" in captured.out
    names = {path.name for path in Path("out/scan").iterdir()}
    targets = ("liver", "spleen", "left_right")
    expected = {f"scan_seg-{name}.nii.gz" for name in targets} | {
        f"scan_prob-{name}.nii.gz" for name in targets
    }
    expected |= {f"scan_preview-{name}.png" for name in targets}
    assert names == expected | {"scan_stats.json", "scan_combined.nii.gz", "labels.json"}
    scan, mask = nib.load("in/scan.nii.gz"), nib.load("out/scan/scan_seg-liver.nii.gz")
    assert mask.shape == scan.shape
    assert mask.affine.tobytes() == scan.affine.tobytes()
    assert json.loads(Path("out/scan/labels.json").read_text(encoding="utf-8")) == {
        "spleen": 1,
        "left/right": 2,
        "liver": 3,
    }
    combined = np.asarray(nib.load("out/scan/scan_combined.nii.gz").dataobj)
    spleen = np.asarray(nib.load("out/scan/scan_seg-spleen.nii.gz").dataobj)
    assert ((combined == 1) == (spleen > 0)).all()


def test_one_label_map_in_the_order_of_the_targets(
    cases: Path, named: Path, tiny_model: Path, present: None
) -> None:
    assert main(line(tiny_model, "-s", "named", "--save", "mask,multilabel")) == 0
    names = json.loads(Path("out/scan/labels.json").read_text(encoding="utf-8"))
    assert names == {"liver": 1, "spleen": 2, "left/right": 3}
    assert Path("out/scan/scan_combined.nii.gz").exists()
    assert (
        main(line(tiny_model, "-s", "named", "--save", "dseg", "--combined", "spleen,liver,left/right")) == 0
    )
    table = Path("out/scan/sub-scan_desc-latentseg_dseg.tsv").read_text(encoding="utf-8").splitlines()
    assert [row.split("\t")[1] for row in table] == ["name", "background", "spleen", "liver", "left/right"]
    names = json.loads(Path("out/scan/labels.json").read_text(encoding="utf-8"))
    assert list(names) == ["spleen", "liver", "left/right"]


def test_absence_is_said(
    cases: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(module, "presence_of", lambda found: 0.2)
    words = ("-s", "in/ex.nii.gz,in/ex_mask.nii.gz", "-t", "liver", "--save", "mask")
    assert main(line(tiny_model, *words)) == 0
    assert "absent" in capsys.readouterr().out
    assert {path.name for path in Path("out/scan").iterdir()} == {"scan_seg-liver.nii.gz", "scan_stats.json"}
    assert not np.asarray(nib.load("out/scan/scan_seg-liver.nii.gz").dataobj).any()


def test_an_encoded_support_gives_the_same_mask(
    cases: Path, named: Path, tiny_model: Path, present: None, capsys: Capture
) -> None:
    model = ["--backbone", str(tiny_model)]
    assert main(["support", "encode", "named", "-t", "liver", "-o", "liver.safetensors", *model]) == 0
    assert main(line(tiny_model, "-s", "liver.safetensors", "--save", "mask")) == 0
    first = Path("out/scan/scan_seg-liver.nii.gz").read_bytes()
    shutil.rmtree("out")
    assert main(line(tiny_model, "-s", "named", "-t", "liver", "--save", "mask")) == 0
    assert Path("out/scan/scan_seg-liver.nii.gz").read_bytes() == first


def test_which_targets_are_read(cases: Path, named: Path, tiny_model: Path) -> None:
    pair = Path("in/ex.nii.gz,in/ex_mask.nii.gz")
    assert [t.name for t in read_targets([named], None)] == ["liver", "spleen", "left/right"]
    assert [t.name for t in read_targets([named], ["spleen", "liver"])] == ["spleen", "liver"]
    assert [t.name for t in read_targets([pair], None)] == ["ex_mask"]
    (joined,) = read_targets([pair, named], ["liver"])
    assert isinstance(joined, ls.Support)
    assert len(joined) == 6
    assert [t.name for t in read_targets([named, pair], ["ex_mask", "spleen"])] == ["ex_mask", "spleen"]
    context = ls.load(backbone=tiny_model).encode(joined).save("liver.safetensors")
    with pytest.raises(UsageError, match=r"'liver' is shown more than once"):
        read_targets([context, named], ["liver"])


def test_pairs_with_commas(cases: Path) -> None:
    (cases / "a,b.nii.gz").touch()
    assert split_pair("in/a,b.nii.gz,in/ex.nii.gz") == ("in/a,b.nii.gz", "in/ex.nii.gz")
    assert split_pair("x,y") == ("x", "y")


PAIR = ["-s", "in/ex.nii.gz,in/ex_mask.nii.gz"]


def other_grid(cases: Path, shown: Phantom) -> list[str]:
    affine = shown.labels.affine_ras_mm.copy()
    affine[2, 3] += 7
    save(replace(shown.labels, affine_ras_mm=affine, header=None), cases / "ex_mask.nii.gz")
    return PAIR


def empty_mask(cases: Path, shown: Phantom) -> list[str]:
    save(shown.labels.with_array(shown.labels.array * 0), cases / "ex_mask.nii.gz")
    return PAIR


def missing_label(cases: Path, shown: Phantom) -> list[str]:
    return [*PAIR, "--label", "77"]


def unchosen_label(cases: Path, shown: Phantom) -> list[str]:
    return ["-s", "in/ex.nii.gz,in/organs.nii.gz"]


def fractional_mask(cases: Path, shown: Phantom) -> list[str]:
    save(shown.labels.with_array(shown.labels.array / 3), cases / "ex_mask.nii.gz", kind="probability")
    return PAIR


def flat_support(cases: Path, shown: Phantom) -> list[str]:
    save(replace(shown.image, array=shown.image.array[:, :, :1]), cases / "ex.nii.gz", kind="image")
    return PAIR


def flat_scan(cases: Path, shown: Phantom) -> list[str]:
    Image.fromarray(np.arange(80 * 80, dtype=np.uint16).reshape(80, 80)).save(cases / "scan.png")
    return [*PAIR, "=scan.png"]


def write_scan(array: np.ndarray) -> Callable[[Path, Phantom], list[str]]:
    def spoil(cases: Path, shown: Phantom) -> list[str]:
        nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 5, 1])), cases / "scan.nii.gz")
        return PAIR

    return spoil


RAMP = np.arange(512, dtype=np.float32).reshape(8, 8, 8)


def directory(cases: Path, shown: Phantom) -> list[str]:
    return [*PAIR, "="]


def truncated(cases: Path, shown: Phantom) -> list[str]:
    content = (cases / "scan.nii.gz").read_bytes()
    (cases / "scan.nii.gz").write_bytes(content[: len(content) // 2])
    return PAIR


def no_support_folder(cases: Path, shown: Phantom) -> list[str]:
    return ["-s", "in/nowhere"]


def no_mask(cases: Path, shown: Phantom) -> list[str]:
    return ["-s", "in/ex.nii.gz"]


def unknown_target(cases: Path, shown: Phantom) -> list[str]:
    return ["-s", "named", "-t", "livr"]


def unknown_option(*words: str) -> Callable[[Path, Phantom], list[str]]:
    return lambda cases, shown: [*PAIR, *words]


def damaged_context(cases: Path, shown: Phantom) -> list[str]:
    (cases / "liver.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    return ["-s", "in/liver.safetensors"]


def corrupt_weights(cases: Path, shown: Phantom) -> list[str]:
    folder = Path(shutil.copytree(os.environ["TINY_MODEL"], cases / "model"))
    content = (folder / "fewshot.safetensors").read_bytes()
    (folder / "fewshot.safetensors").write_bytes(content[:-1000])
    return [*PAIR, "--backbone", "in/model"]


def file_in_the_way(cases: Path, shown: Phantom) -> list[str]:
    (cases / "file").write_text("", encoding="utf-8")
    return [*PAIR, "-o", "in/file"]


BAD = [
    (other_grid, 3, "E310", "ex_mask.nii.gz. Resample the mask"),
    (empty_mask, 3, "E300", "the support mask is empty: in/ex_mask.nii.gz. Give a mask"),
    (missing_label, 3, "E300", "the mask lacks label 77 (it holds 1): in/ex_mask.nii.gz. Choose"),
    (unchosen_label, 2, "E200", "in/organs.nii.gz. Say which with --label"),
    (fractional_mask, 3, "E300", "in/ex_mask.nii.gz. Give the label map"),
    (flat_support, 3, "E310", "in/ex.nii.gz and in/ex_mask.nii.gz. Give an image and a mask of the same"),
    (flat_scan, 3, "E310", "the scan is a 2-D image"),
    (
        write_scan(np.stack([RAMP, RAMP], -1)),
        3,
        "E300",
        "4 axes (8, 8, 8, 2), expected 3: in/scan.nii.gz. Save one",
    ),
    (
        write_scan(RAMP * np.nan),
        3,
        "E300",
        "NaN or infinite, the first at index (0, 0, 0): in/scan.nii.gz. Replace",
    ),
    (write_scan(np.where(RAMP == 9, np.inf, RAMP)), 3, "E300", "1 voxels are NaN or infinite"),
    (write_scan(RAMP * 0), 3, "E300", "the image is constant (the single value 0): in/scan.nii.gz. Check"),
    (directory, 3, "E300", "this is a folder and it holds"),
    (truncated, 3, "E300", "in/scan.nii.gz. Copy or export it again"),
    (no_support_folder, 3, "E300", "not a folder: in/nowhere. Give"),
    (no_mask, 2, "E200", "a support image needs its mask: in/ex.nii.gz. Give IMAGE,MASK"),
    (unknown_target, 2, "E200", "no support shows 'livr': --target. Did you mean 'liver'?"),
    (damaged_context, 4, "E400", "in/liver.safetensors. Encode the support again"),
    (corrupt_weights, 4, "E400", "in/model/fewshot.safetensors"),
    (
        unknown_option("--backbone", "compct"),
        4,
        "E400",
        "unknown model 'compct': model registry. Did you mean",
    ),
    (unknown_option("--weights", "none.safetensors"), 4, "E400", "none.safetensors"),
    (unknown_option("--modality", "US"), 2, "E200", "unknown modality 'US': --modality. Choose from ct, mr"),
    (unknown_option("--support-mode", "far"), 2, "E200", "unknown support mode 'far': --support-mode"),
    (unknown_option("--precision", "fp64"), 2, "E200", "unknown precision 'fp64'"),
    (unknown_option("--save", "mask,nrrd"), 2, "E200", "unknown output 'nrrd'. Choose from mask, prob"),
    (
        unknown_option("--combined", "spleen"),
        2,
        "E200",
        "does not name each target once: combined. Order all of",
    ),
    (unknown_option("--combined", ""), 2, "E200", "the priority (empty) does not name"),
    (unknown_option("--orientation", "XYZ"), 3, "E310", "'XYZ' is no orientation"),
    (unknown_option("--label", "x"), 2, "E200", "Invalid value for '--label'"),
    (file_in_the_way, 3, "E300", "a file is in the way of the output"),
]


@pytest.mark.parametrize(("spoil", "code", "start", "text"), BAD)
def test_bad_input(
    spoil: Callable[[Path, Phantom], list[str]],
    code: int,
    start: str,
    text: str,
    cases: Path,
    named: Path,
    shown: Phantom,
    tiny_model: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINY_MODEL", str(tiny_model))
    words = spoil(cases, shown)
    scan = f"in/{words.pop()[1:]}" if words[-1].startswith("=") else "in/scan.nii.gz"
    before = sorted(Path().rglob("*"))
    assert main(line(tiny_model, *words, scan=scan)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{start} ")
    assert captured.err.count("\n") == 1
    assert text in captured.err
    assert sorted(Path().rglob("*")) == before


def test_a_wrong_hash(
    cases: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "compact"))
    registry.write_manifest(folder)
    with (folder / "autoencoder.json").open("a") as file:
        file.write(" ")
    monkeypatch.setattr(registry, "_embedded_folder", lambda name: folder)
    assert main(["segment", "in/scan.nii.gz", *PAIR, "-o", "out"]) == 4
    error = capsys.readouterr().err
    assert error.startswith("E400 corrupt file, sha256 is ")
    assert error.count("\n") == 1
    assert "autoencoder.json. Reinstall latentseg." in error
    assert not Path("out").exists()


def test_no_permission_is_noticed_before_the_work(
    cases: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert main(line(tiny_model, *PAIR)) == 3
    error = capsys.readouterr().err
    assert error.startswith("E300 no permission to write the output: ")
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_no_permission_while_writing(
    cases: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    opened = Path.open

    def refuse(path: Path, mode: str = "r", *rest: object, **options: object) -> object:
        if "w" in mode and "out" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *rest, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refuse)
    assert main(line(tiny_model, *PAIR)) == 3
    error = capsys.readouterr().err
    assert error.startswith(
        "E300 cannot write the result (Permission denied): out/scan/scan_seg-ex_mask.nii.gz. Choose"
    )
    assert error.count("\n") == 1
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_a_failure_leaves_no_half_file(
    cases: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """A mask that cannot be finished does not appear; what was written before is whole."""
    from latentseg.imaging import formats

    written = formats._write
    calls: list[Path] = []

    def fail_second(one: Volume, kind: str, path: Path) -> None:
        calls.append(path)
        written(one, kind, path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(formats, "_write", fail_second)
    assert main(line(tiny_model, *PAIR)) == 3
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in Path("out/scan").iterdir()] == ["scan_seg-ex_mask.nii.gz"]
    nib.load("out/scan/scan_seg-ex_mask.nii.gz").get_fdata()


def test_lesions_are_searched_anywhere() -> None:
    from latentseg.cli.request import search_options
    from latentseg.methods.fewshot.parts import SegmentOptions

    assert search_options("nearest", anywhere=True).volume is None
    assert search_options("joint", anywhere=False) == SegmentOptions(support_mode="joint")
