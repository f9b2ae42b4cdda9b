"""One project, its model and its queue: what the server, the MONAI Label protocol and tests drive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from threading import Event
from typing import TYPE_CHECKING, Any

from latentseg.errors import UsageError
from latentseg.serve.drawings import Slices, draw, forget, undo
from latentseg.serve.engine import Caller, Engine, check_targets
from latentseg.serve.events import Events
from latentseg.serve.jobs import Job, Queue, Told
from latentseg.serve.learning import doubt_of, has_example, row_of, stale
from latentseg.serve.project import Project
from latentseg.serve.scan import Scan
from latentseg.serve.settings import ServeOptions
from latentseg.serve.verdicts import Verdict, judge, verdict_of

if TYPE_CHECKING:
    from latentseg.serve.workers import RayWorkers


class Workbench:
    """A project at work.

    Args:
        options: What the server was started with.

    Raises:
        UsageError: The engine is Ray, and it is not installed.
    """

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.project = Project(options.project, limits=options.limits)
        self.engine = engine_of(self.project, options)
        self.events = Events()
        at_once = options.workers if options.engine == "ray" else 1
        self.queue = Queue(options.project / "jobs", self._work, self._told, at_once=at_once)

    def start(self) -> None:
        """Begin to work on what waits."""
        self.queue.start()

    def close(self) -> None:
        """Stop, losing nothing."""
        self.queue.close()
        self.engine.close()
        self.events.close()

    def opened(self, scan: Scan) -> None:
        """Somebody looks at a scan: it is prepared while they paint."""
        if all(target.prompt for target in self.project.targets) and self.project.targets:
            return
        self.engine.ahead(scan)

    def scan_row(self, scan: Scan) -> dict[str, Any]:
        """What the list of scans shows of one."""
        return self._row(scan, self._shown())

    def scan_rows(self) -> list[dict[str, Any]]:
        """All scans, those first that are most worth a look; what is settled comes last."""
        shown = self._shown()
        rows = [self._row(scan, shown) for scan in self.project.scans]
        return sorted(rows, key=lambda row: (row["doubt"] is None, -(row["doubt"] or 0.0), row["name"]))

    def _shown(self) -> set[int]:
        """Targets that can be looked for: by words, or because somebody has shown them."""
        return {t.id for t in self.project.targets if t.prompt or has_example(self.project, t)}

    def _row(self, scan: Scan, shown: set[int]) -> dict[str, Any]:
        rows = [row_of(scan, target) for target in self.project.targets]
        about = {name: scan.about[name] for name in ("modality", "shape", "spacing_mm", "dicom", "window")}
        named = {"id": scan.id, "name": scan.name, "added": scan.about["added"]}
        return {**named, **about, "doubt": doubt_of(rows, shown=shown), "targets": rows}

    def find(
        self, scans: Sequence[str], targets: Sequence[int], *, who: str, background: bool = False
    ) -> list[Job]:
        """Ask for targets in scans.

        Raises:
            UsageError: No scan or target, or a target that nobody has shown.
        """
        if not scans:
            raise UsageError("no scan was chosen", fix="choose at least one scan")
        chosen = check_targets(self.project, targets)
        for target in chosen:
            if not target.prompt and not has_example(self.project, target):
                fix = "paint it on one slice, then press find"
                raise UsageError(f"nobody has shown {target.name} yet", fix=fix)
        found = [self.project.scan(name) for name in dict.fromkeys(scans)]
        numbers = tuple(target.id for target in chosen)
        return [self.queue.add(scan.id, numbers, who=who, background=background) for scan in found]

    def draw(self, scan: Scan, target: int, slices: Slices, *, who: str) -> None:
        """Keep slices that a person drew; what was accepted before is open again."""
        self.project.target(target)
        draw(scan, target, slices, journal=self.project.journal, who=who)
        if verdict_of(scan, target) != "none":
            judge(scan, target, "none", journal=self.project.journal, who=who)
        self.tell_scan(scan)

    def forget(self, scan: Scan, target: int, slices: Sequence[int], *, who: str) -> None:
        """Give slices back to the model."""
        self.project.target(target)
        forget(scan, target, slices, journal=self.project.journal, who=who)
        self.tell_scan(scan)

    def undo(self, scan: Scan, *, who: str) -> dict[str, Any] | None:
        """Take back the last drawing of a scan."""
        event = undo(scan, journal=self.project.journal, who=who)
        self.tell_scan(scan)
        return event

    def judge(self, scan: Scan, target: int, verdict: Verdict, *, who: str, learn: bool = True) -> list[Job]:
        """Accept or reject a result. What was accepted becomes an example: open scans are run again.

        Returns:
            The jobs that this starts in the background.
        """
        chosen = self.project.target(target)
        judge(scan, target, verdict, journal=self.project.journal, who=who)
        self.tell_scan(scan)
        if verdict != "accepted" or not learn or chosen.prompt:
            return []
        return self.relearn(who=who)

    def relearn(self, *, who: str) -> list[Job]:
        """Look again, in the background, for all targets whose examples changed, the most doubtful first."""
        self.queue.stop_background()
        shown = [t for t in self.project.targets if not t.prompt and has_example(self.project, t)]
        jobs = []
        for row in self.scan_rows():
            scan = self.project.scan(row["id"])
            open_ = [t for t in shown if verdict_of(scan, t.id) == "none" and stale(self.project, scan, t)]
            if open_:
                jobs.append(self.queue.add(scan.id, tuple(t.id for t in open_), who=who, background=True))
        return jobs

    def tell_scan(self, scan: Scan) -> None:
        """Tell the pages what the list shows of a scan now."""
        self.events.tell("scan", self.scan_row(scan))

    def tell_project(self) -> None:
        """Tell the pages that targets or scans came or went."""
        self.events.tell("project", {})

    def _work(self, job: Job, stop: Event, tell: Told) -> None:
        scan = self.project.scan(job.scan)
        targets = check_targets(self.project, job.targets)
        self.engine.find(scan, targets, Caller(stop, tell, kept=lambda: self.tell_scan(scan)))

    def _told(self, job: Job) -> None:
        self.events.tell("job", asdict(job))


def engine_of(project: Project, options: ServeOptions) -> Engine | RayWorkers:
    """What finds targets: this process, or workers of Ray.

    Raises:
        UsageError: Ray is not installed.
    """
    if options.engine == "here":
        return Engine(project, options)
    from latentseg.serve.workers import RayWorkers

    return RayWorkers(options)
