"""The engine of the workbench, which keeps the model and the prepared scans in memory.

One thread computes at a time. Prepared scans are cached up to a number of bytes; the oldest is dropped first.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event, Lock, RLock, Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import Interrupted, LatentsegError, UsageError, noted
from latentseg.imaging import Volume
from latentseg.methods.last_used import LastUsed
from latentseg.methods.results import Segmentation
from latentseg.serve.drawings import read_drawn
from latentseg.serve.emptied import beyond_emptied
from latentseg.serve.found import save_evidence, save_found
from latentseg.serve.journal import now
from latentseg.serve.learning import Example, examples_of, support_of
from latentseg.serve.project import Project, Shelf, Target
from latentseg.serve.scan import Scan
from latentseg.serve.settings import ServeOptions
from latentseg.serve.view import View

Told = Callable[[str, float, float], None]  # stage, fraction in [0, 1], seconds left
KEPT_SUPPORTS = 16
TICK_S = 0.25
FIRST_GUESS = {"prepare": 0.14, "predict": 0.06}  # seconds per slice on two idle cores, until measured


def load_method(options: ServeOptions, *, named: bool) -> Any:
    """The method that finds targets by words (``named``) or by examples.

    Raises:
        ModelError: Weights that are missing or damaged.
    """
    import latentseg as ls

    about: dict[str, Any] = {"backbone": options.backbone, "offline": True}
    return ls.load("tumor", **about) if named else ls.load("fewshot", weights=options.weights, **about)


@dataclass(frozen=True)
class Caller:
    """Whoever asked for a search, and can follow and end it.

    Attributes:
        stop: Set from another thread to end the search early.
        tell: Called with what is done now, how much of all is done, and the seconds that are left.
        kept: Called when a result was kept.
    """

    stop: Event
    tell: Told
    kept: Callable[[], None] = lambda: None


class Engine:
    """Finds targets in scans of a project, one at a time.

    Args:
        project: The project.
        options: Which model, and how much memory.
    """

    def __init__(self, project: Shelf, options: ServeOptions) -> None:
        self.project, self.options = project, options
        self._lock = RLock()
        self._work = Lock()  # held by the one thread that computes
        self._ahead: tuple[str, Event, Thread] | None = None
        self._methods: dict[bool, Any] = {}
        self._kept: OrderedDict[tuple[str, bool], Any] = OrderedDict()
        self._supports: LastUsed[Any] = LastUsed(KEPT_SUPPORTS)
        self._pace = dict(FIRST_GUESS)

    def method(self, *, named: bool) -> Any:
        """The method that finds targets by words or by examples, loaded once."""
        with self._lock:
            if named not in self._methods:
                self._methods[named] = load_method(self.options, named=named)
            return self._methods[named]

    def find(self, scan: Scan, targets: Sequence[Target], caller: Caller) -> None:
        """Find targets in a scan and keep what is found, each as soon as it is there.

        Raises:
            Interrupted: It was stopped; targets that were finished are kept.
            LatentsegError: A scan or an example that cannot be used.
        """
        clock = Clock(caller.tell, self._expected(scan, targets))
        with self._at_work(scan, caller.stop, clock), stoppable(caller.stop, clock.tick):
            for target in targets:
                method, prepared = self._prepared(scan, clock, named=bool(target.prompt))
                asked, examples = self._asked(scan, target, method, clock)
                clock.enter(f"finding {target.name}")
                began = time.perf_counter()
                result = method.predict(prepared, asked)
                seconds = time.perf_counter() - began
                self._learn_pace("predict", seconds / scan.slices)
                clock.enter(f"keeping {target.name}")
                result = with_drawn(result, prepared.scan, read_drawn(scan, target.id))
                about = summary(result) | {"at": now(), "seconds": round(seconds, 2)}
                about["examples"] = [one.digest for one in examples]
                save_found(scan, target.id, result, about=about)
                save_evidence(scan, target.id, result)
                caller.kept()

    def drop(self, scan: str) -> None:
        """Forget a scan that was removed."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == scan]:
                del self._kept[key]

    def ahead(self, scan: Scan) -> None:
        """Begin to prepare a scan that somebody opened; jobs that were asked for come first."""
        with self._lock:
            self._stop_ahead()
            stop = Event()
            thread = Thread(target=self._prepare_ahead, args=(scan, stop), daemon=True)
            self._ahead = scan.id, stop, thread
            thread.start()

    def close(self) -> None:
        """Stop preparing ahead; a search is stopped by the event of its caller."""
        with self._lock:
            self._stop_ahead()
        if self._ahead:
            self._ahead[2].join(timeout=30)

    def _prepare_ahead(self, scan: Scan, stop: Event) -> None:
        clock = Clock(lambda *_: None, {})
        with noted([]), suppress(Exception), self._work, stoppable(stop, clock.tick):
            self._prepared(scan, clock, named=False)  # what is wrong is told when the scan is searched

    def _stop_ahead(self, *, other_than: str = "") -> None:
        if self._ahead and self._ahead[0] != other_than:
            self._ahead[1].set()

    @contextmanager
    def _at_work(self, scan: Scan, stop: Event, clock: Clock) -> Iterator[None]:
        """Be the only thread that computes; wait for a scan that is being prepared already."""
        with self._lock:
            self._stop_ahead(other_than=scan.id)
        clock.enter("preparing the scan")
        while not self._work.acquire(timeout=TICK_S):
            clock.tick()
            if stop.is_set():
                raise Interrupted("the job was stopped", fix="press find to start again")
        try:
            yield
        finally:
            self._work.release()

    def _prepared(self, scan: Scan, clock: Clock, *, named: bool) -> tuple[Any, Any]:
        """The method, and a scan that it has prepared."""
        clock.enter("reading the scan" if named in self._methods else "loading the model")
        method, key = self.method(named=named), (scan.id, named)
        if key in self._kept:
            self._kept.move_to_end(key)
            return method, self._kept[key]
        volume = scan.read()
        clock.enter("preparing the scan")
        began = time.perf_counter()
        prepared = method.prepare(volume)
        self._learn_pace("prepare", (time.perf_counter() - began) / scan.slices)
        with self._lock:
            self._kept[key] = prepared
            while sum(one.nbytes for one in self._kept.values()) > self.options.limits.cache_bytes:
                if len(self._kept) == 1:
                    break
                self._kept.popitem(last=False)
        return method, prepared

    def _asked(self, scan: Scan, target: Target, method: Any, clock: Clock) -> tuple[Any, list[Example]]:
        """What the method is asked: words, or an encoded support."""
        if target.prompt:
            return target.prompt, []
        examples = examples_of(self.project, target, for_scan=scan.id)
        key = (target.name, *(one.digest for one in examples))

        def encoded() -> Any:
            clock.enter(f"reading the examples of {target.name}")
            return method.encode(support_of(self.project, target, examples, read=self._volume))

        return self._supports.of(key, encoded), examples

    def _volume(self, scan: Scan) -> Volume:
        kept = self._kept.get((scan.id, False))
        return kept.scan if kept else scan.read()

    def _expected(self, scan: Scan, targets: Sequence[Target]) -> dict[str, float]:
        """Seconds that each kind of work will take in all."""
        kinds = {bool(target.prompt) for target in targets}
        fresh = sum((scan.id, kind) not in self._kept for kind in kinds)
        return {
            "prepare": self._pace["prepare"] * scan.slices * fresh,
            "predict": self._pace["predict"] * scan.slices * len(targets),
        }

    def _learn_pace(self, kind: str, seconds: float) -> None:
        self._pace[kind] = 0.5 * self._pace[kind] + 0.5 * seconds


class Clock:
    """The progress of a job, estimated from the time that such jobs took before."""

    def __init__(self, tell: Told, expected: Mapping[str, float]) -> None:
        self.tell, self.total = tell, max(sum(expected.values()), 1e-3)
        self.began = time.perf_counter()
        self.stage, self.last = "", 0.0

    def enter(self, stage: str) -> None:
        """Say what is done now."""
        self.stage = stage
        self._say()

    def tick(self) -> None:
        """Called often; tells four times a second."""
        if time.perf_counter() - self.last > TICK_S:
            self._say()

    def _say(self) -> None:
        self.last = time.perf_counter()
        passed = self.last - self.began
        fraction = passed / self.total
        shown = fraction if fraction < 0.8 else 1 - 0.2 * 0.8 / max(fraction, 0.8)  # never quite the end
        self.tell(self.stage, min(shown, 0.99), max(self.total - passed, 0.0))


@contextmanager
def stoppable(stop: Event, tick: Callable[[], None]) -> Iterator[None]:
    """Let every layer of a network ask whether to go on, so that a job ends in a fraction of a second.

    Raises:
        Interrupted: From inside, once ``stop`` is set.
    """
    from threading import get_ident

    from torch.nn.modules.module import register_module_forward_pre_hook

    own = get_ident()

    def ask(*_: Any) -> None:
        if get_ident() != own:
            return
        if stop.is_set():
            raise Interrupted("the job was stopped", fix="press find to start again")
        tick()

    ask()
    handle = register_module_forward_pre_hook(ask)
    try:
        yield
    finally:
        handle.remove()


def summary(result: Segmentation) -> dict[str, Any]:
    """What the page shows of a result."""
    from latentseg.batch.confidence import DOUBTFUL, UNCERTAIN, confidence

    sure = confidence(result)
    worst = view_slice(result, sure.worst_slice) if sure.worst_slice >= 0 else -1
    reasons = {
        result.reason: bool(result.reason),
        f"unclear outline, most on slice {worst + 1}": sure.uncertainty >= UNCERTAIN and worst >= 0,
        f"perhaps not in this scan ({sure.presence:.0%})": sure.doubt >= DOUBTFUL,
        "reaches the border of the scan": sure.touches_border,
    }
    return {
        **result.stats(),
        "doubt": sure.review,
        "uncertainty": sure.uncertainty,
        "why": "; ".join(reason for reason, holds in reasons.items() if holds),
        "worst_slice": worst,
    }


def view_slice(result: Segmentation, stored: int) -> int:
    """An axial slice, counted along the file's axis, as z of the view."""
    from latentseg.imaging import to_canonical

    canonical = to_canonical(result.scan)
    return canonical.slices.shape[0] - 1 - stored if canonical.flips[0] else stored


def with_drawn(result: Segmentation, volume: Volume, drawn: Mapping[int, NDArray[np.bool_]]) -> Segmentation:
    """A result in which the slices that a person drew are theirs, and certain.

    Where they emptied a slice, what went through it is gone beyond it too (:func:`beyond_emptied`).

    Raises:
        LatentsegError: The method answered on another grid.
    """
    if result.mask.shape != volume.shape:
        raise LatentsegError("the model answered on another grid", fix="report this")
    if not drawn:
        return result
    view = View.of(volume)
    mask, probability = view.apply(result.mask).copy(), view.apply(result.probability).copy()
    gone = beyond_emptied(mask, drawn)
    mask[gone], probability[gone] = False, 0
    for z, slice_ in drawn.items():
        mask[:, :, z], probability[:, :, z] = slice_, slice_
    return replace(result, mask=view.restore(mask), probability=view.restore(probability))


def check_targets(project: Project, numbers: Sequence[int]) -> list[Target]:
    """Targets by their numbers.

    Raises:
        UsageError: None, or one twice.
    """
    if not numbers or len(set(numbers)) != len(numbers):
        raise UsageError("no target was chosen, or one twice", fix="choose at least one target")
    return [project.target(number) for number in numbers]
