"""A project on disk: scans, targets, and who did what.

Every file is written under a temporary name and renamed, so that a server that is killed leaves the state
before or after a change and nothing between. Layout::

    project.json          name and targets
    journal.jsonl         events: who, what, when
    scans/<id>/           one folder for each scan, see latentseg.serve.scan
    jobs/<id>.json        the queue
    incoming/             uploads that are under way; emptied at the start
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Protocol

from latentseg.errors import InputError, UsageError
from latentseg.imaging import files
from latentseg.serve.admission import check_admitted
from latentseg.serve.journal import Journal, now
from latentseg.serve.json_files import FORMAT, read_about, write_json
from latentseg.serve.missing import NotHere
from latentseg.serve.scan import Scan, write_view
from latentseg.serve.settings import Limits

COLORS = ("#ef6c5c", "#5c9cf6", "#66c878", "#facc48", "#ba7ae6", "#48cad0", "#ff9f6e", "#e678b4", "#9ccc65")
LONGEST_NAME = 100


@dataclass(frozen=True)
class Target:
    """What is looked for.

    Attributes:
        id: Its number in drawings, from 1.
        name: What it is called.
        color: ``#rrggbb``.
        prompt: Words by which it is found; empty for a target that is shown.
    """

    id: int
    name: str
    color: str
    prompt: str = ""

    @property
    def code(self) -> dict[str, str]:
        """Its code in SNOMED CT, or our own where there is none."""
        from latentseg.text.codes import segment_code

        code = segment_code(self.name)
        region = f"{code.kind.meaning} of {code.region.meaning}" if code.region else code.kind.meaning
        side = f"{code.side.meaning} {region.lower()}" if code.side else region
        return {"scheme": code.kind.scheme, "value": code.kind.value, "meaning": side}


class Shelf(Protocol):
    """Scans of a project, as those need them who only read."""

    @property
    def scans(self) -> list[Scan]:
        """All scans, in the order in which they were added."""

    def scan(self, name: str) -> Scan:
        """A scan by its id."""


class Project:
    """One project, for one server at a time.

    Args:
        folder: Its folder; made where it is missing.
        limits: What is refused.
    """

    def __init__(self, folder: Path, *, limits: Limits | None = None) -> None:
        self.folder, self.limits = folder, limits or Limits()
        self.lock = RLock()
        (folder / "scans").mkdir(parents=True, exist_ok=True)
        (folder / "jobs").mkdir(exist_ok=True)
        self.incoming = folder / "incoming"
        shutil.rmtree(self.incoming, ignore_errors=True)
        self.incoming.mkdir()
        self.journal = Journal(folder / "journal.jsonl")
        self._about = read_about(folder / "project.json") or {"format": FORMAT, "name": folder.name}
        self._targets = [Target(**row) for row in self._about.get("targets", [])]
        self._scans = {scan.id: scan for scan in scans_on_disk(folder)}

    @property
    def name(self) -> str:
        """What the project is called."""
        return str(self._about["name"])

    @property
    def targets(self) -> list[Target]:
        """All targets, in the order in which they were added."""
        return list(self._targets)

    @property
    def scans(self) -> list[Scan]:
        """All scans, in the order in which they were added."""
        return in_order(self._scans.values())

    def target(self, number: int) -> Target:
        """A target by its number.

        Raises:
            NotHere: There is none.
        """
        for target in self._targets:
            if target.id == number:
                return target
        raise NotHere(f"no target {number} in this project", fix="reload the page")

    def scan(self, name: str) -> Scan:
        """A scan by its id.

        Raises:
            NotHere: There is none.
        """
        if name not in self._scans:
            raise NotHere("no such scan in this project", where=name[:40], fix="reload the page")
        return self._scans[name]

    def add_target(self, name: str, *, who: str, prompt: str = "") -> Target:
        """Add a target.

        Raises:
            UsageError: A name that is empty, too long or taken, a prompt that cannot be read, or too many
                targets.
        """
        name, prompt = " ".join(name.split()), " ".join(prompt.split())
        if not 0 < len(name) <= LONGEST_NAME:
            raise UsageError("a target needs a name of 1 to 100 letters", fix="name it, such as liver")
        if prompt:
            from latentseg.text.prompts import read_prompt

            read_prompt(prompt)
        with self.lock:
            if name.casefold() in {target.name.casefold() for target in self._targets}:
                raise UsageError(f"there is a target {name!r} already", fix="choose another name")
            number = 1 + max((target.id for target in self._targets), default=0)
            if number > self.limits.targets:
                raise UsageError(f"a project has at most {self.limits.targets} targets", fix="start another")
            target = Target(number, name, COLORS[(number - 1) % len(COLORS)], prompt)
            self._targets.append(target)
            self._save()
            self.journal.append("added a target", who=who, target=number, name=name)
        return target

    def change_target(self, number: int, *, who: str, name: str = "", color: str = "") -> Target:
        """Give a target another name or color."""
        with self.lock:
            old = self.target(number)
            new = replace(old, name=" ".join(name.split()) or old.name, color=color or old.color)
            taken = {target.name.casefold() for target in self._targets if target.id != number}
            if new.name.casefold() in taken or len(new.name) > LONGEST_NAME:
                raise UsageError(f"the name {new.name[:40]!r} cannot be taken", fix="choose another name")
            self._targets[self._targets.index(old)] = new
            self._save()
            self.journal.append("changed a target", who=who, target=number, name=new.name)
        return new

    def add_scan(self, path: Path, *, who: str, name: str = "", uploaded: bool = False) -> Scan:
        """Add a scan, by reference or as an upload that moves into the project.

        Args:
            path: The file or folder.
            who: Who adds it.
            name: What it is called; its file name where nothing is given.
            uploaded: Whether the file is ours to keep.

        Raises:
            InputError: The scan is refused or cannot be read; nothing of it is kept.
        """
        if len(self._scans) >= self.limits.scans:
            raise UsageError(f"a project has at most {self.limits.scans} scans", fix="start another project")
        check_admitted(path, self.limits)
        number = secrets.token_hex(6)
        staged = self.incoming / number
        try:
            staged.mkdir()
            named = name or files.case_name(path).removesuffix(".zip")
            about = {"id": number, "name": named, "added": now(), "who": who}
            write_view(path, staged, about | {"uploaded": uploaded})
            if uploaded:
                (staged / "source").mkdir()
                path.replace(staged / "source" / path.name)
            with self.lock:
                staged.replace(self.folder / "scans" / number)
                scan = Scan.open(self.folder / "scans" / number)
                if scan is None:
                    raise InputError("the scan could not be kept", where=path.name, fix="add it again")
                self._scans[number] = scan
                self.journal.append("added a scan", who=who, scan=number, name=scan.name)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return scan

    def remove_scan(self, name: str, *, who: str) -> None:
        """Take a scan out of the project; its folder moves to ``removed``, and a referenced file stays."""
        with self.lock:
            scan = self.scan(name)
            self.journal.append("removed a scan", who=who, scan=name, name=scan.name)
            (self.folder / "removed").mkdir(exist_ok=True)
            scan.folder.replace(self.folder / "removed" / name)
            del self._scans[name]

    def _save(self) -> None:
        self._about["targets"] = [asdict(target) for target in self._targets]
        write_json(self.folder / "project.json", self._about)


def scans_on_disk(project: Path) -> list[Scan]:
    """The scans in the folder of a project, in the order in which they were added."""
    return in_order(scan for scan in map(Scan.open, project.glob("scans/*")) if scan)


def in_order(scans: Iterable[Scan]) -> list[Scan]:
    """Scans in the order in which they were added."""
    return sorted(scans, key=lambda scan: (scan.about["added"], scan.id))
