"""The house itself: a light import, public names, errors that are one sentence."""

from __future__ import annotations

import ast
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import latentseg
from latentseg import errors
from latentseg.errors import LatentsegError

SOURCE = Path(latentseg.__file__).parent
HEAVY = (
    *("torch", "diffusers", "transformers", "huggingface_hub", "nibabel", "SimpleITK", "scipy", "skimage"),
    *("fastapi", "uvicorn", "ray"),
)
SUBCLASSES = [
    (errors.UsageError, 2),
    (errors.InputError, 3),
    (errors.GeometryError, 3),
    (errors.ModelError, 4),
    (errors.MemoryLimitError, 5),
    (errors.SomeCasesFailed, 6),
    (errors.Interrupted, 130),
]


def heavy_modules_after(code: str) -> list[str]:
    """Run `code` in a fresh interpreter and return the heavy modules that it imported."""
    report = f"\nimport sys; print('HEAVY', *[m for m in {HEAVY!r} if m in sys.modules])"
    command = [sys.executable, "-c", code + report]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(
    "code",
    [
        "import latentseg",
        "import latentseg.errors, latentseg.backbones.registry",
        "import latentseg.imaging",
        "from latentseg.cli import main; assert main(['--help']) == 0",
        "from latentseg.cli import main; assert main(['--version']) == 0",
        "from latentseg.cli import main; assert main(['models', 'list']) == 0",
        "from latentseg.cli import main; assert main(['models', 'pull', 'nothing']) == 4",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert heavy_modules_after(code) == []


def test_every_verb_shows_its_help_without_torch() -> None:
    code = (
        "from latentseg.cli import VERBS, main\nfor verb in VERBS: assert main([verb, '--help']) == 0, verb"
    )
    assert "torch" not in heavy_modules_after(code)


def test_help_survives_a_terminal_without_unicode() -> None:
    code = (
        "from latentseg.cli import VERBS, main\nfor verb in VERBS: assert main([verb, '--help']) == 0, verb"
    )
    plain = {**os.environ, "PYTHONIOENCODING": "ascii"}
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=plain)


def test_text_files_name_their_encoding() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                named = any(keyword.arg == "encoding" for keyword in node.keywords)
                assert named or node.func.attr not in {"read_text", "write_text"}, (path, node.lineno)


def test_public_names_exist() -> None:
    for name in latentseg.__all__:
        assert getattr(latentseg, name) is not None, name
    assert set(dir(latentseg)) == set(latentseg.__all__)


def test_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = latentseg.laod


@pytest.mark.parametrize(("kind", "exit_code"), SUBCLASSES)
def test_exit_codes_are_the_documented_ones(kind: type[LatentsegError], exit_code: int) -> None:
    assert kind.exit_code == exit_code
    documented = (SOURCE.parents[1] / "docs/reference/errors.md").read_text(encoding="utf-8")
    assert f"| {exit_code} |" in documented
    assert f"`{kind.__name__}`" in documented
    assert f"`{kind.code}`" in documented


def test_message_is_one_sentence_with_what_where_and_fix() -> None:
    error = errors.InputError("shape (3, 4)\nis odd.", where="a.nii.gz", fix="give another.")
    assert str(error) == "E300 shape (3, 4) is odd: a.nii.gz. Give another."
    assert str(errors.ModelError("unknown", fix="did you mean 'x'?")) == "E400 unknown. Did you mean 'x'?"
    assert str(LatentsegError("seen")) == "E100 seen."


def test_error_survives_a_process_border() -> None:
    error = errors.GeometryError("seen", where="there", fix="do this")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is errors.GeometryError
    assert str(again) == str(error)


def test_light_rooms_do_not_import_torch_at_the_top() -> None:
    rooms = ["imaging", "text", "batch", "cli", "report"]
    files = [file for room in rooms for file in (SOURCE / room).rglob("*.py")]
    for file in [*files, SOURCE / "errors.py", SOURCE / "__init__.py", SOURCE / "evaluation/metrics.py"]:
        if file.is_file():
            assert "torch" not in top_level_imports(file), file


def top_level_imports(file: Path) -> set[str]:
    """Top-level packages that a module imports when it is imported."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


def test_functions_and_files_stay_small() -> None:
    for file in SOURCE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, file
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert length <= 60, f"{file}: {node.name} has {length} lines"
