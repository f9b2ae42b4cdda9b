"""The command line: exit codes, one-sentence errors, JSON, warnings."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from latentseg import cli
from latentseg.backbones import registry
from latentseg.cli import VERBS, main
from latentseg.cli.run import as_latentseg_error, split_global_flags
from latentseg.cli.verbs import Verb
from latentseg.errors import GeometryError, LatentsegWarning, SomeCasesFailed

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def failing_verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Register a verb `fail` that raises what the test wants."""

    def register(error: BaseException) -> None:
        app = typer.Typer()

        @app.command()
        def fail() -> None:
            raise error

        module = types.ModuleType("failing_verb")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "failing_verb", module)
        monkeypatch.setitem(VERBS, "fail", Verb("failing_verb", "Fail."))

    return register


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (GeometryError("seen", where="a.nii.gz", fix="do"), 3, "E310 seen: a.nii.gz. Do."),
        (SomeCasesFailed("2 of 3 cases failed"), 6, "E600 2 of 3 cases failed."),
        (KeyboardInterrupt(), 130, "E130 interrupted"),
        (MemoryError(), 5, "E500 not enough memory"),
        (OutOfMemoryError("CUDA out of memory"), 5, "E500 not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 5, "E500"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/m.nii.gz"), 3, "E300 cannot write, no space"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 3, "permission denied: /out"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), 3, "E300 no such file"),
        (
            ZeroDivisionError("division by zero\nmore"),
            1,
            "internal error, ZeroDivisionError: division by zero",
        ),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    error: BaseException, code: int, text: str, failing_verb: Callable[[BaseException], None], capsys: Capture
) -> None:
    failing_verb(error)
    assert main(["fail"]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_debug_shows_the_traceback_wherever_it_stands(
    failing_verb: Callable[[BaseException], None], capsys: Capture
) -> None:
    failing_verb(ValueError("seen"))
    for line in (["fail", "--debug"], ["--debug", "fail"]):
        assert main(line) == 1
        assert "Traceback" in capsys.readouterr().err


def test_global_flags_stop_at_the_double_dash() -> None:
    words, flags = split_global_flags(["a", "--offline", "--", "--debug"])
    assert words == ["a", "--", "--debug"]
    assert flags == {"--offline"}


def test_offline_lasts_for_one_command(capsys: Capture) -> None:
    assert main(["models", "pull", "dinov2-base", "--offline"]) == 4
    assert "offline is set" in capsys.readouterr().err
    assert "LATENTSEG_OFFLINE" not in os.environ


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (["modles"], "E200 no such command 'modles'. Did you mean 'models'?"),
        (["xyzzy"], "E200 no such command 'xyzzy'. See 'latentseg --help'."),
        (["inspect"], "E200 Missing argument"),
        (["inspect", "a.nii.gz", "--modality", "US"], "E200 unknown modality 'US'"),
        (["models", "lst"], "Did you mean 'list'?"),
        (["models", "list", "--jsno"], "No such option"),
    ],
)
def test_usage_errors_exit_with_2(line: list[str], text: str, capsys: Capture) -> None:
    assert main(line) == 2
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1


def test_no_arguments_show_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    assert "inspect" in capsys.readouterr().out


def test_warnings_are_one_line_each_and_only_ours(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def noisy(_: list[str]) -> int:
        for _number in range(2):
            warnings.warn("our\nwarning", LatentsegWarning, stacklevel=1)
            warnings.warn("of a library", UserWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli.run, "_invoke", noisy)
    assert main([]) == 0
    assert capsys.readouterr().err == "warning: our warning\n"


def test_typers_interrupt_is_ours() -> None:
    assert as_latentseg_error(typer.Abort()).exit_code == 130


def test_models_list_and_info(capsys: Capture) -> None:
    assert main(["models", "list"]) == 0
    assert "CreativeML OpenRAIL-M" in capsys.readouterr().out
    assert main(["models", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(registry.names())
    assert main(["models", "info", "dinov2-base"]) == 0
    assert "recorded at the first pull" in capsys.readouterr().out
    assert main(["models", "info", "dinov2-base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["license"] == "Apache-2.0"


def test_models_pull_verify_path(tmp_path: Path, capsys: Capture) -> None:
    for file in registry.info("dinov2-base").files:
        (tmp_path / file.path).write_bytes(b"weights")
    assert main(["models", "path", "dinov2-base"]) == 4
    capsys.readouterr()
    assert main(["models", "pull", "dinov2-base", "--mirror", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    assert "under Apache-2.0: https://" in captured.err
    assert "[2/2] model.safetensors" in captured.err
    folder = Path(captured.out.strip())
    assert main(["models", "path", "dinov2-base"]) == 0
    assert capsys.readouterr().out.strip() == str(folder)
    assert main(["models", "verify", "dinov2-base"]) == 0
    assert "ok: 2 files" in capsys.readouterr().out
    (folder / "model.safetensors").write_bytes(b"Weights")
    assert main(["models", "verify", "dinov2-base"]) == 4
    assert "corrupt file" in capsys.readouterr().err


def test_inspect(phantom_files: Path, capsys: Capture) -> None:
    image = phantom_files / "ct.nii.gz"
    assert main(["inspect", str(image), "--json", "--modality", "ct"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["shape"] == [96, 96, 12]
    assert facts["modality"] == "CT"
    assert len(facts["axis_codes"]) == 3
    assert main(["inspect", str(image)]) == 0
    assert "96 x 96 x 12" in capsys.readouterr().out


def test_inspect_warns_about_a_windowed_ct(tmp_path: Path, capsys: Capture) -> None:
    image = save(tmp_path, np.arange(8 * 8 * 4).reshape(8, 8, 4) % 256)
    assert main(["inspect", str(image), "--modality", "CT"]) == 0
    assert "warning: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["missing", "folder", "truncated", "constant", "nan", "4d", "text"])
def test_inspect_bad_input_exits_with_3(kind: str, tmp_path: Path, capsys: Capture) -> None:
    image = bad_image(kind, tmp_path)
    assert main(["inspect", str(image)]) == 3
    captured = capsys.readouterr()
    assert captured.err.startswith("E3")
    assert captured.err.count("\n") == 1
    assert image.name in captured.err


def bad_image(kind: str, folder: Path) -> Path:
    """Make an image that cannot be used."""
    ramp = np.arange(64.0).reshape(4, 4, 4)
    if kind == "missing":
        return folder / "missing.nii.gz"
    if kind == "folder":
        return folder
    if kind == "text":
        (folder / "text.nii.gz").write_text("no image", encoding="utf-8")
        return folder / "text.nii.gz"
    if kind == "truncated":
        image = save(folder, np.random.default_rng(0).normal(size=(32, 32, 32)))
        image.write_bytes(image.read_bytes()[:20000])
        return image
    arrays = {"constant": ramp * 0, "nan": ramp * np.nan, "4d": np.stack([ramp, ramp], axis=-1)}
    return save(folder, arrays[kind])


def save(folder: Path, array: np.ndarray) -> Path:
    """Write an array as NIfTI with nibabel alone."""
    import nibabel as nib

    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([1.0, 1, 3, 1])), folder / "bad.nii.gz")
    return folder / "bad.nii.gz"


def test_doctor(capsys: Capture) -> None:
    expected = 0 if registry.is_present("compact") else 1
    assert main(["doctor"]) == expected
    assert "torch" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == expected
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["python"]["ok"]
    assert checks["weights stable-diffusion-1.5"]["required"] is False
    assert checks["weights stable-diffusion-1.5"]["fix"] == "latentseg models pull stable-diffusion-1.5"
    assert all(check["ok"] or check["fix"] for check in checks.values())
    used = checks["inference"]["found"]
    assert re.match(r"(cpu, \d+ threads?|cuda:?\d*, .+|mps); compact in float32, Stable Diffusion in", used)


def test_doctor_says_which_extra_is_missing(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentseg.cli.doctor.find_spec", lambda name: None)
    main(["doctor"])
    shown = capsys.readouterr().out
    assert "DICOM: pydicom, highdicom, imagecodecs, openjpeg missing" in shown
    assert "pip install 'latentseg[dicom]'" in shown


def test_closed_pipe_is_quiet() -> None:
    code = "from latentseg.cli import main; import sys; sys.exit(main(['models', 'info', 'dinov2-base']))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_used_again() -> None:
    code = """
import resource
from latentseg.cli.run import run

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes([1]) * 40_000_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults()
run(["--help"])
faults()
print(before, faults())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split()[-2:])
    assert after < before / 10
