"""The output folder of a batch, in which each case appears as a whole, with a record of how it was made.

The files of a case are first written to a folder below ``.partial``, which is then renamed. The next run
removes what a killed run left there; a lock tells a killed run from one that is still running, such as
another shard.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latentseg.errors import InputError, UsageError

PARTIAL = ".partial"
DOOR = ".lock"  # held while workplaces come and go


@dataclass(frozen=True)
class Record:
    """The record of one case; on disk it is ``<case>/<case>_case.json``.

    Attributes:
        case: Name of the case.
        image: The scan.
        key: Changes with the content of the scan, the options, the targets and the weights.
        scan: Size, time and sha256 of the scan's files when it was segmented.
        reading: How the scan was read: modality, orientation and DICOM options, where they were given.
        targets: One row per target: statistics and confidence.
        files: Size in bytes of each file written, by name.
        warnings: What was said about the scan.
        error: Code, what, where and fix, for a case that failed; else None.
        seconds: Time to read, segment and write.
    """

    case: str
    image: str
    key: str = ""
    scan: Mapping[str, Any] = field(default_factory=dict)
    reading: Mapping[str, Any] = field(default_factory=dict)
    targets: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    error: Mapping[str, str] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> bool:
        """Whether the case failed, so that there is a reason and no result."""
        return self.error is not None


class OutputFolder:
    """Results of a cohort on disk, used as a context: ``with OutputFolder(path) as folder``.

    Attributes:
        path: The folder.
        workplace: Where this process puts cases together; removed at the end.
        abandoned: Cases that were at work when a run was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._partial = path / PARTIAL
        self.workplace = self._partial
        self.abandoned: set[str] = set()

    def __enter__(self) -> Self:
        """Make a workplace, and remove those of runs that were killed.

        Raises:
            InputError: The folder cannot be written.
        """
        try:
            try:
                self._move_in()
            except FileNotFoundError:  # another run was just leaving, and took everything hidden along
                self._move_in()
        except OSError as error:
            fix = "choose a folder you may write to, with free space"
            what = f"cannot write the output ({error.strerror or error})"
            raise InputError(what, where=str(self.path), fix=fix) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the workplace, and after the last run everything that was hidden."""
        from filelock import FileLock

        self._lock.release()
        with suppress(OSError), FileLock(self._partial / DOOR):
            self._remove_abandoned()
            if [path.name for path in self._partial.iterdir()] == [DOOR]:
                shutil.rmtree(self._partial)

    def check_free(self, case: str) -> None:
        """Require that a folder which no batch wrote is not replaced.

        Raises:
            UsageError: There is one, with files.
        """
        folder = self.path / case
        if not (folder / _record_name(case)).exists() and folder.exists() and any(folder.iterdir()):
            fix = "choose another output folder, or remove this one"
            raise UsageError("files that no batch wrote are in the way", where=str(folder), fix=fix)

    def record(self, case: str) -> Record | None:
        """What is on disk about a case; None where nothing readable is."""
        try:
            text = (self.path / case / _record_name(case)).read_text(encoding="utf-8")
            content = json.loads(text)
            listed = {name: tuple(content[name]) for name in ("targets", "warnings")}
            return Record(**content | listed)
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def is_whole(self, record: Record) -> bool:
        """Whether all files of a case are there, with the size they were written with."""
        folder = self.path / record.case
        try:
            return all((folder / name).stat().st_size == size for name, size in record.files.items())
        except OSError:
            return False

    def start(self, case: str) -> Path:
        """An empty folder to put a case together in."""
        folder = self.workplace / case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def finish(self, record: Record) -> None:
        """Write the record of a case beside its files and move all of it into place.

        Raises:
            OSError: No space, or no permission; what was there before is untouched.
        """
        staged, final = self.workplace / record.case, self.path / record.case
        staged.mkdir(parents=True, exist_ok=True)
        write_synced(staged / _record_name(record.case), json.dumps(asdict(record), indent=1) + "\n")
        before = self.workplace / f"{record.case}.before"
        if final.exists():
            final.rename(before)
        staged.rename(final)
        _sync_folder(self.path)
        shutil.rmtree(before, ignore_errors=True)

    def replace(self, name: str, text: str) -> None:
        """Write a file of the whole run, such as a table, whole or not at all.

        Raises:
            OSError: No space, or no permission; what was there before is untouched.
        """
        write_synced(self.workplace / name, text)
        (self.workplace / name).replace(self.path / name)

    def _move_in(self) -> None:
        """Make a workplace that is known to be in use."""
        from filelock import FileLock

        self._partial.mkdir(parents=True, exist_ok=True)
        with FileLock(self._partial / DOOR):
            self._remove_abandoned()
            prefix = f"{socket.gethostname()}-{os.getpid()}-"
            self.workplace = Path(tempfile.mkdtemp(prefix=prefix, dir=self._partial))
            self._lock = FileLock(f"{self.workplace}.lock", thread_local=False)
            self._lock.acquire(timeout=0)

    def _remove_abandoned(self) -> None:
        """Remove workplaces whose lock nobody holds."""
        from filelock import FileLock, Timeout

        for path in self._partial.glob("?*.lock"):
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            workplace = path.with_suffix("")
            self.abandoned |= {case.name for case in workplace.glob("*")}
            shutil.rmtree(workplace, ignore_errors=True)
            lock.release()
            path.unlink(missing_ok=True)


def write_synced(path: Path, text: str) -> None:
    """Write a text and flush it to the disk."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _record_name(case: str) -> str:
    return f"{case}_case.json"


def _sync_folder(path: Path) -> None:
    """Flush a rename to the disk, where the system lets folders be opened."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
