"""How far a command is: one bar with stage and time left on a terminal, a line every 30 s elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Event, Thread
from types import TracebackType
from typing import TYPE_CHECKING, Self

from latentseg.errors import LatentsegError

if TYPE_CHECKING:
    from rich.progress import Task

    from latentseg.batch.store import Record

EVERY_S = 30.0
"""Between two lines where standard error is no terminal; a command that is done before writes none."""

REMEMBERED_S = 3600.0
"""Steps of this time are averaged: a step may be a scan that takes minutes."""


class Progress:
    """A bar or lines on standard error, used as a context: ``with Progress("segment") as progress``.

    It can be called with ``(done, total, stage)`` and so be given as ``on_progress``.

    Args:
        title: What is under way, such as the name of the verb.
        every_s: Seconds between two lines.
    """

    def __init__(self, title: str, *, every_s: float = EVERY_S) -> None:
        from rich import progress
        from rich.console import Console

        self.title, self.every_s = title, every_s
        console = Console(stderr=True, highlight=False, markup=False)
        self.bar = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            speed_estimate_period=REMEMBERED_S,
        )
        self.row = self.bar.add_task(title, total=None)
        self._over = Event()

    def __enter__(self) -> Self:
        """Show the bar, or begin to write lines."""
        self.bar.start()
        if self.bar.disable:
            Thread(target=self._write_lines, daemon=True, name="progress").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._over.set()
        self.bar.stop()

    def __call__(self, done: int, total: int, stage: str) -> None:
        """Show that ``done`` of ``total`` steps are done, and what is under way now."""
        self.bar.update(self.row, completed=done, total=total, description=f"{self.title}: {stage}")

    def stage(self, stage: str) -> None:
        """Show what is under way, at the same step as before."""
        self.bar.update(self.row, description=f"{self.title}: {stage}")

    def advance(self, stage: str) -> None:
        """Show that one more step is done."""
        self.bar.update(self.row, advance=1, description=f"{self.title}: {stage}")

    def say(self, text: str) -> None:
        """Write a line that stays, above the bar."""
        self.bar.console.print(text, soft_wrap=True)

    def _write_lines(self) -> None:
        while not self._over.wait(self.every_s):
            self.say(line_of(self.bar.tasks[0]))


class BatchProgress(Progress):
    """Failures of a batch as they happen, and how far it is."""

    def started(self, *, pending: int, kept: int) -> None:
        """Say how many cases there are, of which some were finished before."""
        self(kept, pending + kept, "encoding what was shown")

    def finished(self, record: Record) -> None:
        """Count a case; say why one failed."""
        self.advance(record.case)
        if record.error:
            self.say(f"{record.case}: {as_error(record.error)}")

    def ended(self) -> None:
        """Say that only the tables are missing."""
        self.stage("writing the tables")


def as_error(reason: Mapping[str, str]) -> LatentsegError:
    """The error of a failed case, as it was raised."""
    error = LatentsegError(reason["what"], where=reason["where"], fix=reason["fix"])
    error.code = reason["code"]
    return error


def line_of(task: Task) -> str:
    """What a bar shows, in words: ``segment: liver, 1 of 3, 45 s, about 90 s left``."""
    parts = [task.description]
    if task.total:
        parts.append(f"{task.completed:.0f} of {task.total:.0f}")
    parts.append(human_time(task.elapsed or 0.0))
    if task.time_remaining:
        parts.append(f"about {human_time(task.time_remaining)} left")
    return ", ".join(parts)


def human_time(seconds: float) -> str:
    """Write a time as people read it, such as `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
