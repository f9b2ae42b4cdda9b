"""What every method promises: a scan is prepared once, and then every target is cheap.

A method is a :class:`Segmenter` of its own kind of target (examples, prompts) and of its own kind of prepared
scan. The Python interface, batches, evaluations and servers call nothing else. Nothing here imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from latentseg.imaging import Volume
from latentseg.imaging.formats import as_volume
from latentseg.methods.results import Segmentation, Segmentations, check_names

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and the name of the stage."""


class Prepared(Protocol):
    """A scan after the part of the work that does not depend on the target.

    Attributes:
        scan: The scan.
    """

    @property
    def scan(self) -> Volume:
        """The scan."""

    @property
    def nbytes(self) -> int:
        """Its size in memory, by which caches decide what to keep."""


Target = TypeVar("Target")
PreparedScan = TypeVar("PreparedScan", bound=Prepared)


class Segmenter(ABC, Generic[Target, PreparedScan]):
    """A method on a backbone, ready to segment. It keeps no state between calls and may serve many threads.

    Attributes:
        options: A frozen dataclass; what it holds changes results.
        fingerprint: Identifies the weights.

    Example:
        >>> prepared = segmenter.prepare(scan)
        >>> results = [segmenter.predict(prepared, target) for target in targets]
    """

    options: Any = None
    fingerprint: str = ""

    def __call__(self, scan: Any, targets: Any, *, on_progress: Progress | None = None) -> Segmentations:
        """Segment every target in one scan.

        Args:
            scan: A volume, or what :func:`latentseg.read` makes one of; a picture is a volume of one slice.
            targets: One target or several, see :meth:`listed` of the method.
            on_progress: Called with ``(done, total, stage)``.

        Raises:
            UsageError: No target, two of one name, or one that the method cannot take.
            InputError: A scan that cannot be segmented.
            GeometryError: Axial slices too narrow, or a 2-D image and a target that was shown in volumes.
        """
        scan, asked = as_volume(scan), self.listed(targets)
        names = [self.name_of(target) for target in asked]
        check_names(names)
        for target in asked:
            self.check(target, scan)
        report, total = on_progress or (lambda *_: None), len(asked) + 1
        report(0, total, "reading the scan")
        prepared = self.prepare(scan)
        results = Segmentations()
        for done, (name, target) in enumerate(zip(names, asked, strict=True), start=1):
            report(done, total, name)
            results[name] = self.predict(prepared, target)
        report(total, total, "done")
        return results

    @abstractmethod
    def prepare(self, scan: Volume) -> PreparedScan:
        """Do what does not depend on the target.

        Raises:
            InputError: A scan that cannot be segmented.
            GeometryError: Axial slices too narrow to be segmented.
        """

    @abstractmethod
    def predict(self, prepared: PreparedScan, target: Target) -> Segmentation:
        """Segment one target in a prepared scan."""

    @abstractmethod
    def check(self, target: Target, scan: Volume | None = None) -> None:
        """Refuse a target that would fail, in every scan or in the one that is given, before any work."""

    def needs(self, scan: Volume) -> str:
        """What a scan takes, in one sentence before the work; nothing where it takes little.

        Raises:
            MemoryLimitError: It would not fit.
        """
        del scan
        return ""

    def name_of(self, target: Target) -> str:
        """What results of a target are called: a prompt is its own name, other targets have one."""
        return target if isinstance(target, str) else str(target.name)  # type: ignore[attr-defined]

    def encode(self, target: Target) -> Target:
        """The target after the part of the work that does not depend on the scan, for any number of scans."""
        return target

    def listed(self, targets: Any) -> list[Target]:
        """Targets as a list, from whatever users give for them; a lone one needs no list.

        Raises:
            UsageError: Something that is no target.
        """
        return list(targets) if isinstance(targets, list | tuple) else [targets]
