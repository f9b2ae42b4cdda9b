"""The models that latentseg knows by name: where their files are, what they hash to, under which licence.

`resolve` finds weights and never downloads; `pull` (in `latentseg.backbones.download`) is the only
door to the network. A hash comes from the table `models.json`, else from the hub's own record, else it
is recorded when a file is first pulled ("trust on first use") and every later pull must agree with it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from latentseg.errors import ModelError
from latentseg.imaging.files import write_json

Trust = Literal["registry", "hub", "mirror", "first use"]

ALIASES = {"maisi-ct": "maisi-ct-rflow"}
"""Names for the current release of a model, and which that is."""

LOCK_NAME = "latentseg.lock.json"
MANIFEST_NAME = "manifest.json"
_LICENSE = ("license", "license_url", "license_note")
_SMALL = 64 * 1024 * 1024  # bytes; smaller files are hashed on every resolve
_TRUE = {"1", "true", "yes", "on"}


@dataclass(frozen=True)
class ModelFile:
    """One file of a model: path inside the model's folder, size (0 = unknown), sha256 ("" = unknown).

    A file that another hub repository holds than the model's names it in `repo`.
    """

    path: str
    bytes: int = 0
    sha256: str = ""
    repo: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """What the registry knows about a model, without opening it.

    Attributes:
        name: The name that users type.
        title: One line for people.
        kind: `"embedded"` ships inside the package, `"hub"` is pulled.
        dims: Number of spatial dimensions of the network.
        license: Name of the licence of the weights.
        license_url: Where the licence is to be read.
        license_note: What to mind, or "".
        repos: Hub repositories that hold the files, tried in this order.
        files: The files that are needed.
    """

    name: str
    title: str
    kind: Literal["embedded", "hub"]
    dims: int
    license: str
    license_url: str
    license_note: str
    repos: tuple[str, ...]
    files: tuple[ModelFile, ...]

    @property
    def total_bytes(self) -> int:
        """Size of all files whose size is known."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True)
class CheckedFile:
    """A file whose content equals its recorded hash, and who vouches for that hash."""

    path: str
    bytes: int
    sha256: str
    trust: str


def home() -> Path:
    """Return the folder of all caches: `$LATENTSEG_HOME`, else the platform's user cache."""
    chosen = os.environ.get("LATENTSEG_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("latentseg", appauthor=False)


def is_offline(offline: bool | None = None) -> bool:
    """Say whether the network is off limits: the argument, `LATENTSEG_OFFLINE` or `HF_HUB_OFFLINE`."""
    switches = (os.environ.get(name, "") for name in ("LATENTSEG_OFFLINE", "HF_HUB_OFFLINE"))
    return bool(offline) or any(value.strip().lower() in _TRUE for value in switches)


def names() -> tuple[str, ...]:
    """Return the names of all known models, the embedded default first."""
    return tuple(_table())


def info(name: str) -> ModelInfo:
    """Return what is known about a model.

    Raises:
        ModelError: The name is unknown; the message offers the nearest one.
    """
    name, row = current_name(name), _row(name)
    fields = {key: row[key] for key in ("title", "kind", "dims", *_LICENSE)}
    files = _files(row["files"])
    if row["kind"] == "embedded":  # what its manifest says of files and licence overrules the table
        manifest = _read_json(_embedded_folder(name) / MANIFEST_NAME)
        files = _files([{"path": path, **about} for path, about in manifest.get("files", {}).items()])
        fields |= {key: str(manifest[key]) for key in _LICENSE if key in manifest}
    return ModelInfo(name=name, repos=tuple(row["repos"]), files=files, **fields)


def resolve(name_or_folder: str | Path, *, offline: bool | None = None) -> Path:
    """Find the folder of a model's weights; never download.

    Args:
        name_or_folder: A registered name, or a folder in the model's own layout.
        offline: Only changes the advice of the error when the model is not there.

    Returns:
        The folder. The files of a registered model have been checked: all hashes of an embedded model,
        and of a pulled one every small file and each large file that changed since it was last checked.

    Raises:
        ModelError: Unknown name, no such folder, not pulled yet, or a missing or corrupt file.
    """
    text = current_name(str(name_or_folder))
    if isinstance(name_or_folder, str) and text in _table():
        model = info(text)
        folder = _present_folder(model, offline=is_offline(offline))
        _check(model, folder, thorough=False)
        return folder
    folder = Path(name_or_folder).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name_or_folder, Path) or os.sep in text or text.startswith(("~", ".")):
        fix = f"give a folder, or one of the names {', '.join(names())}"
        raise ModelError("no such model folder", where=str(folder), fix=fix)
    raise _unknown(text)


def path(name: str) -> Path:
    """Return the folder where a model's files are, without checking their content.

    Raises:
        ModelError: Unknown, or not pulled yet.
    """
    return _present_folder(info(name), offline=is_offline())


def is_present(name: str) -> bool:
    """Say whether a model's files are on this machine."""
    return _is_complete(info(name), folder_of(name))


def verify(name: str) -> tuple[CheckedFile, ...]:
    """Hash every file of a model.

    Raises:
        ModelError: Not there, or a file is missing or corrupt; names the file, both hashes and the fix.
    """
    model = info(name)
    return _check(model, _present_folder(model, offline=is_offline()), thorough=True)


def folder_of(name: str) -> Path:
    """Return the folder where a model's files belong, whether they are there or not."""
    embedded = _row(name)["kind"] == "embedded"
    return _embedded_folder(name) if embedded else home() / "models" / current_name(name)


def current_name(name: str) -> str:
    """The name of a model's current release, such as ``maisi-ct-rflow`` for ``maisi-ct``; others as given."""
    return ALIASES.get(name, name)


def sha256_of(file: Path) -> str:
    """Return the sha256 of a file as 64 hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_manifest(folder: Path, **extra: object) -> Path:
    """Record size and sha256 of every file in `folder`, as an embedded model needs it.

    Args:
        folder: Holds the files; everything but the manifest itself is recorded.
        extra: Further entries, such as `version="1"` or `trained_on=[...]`; `license`, `license_url` and
            `license_note` overrule those of the registry.

    Returns:
        The path of the manifest, written atomically.
    """
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST_NAME)
    rows = {
        file.relative_to(folder).as_posix(): {"sha256": sha256_of(file), "bytes": file.stat().st_size}
        for file in files
        if not file.name.startswith(".")
    }
    return write_json(folder / MANIFEST_NAME, {**extra, "files": rows})


def read_record(file: Path) -> dict[str, dict[str, Any]]:
    """Read the `files` table of a manifest or lock file; an absent file is an empty table.

    Raises:
        ModelError: The file is not readable JSON of that form.
    """
    rows: dict[str, dict[str, Any]] = _read_json(file).get("files", {})
    return rows


def _read_json(file: Path) -> dict[str, Any]:
    """Read a manifest or lock file; an absent file is empty.

    Raises:
        ModelError: The file is not readable JSON with a table `files`.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {**content, "files": {str(key): dict(value) for key, value in content["files"].items()}}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "delete it and pull the model again, or reinstall latentseg"
        raise ModelError("unreadable record of hashes", where=str(file), fix=fix) from error


def corrupt(model: str, file: Path, *, expected: str, found: str) -> ModelError:
    """Describe a file whose content is not what was recorded."""
    again = f"run 'latentseg models pull {model}' to fetch it again"
    fix = "reinstall latentseg" if info(model).kind == "embedded" else again
    return ModelError(f"corrupt file, sha256 is {found} and should be {expected}", where=str(file), fix=fix)


def _table() -> dict[str, dict[str, Any]]:
    text = resources.files("latentseg.backbones").joinpath("models.json").read_text(encoding="utf-8")
    table: dict[str, dict[str, Any]] = json.loads(text)
    return table


def _row(name: str) -> dict[str, Any]:
    """Row of a model in the table.

    Raises:
        ModelError: The name is unknown; the message offers the nearest one.
    """
    table = _table()
    if current_name(name) not in table:
        raise _unknown(name)
    return table[current_name(name)]


def _unknown(name: str) -> ModelError:
    known = names()
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    fix = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(known)}, or give a folder"
    return ModelError(f"unknown model '{name}'", where="model registry", fix=fix)


def _files(rows: list[dict[str, Any]]) -> tuple[ModelFile, ...]:
    known = ("path", "bytes", "sha256", "repo")
    return tuple(ModelFile(**{key: row[key] for key in known if key in row}) for row in rows)


def _embedded_folder(name: str) -> Path:
    return Path(str(resources.files("latentseg"))) / "weights" / name


def _is_complete(model: ModelInfo, folder: Path) -> bool:
    record = folder / (MANIFEST_NAME if model.kind == "embedded" else LOCK_NAME)
    return record.is_file() and bool(model.files)


def _present_folder(model: ModelInfo, *, offline: bool) -> Path:
    folder = folder_of(model.name)
    if _is_complete(model, folder):
        return folder
    if model.kind == "embedded":
        fix = "reinstall latentseg; the embedded weights are part of the package"
        raise ModelError(f"the weights of '{model.name}' are missing", where=str(folder), fix=fix)
    where = f"cache {folder}"
    pull = f"run 'latentseg models pull {model.name}'"
    if offline:
        fix = f"{pull} on a connected machine and copy the folder, or pull --mirror FOLDER here"
        raise ModelError(f"model '{model.name}' is not there and offline is set", where=where, fix=fix)
    raise ModelError(
        f"model '{model.name}' has not been pulled", where=where, fix=f"{pull} ({model.license})"
    )


def _check(model: ModelInfo, folder: Path, *, thorough: bool) -> tuple[CheckedFile, ...]:
    """Compare the files with their record; hash large unchanged files only when `thorough`."""
    name, record = model.name, {file.path: asdict(file) for file in model.files}
    if model.kind != "embedded":
        record = read_record(folder / LOCK_NAME)
    checked = tuple(_check_file(name, folder, key, row, thorough=thorough) for key, row in record.items())
    missing = [file.path for file in model.files if file.path not in record]
    if missing:
        fix = f"run 'latentseg models pull {name}' to fetch it"
        raise ModelError(f"no record of the file {missing[0]}", where=str(folder), fix=fix)
    return checked


def _check_file(name: str, folder: Path, key: str, row: dict[str, Any], *, thorough: bool) -> CheckedFile:
    file = folder / key
    expected = str(row["sha256"])
    if not file.is_file():
        fix = f"run 'latentseg models pull {name}' to fetch it, or reinstall latentseg if it is embedded"
        raise ModelError("missing weights file", where=str(file), fix=fix)
    stat = file.stat()
    unchanged = stat.st_size == row["bytes"] and stat.st_mtime_ns == row.get("mtime_ns")
    if thorough or stat.st_size <= _SMALL or not unchanged:
        found = sha256_of(file)
        if found != expected:
            raise corrupt(name, file, expected=expected, found=found)
    return CheckedFile(key, stat.st_size, expected, str(row.get("trust", "registry")))
