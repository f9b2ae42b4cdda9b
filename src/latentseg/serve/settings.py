"""What a server is started with."""

from __future__ import annotations

import getpass
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from latentseg.errors import UsageError

PORT = 8471
GIB = 1 << 30
LOCAL = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what a user may ask for, with a token
SHORTEST_TOKEN = 16  # characters


def new_token() -> str:
    """A token that nobody guesses: 192 random bits."""
    return secrets.token_urlsafe(24)


def user_name() -> str:
    """Who draws and accepts, where the page does not say: the user of this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


@dataclass(frozen=True)
class Limits:
    """What a server refuses.

    Attributes:
        upload_bytes: Of one uploaded file.
        body_bytes: Of any other request.
        volume_bytes: Of the voxels of one scan, unpacked.
        archive_files: Files in one zip archive.
        archive_ratio: Unpacked bytes per packed byte of an archive, on average.
        cache_bytes: Memory for prepared scans.
        scans: Scans of one project.
        targets: Targets of one project: a drawing holds that many labels.
    """

    upload_bytes: int = 4 * GIB
    body_bytes: int = GIB // 4
    volume_bytes: int = 2 * GIB
    archive_files: int = 20_000
    archive_ratio: int = 200
    cache_bytes: int = 2 * GIB
    scans: int = 10_000
    targets: int = 64


@dataclass(frozen=True)
class ServeOptions:
    """What a server is started with.

    Attributes:
        project: Folder of the project; made where it is missing.
        data: Folders from which scans may be opened by their path, and no others.
        host: Address to listen on.
        port: Port to listen on.
        names: Further names that this machine is reached by, for the header ``Host``.
        origins: Other pages that may ask, such as an OHIF viewer's, for the header ``Origin``.
        token: What every request must carry.
        backbone: Model, see :func:`latentseg.load`.
        weights: Few-shot weights other than those of the backbone.
        user: Who draws and accepts, where a request does not say.
        dicomweb: Root of a DICOMweb server to take series from and store results in; empty for none.
        engine: Where targets are found: in this process, or by the workers of Ray.
        workers: Of Ray; each loads the model.
        limits: What is refused.
    """

    project: Path
    data: tuple[Path, ...] = ()
    host: str = "127.0.0.1"
    port: int = PORT
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    token: str = field(default_factory=new_token, repr=False)
    backbone: str | Path = "compact"
    weights: Path | None = None
    user: str = field(default_factory=user_name)
    dicomweb: str = ""
    engine: Literal["here", "ray"] = "here"
    workers: int = 2
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        """Refuse what would be unsafe or make no sense."""
        if len(self.token) < SHORTEST_TOKEN:
            what = f"the token has {len(self.token)} characters, at least {SHORTEST_TOKEN} are needed"
            raise UsageError(what, where="--token", fix="give a longer one, or leave it out")
        if not self.token.isascii() or any(letter.isspace() for letter in self.token):
            fix = "use letters, digits, - and _ alone"
            raise UsageError("the token holds spaces or letters outside ASCII", where="--token", fix=fix)
        if self.dicomweb and not self.dicomweb.startswith(("http://", "https://")):
            fix = "give its root, such as http://127.0.0.1:8042/dicom-web"
            raise UsageError("not the address of a DICOMweb server", where=self.dicomweb, fix=fix)
        if self.engine not in ("here", "ray"):
            raise UsageError(f"unknown engine {self.engine!r}", where="--engine", fix="give here or ray")
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/*]+", origin):
                fix = "write it without a path, such as https://ohif.lan"
                raise UsageError("not the origin of a page", where=f"--origin {origin}", fix=fix)
        for folder in self.data:
            if not folder.is_dir():
                raise UsageError("not a folder", where=str(folder), fix="give a folder of scans with --data")

    @property
    def hosts(self) -> frozenset[str]:
        """Values of the header ``Host`` that are answered."""
        names = {*LOCAL, *self.names, *(() if self.host in EVERYWHERE else (self.host,))}
        shown = [f"[{name}]" if ":" in name else name.lower() for name in names]
        return frozenset(f"{name}:{self.port}" for name in shown)

    @property
    def address(self) -> str:
        """Where the page is, with the token; the part after ``#`` is not sent to any server."""
        host = "127.0.0.1" if self.host in EVERYWHERE else self.host
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{self.port}/#token={self.token}"
