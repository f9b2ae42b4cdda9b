"""Bring a model's files to this machine: from the hub, an https mirror, or a folder.

Every file goes to a partial folder first, is hashed there, and the whole folder is renamed to its place
when all files are right. A pull that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import datetime as dt
import errno
import http
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from latentseg.backbones import registry
from latentseg.backbones.registry import LOCK_NAME, ModelFile, ModelInfo
from latentseg.errors import LatentsegError, ModelError
from latentseg.imaging.files import write_json

OnFile = Callable[[str, int, int], None]
_CHUNK = 1024 * 1024
_TIMEOUT_S = 60
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Source(Protocol):
    """Where files come from.

    Attributes:
        label: What the lock file and messages call the source.
        trust: Who vouches for hashes that the source itself declares.
    """

    label: str
    trust: registry.Trust

    def declared(self) -> dict[str, str]:
        """Return the sha256 of files as the source itself states them, as far as it does."""

    def fetch(self, name: str, target: Path) -> None:
        """Bring one file to `target`, going on with what is already there where possible."""


def pull(
    name: str, *, mirror: str | Path | None = None, offline: bool = False, on_file: OnFile | None = None
) -> Path:
    """Fetch a model's files into the cache, check them, and put them in their place.

    Args:
        name: A registered name. An embedded model is only verified.
        mirror: A folder, a `file://` or an `https://` address that holds the files in the model's own
            layout; by default the hub repositories of the registry, in their order.
        offline: Refuse the network; a folder still serves. Also set by `LATENTSEG_OFFLINE=1`.
        on_file: Called with (file, its number from 1, number of files) before each file.

    Returns:
        The folder of the model.

    Raises:
        ModelError: Unknown name, no source reachable, wrong hash, or not enough disk.
    """
    model = registry.info(name)
    if model.kind == "embedded":
        registry.verify(name)
        return registry.path(name)
    folder = registry.folder_of(name)
    partial = folder.with_name(f".{name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{name}.pulling")):
        _check_disk(model, partial)
        source, rows = _fetch_from_first(model, _sources(model, mirror, offline=offline), partial, on_file)
        _write_lock(partial, model, source, rows)
        _swap(partial, folder)
    return folder


def _sources(model: ModelInfo, mirror: str | Path | None, *, offline: bool) -> list[Source]:
    """Choose the sources, in the order in which they are tried."""
    text = str(mirror or "")
    address = urllib.parse.urlsplit(text)
    if mirror is not None and address.scheme in {"", "file"}:
        local = urllib.request.url2pathname(address.path) if address.scheme else text
        return [FolderSource(Path(local).expanduser())]
    if registry.is_offline(offline):
        fix = "pull on a connected machine and give the folder here with --mirror FOLDER"
        raise ModelError(f"cannot pull '{model.name}', offline is set", where=text or "hub", fix=fix)
    if mirror is None:
        elsewhere = {file.path: file.repo for file in model.files if file.repo}
        return [HubSource(repo, elsewhere=elsewhere) for repo in model.repos]
    if address.scheme == "https" or (address.scheme == "http" and address.hostname in _LOOPBACK):
        return [WebSource(text)]
    raise ModelError("a mirror must be a folder, file:// or https://", where=text, fix="use one of these")


def _fetch_from_first(
    model: ModelInfo, sources: list[Source], partial: Path, on_file: OnFile | None
) -> tuple[Source, dict[str, dict[str, Any]]]:
    """Fetch from the first source that has the files; report the last failure when none has."""
    for number, source in enumerate(sources, start=1):
        try:
            return source, _fetch_all(model, source, partial, on_file)
        except LatentsegError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                raise  # this machine's disk, not the source
            if number == len(sources):
                fix = "check the connection, or give a copy of the files with --mirror FOLDER or https://..."
                what = f"cannot fetch '{model.name}' ({type(error).__name__}: {str(error)[:200]})"
                raise ModelError(what, where=source.label, fix=fix) from error
    raise ModelError(f"no source for '{model.name}'", where="model registry", fix="give one with --mirror")


def _fetch_all(
    model: ModelInfo, source: Source, partial: Path, on_file: OnFile | None
) -> dict[str, dict[str, Any]]:
    declared = source.declared()
    earlier = registry.read_record(registry.folder_of(model.name) / LOCK_NAME)
    rows = {}
    for number, file in enumerate(model.files, start=1):
        if on_file:
            on_file(file.path, number, len(model.files))
        expected, trust = _expected(file, earlier, declared, source.trust)
        rows[file.path] = _fetch_one(model, source, partial / file.path, replace(file, sha256=expected))
        rows[file.path]["trust"] = trust
    return rows


def _expected(
    file: ModelFile, earlier: dict[str, dict[str, Any]], declared: dict[str, str], source: registry.Trust
) -> tuple[str, str]:
    """Return the hash that a file must have ("" when nobody knows) and who says so."""
    if file.sha256:
        return file.sha256, "registry"
    if file.path in earlier:
        return str(earlier[file.path]["sha256"]), str(earlier[file.path]["trust"])
    if file.path in declared:
        return declared[file.path], source
    return "", "first use"


def _fetch_one(model: ModelInfo, source: Source, target: Path, file: ModelFile) -> dict[str, Any]:
    """Fetch one file, unless it is already there with the right hash; return its record."""
    target.parent.mkdir(parents=True, exist_ok=True)
    found = registry.sha256_of(target) if target.is_file() and file.sha256 else ""
    if not found or found != file.sha256:
        source.fetch(file.path, target)
        found = registry.sha256_of(target)
    if file.sha256 and found != file.sha256:
        target.unlink()
        fix = "pull from another mirror, or, if the change is wanted, delete the cached folder of the model"
        what = f"wrong file '{file.path}', sha256 is {found} and should be {file.sha256}"
        raise ModelError(what, where=source.label, fix=f"{fix} ({registry.folder_of(model.name)})")
    return {"sha256": found, "bytes": target.stat().st_size}


def _write_lock(partial: Path, model: ModelInfo, source: Source, rows: dict[str, dict[str, Any]]) -> None:
    for key, row in rows.items():
        row["mtime_ns"] = (partial / key).stat().st_mtime_ns
    content = {
        "model": model.name,
        "license": model.license,
        "license_url": model.license_url,
        "source": source.label,
        "pulled": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "files": rows,
    }
    write_json(partial / LOCK_NAME, content)


def _swap(partial: Path, folder: Path) -> None:
    """Put the finished folder in its place; the one that was there goes away last."""
    shutil.rmtree(partial / ".cache", ignore_errors=True)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    partial.replace(folder)
    shutil.rmtree(old, ignore_errors=True)


def _check_disk(model: ModelInfo, partial: Path) -> None:
    there = sum(file.stat().st_size for file in partial.rglob("*") if file.is_file())
    needed, free = model.total_bytes - there, shutil.disk_usage(partial).free
    if needed > free:
        fix = "free some space, or point LATENTSEG_HOME at a larger disk"
        what = f"'{model.name}' needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free"
        raise ModelError(what, where=str(partial.parent), fix=fix)


@dataclass
class FolderSource:
    """A folder in the model's own layout; the folder of a pulled model is one, with its hashes."""

    folder: Path
    trust: registry.Trust = "mirror"

    def __post_init__(self) -> None:
        self.label = str(self.folder)
        if not self.folder.is_dir():
            raise ModelError("no such mirror folder", where=self.label, fix="give the folder of the files")

    def declared(self) -> dict[str, str]:
        """Read the hashes of a lock file or manifest in the folder."""
        rows = registry.read_record(self.folder / LOCK_NAME) or registry.read_record(
            self.folder / registry.MANIFEST_NAME
        )
        return {key: str(row["sha256"]) for key, row in rows.items()}

    def fetch(self, name: str, target: Path) -> None:
        """Copy one file."""
        if not (self.folder / name).is_file():
            raise ModelError(
                f"the mirror lacks the file '{name}'", where=self.label, fix="complete the mirror"
            )
        part = target.with_name(f"{target.name}.part")
        shutil.copyfile(self.folder / name, part)
        part.replace(target)


@dataclass
class WebSource:
    """A web folder in the model's own layout; interrupted files go on where they stopped."""

    address: str
    trust: registry.Trust = "mirror"

    def __post_init__(self) -> None:
        self.label = self.address.rstrip("/")

    def declared(self) -> dict[str, str]:
        """State nothing: the hashes of a web mirror come from the registry or from first use."""
        return {}

    def fetch(self, name: str, target: Path) -> None:
        """Download one file, asking only for the bytes that are not there yet."""
        part = target.with_name(f"{target.name}.part")
        have = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(f"{self.label}/{urllib.parse.quote(name)}")  # noqa: S310 - checked
        if have:
            request.add_header("Range", f"bytes={have}-")
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - checked
                resumed = answer.status == http.HTTPStatus.PARTIAL_CONTENT
                total = int(answer.headers.get("Content-Length", -1)) + (have if resumed else 0)
                with part.open("ab" if resumed else "wb") as stream:
                    shutil.copyfileobj(answer, stream, _CHUNK)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # else it was complete
                msg = f"{name}: HTTP {error.code}"
                raise ConnectionError(msg) from error
            total = have
        if 0 <= total != part.stat().st_size:
            msg = f"{name}: the connection ended after {part.stat().st_size} of {total} bytes"
            raise ConnectionError(msg)
        part.replace(target)


@dataclass
class HubSource:
    """A repository of the Hugging Face hub, or of the mirror that `HF_ENDPOINT` names.

    Attributes:
        repo: Its name.
        trust: Its record of hashes is the hub's.
        elsewhere: Other repositories, of the files that they hold.
    """

    repo: str
    trust: registry.Trust = "hub"
    elsewhere: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.label = f"hub repository {self.repo}"
        self.revisions: dict[str, str] = {}

    def declared(self) -> dict[str, str]:
        """Ask the hub for its record of large files, and pin the revision for the files that follow."""
        from huggingface_hub import HfApi

        hashes: dict[str, str] = {}
        for repo in dict.fromkeys([self.repo, *self.elsewhere.values()]):
            state = HfApi().model_info(repo, files_metadata=True, timeout=_TIMEOUT_S)
            self.revisions[repo] = state.sha or "main"
            large = {file.rfilename: file.lfs.sha256 for file in state.siblings or [] if file.lfs}
            hashes |= {name: sha for name, sha in large.items() if self._holder(name) == repo}
        pinned = " and ".join(f"{repo} at {revision}" for repo, revision in self.revisions.items())
        self.label = f"hub repository {pinned}"
        return hashes

    def fetch(self, name: str, target: Path) -> None:
        """Download one file with the hub's own client, which goes on with partial files."""
        from huggingface_hub import hf_hub_download

        root = target
        for _ in Path(name).parts:
            root = root.parent
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        repo = self._holder(name)
        hf_hub_download(repo, name, revision=self.revisions.get(repo, "main"), local_dir=root)

    def _holder(self, name: str) -> str:
        return self.elsewhere.get(name, self.repo)
