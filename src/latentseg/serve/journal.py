"""The journal: who did what and when, one line of JSON per event, which is never changed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock
from typing import Any


def now() -> str:
    """The time, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Journal:
    """The events of one project, in ``journal.jsonl``.

    A line that a power cut left unfinished is dropped when the journal is opened again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = RLock()
        self._repair()
        self._next = 1 + max((event["number"] for event in self), default=0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)

    def append(self, what: str, *, who: str, **about: Any) -> int:
        """Write an event to the disk and return its number."""
        with self._lock:
            number = self._next
            event = {"number": number, "at": now(), "who": who, "what": what, **about}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._next += 1
            return number

    def next_number(self) -> int:
        """The number that the next event gets."""
        return self._next

    def _repair(self) -> None:
        """Cut off what follows the last whole line."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = len(content)
        while whole and not _is_event(content[:whole].rsplit(b"\n", 2)[-2:]):
            whole = content.rfind(b"\n", 0, whole - 1) + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)


def _is_event(end: list[bytes]) -> bool:
    """Whether the last two pieces between line breaks are an event and nothing."""
    if len(end) < 2 or end[1]:
        return False
    try:
        return isinstance(json.loads(end[0]), dict)
    except ValueError:
        return False
