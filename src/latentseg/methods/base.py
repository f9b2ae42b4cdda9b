"""The interface of all segmentation methods: prepare a scan once, then predict each target in it.

A method is a subclass of :class:`Segmenter`. Its targets are of one kind (examples or text prompts), and so
are its prepared scans, which hold everything that does not depend on the target, such as the encoded slices.
The Python interface, the command line, batches, evaluations and the server use methods through this interface
alone. This module does not import torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from latentseg.imaging import Volume
from latentseg.imaging.formats import as_volume
from latentseg.methods.results import Segmentation, Segmentations, check_names

Progress = Callable[[int, int, str], None]
"""Called with the number of steps done, the number of steps in all, and the name of the current step."""


class Prepared(Protocol):
    """A scan together with everything that a method computed of it before it knew the target."""

    @property
    def scan(self) -> Volume:
        """The scan as it was read."""

    @property
    def nbytes(self) -> int:
        """Size in memory, in bytes; caches use it to decide how many prepared scans they keep."""


Target = TypeVar("Target")
PreparedScan = TypeVar("PreparedScan", bound=Prepared)


class Segmenter(ABC, Generic[Target, PreparedScan]):
    """A method with its weights and its backbone. It keeps no state between calls and is safe for threads.

    Attributes:
        options: A frozen dataclass of everything that changes results besides the weights.
        fingerprint: A short text that identifies the weights.

    Example:
        >>> prepared = segmenter.prepare(scan)
        >>> results = [segmenter.predict(prepared, target) for target in targets]
    """

    options: Any = None
    fingerprint: str = ""

    def __call__(self, scan: Any, targets: Any, *, on_progress: Progress | None = None) -> Segmentations:
        """Segment every target in one scan.

        Args:
            scan: A volume, or anything that :func:`latentseg.read` can read; a picture is a volume of one
                slice.
            targets: One target or several; :meth:`listed` of the method says what counts as a target.
            on_progress: Called with ``(done, total, stage)``.

        Returns:
            One result per target, under the name of the target, in the order of the targets.

        Raises:
            UsageError: No target, two targets of the same name, or one that the method cannot use.
            InputError: A scan that cannot be segmented.
            GeometryError: The axial slices are too narrow, or the scan is a 2-D image and the examples of a
                target are volumes.
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
        """Compute everything of a scan that does not depend on the target, such as its encoded slices.

        Raises:
            InputError: A scan that cannot be segmented.
            GeometryError: Axial slices too narrow to be segmented.
        """

    @abstractmethod
    def predict(self, prepared: PreparedScan, target: Target) -> Segmentation:
        """Segment one target in a prepared scan."""

    @abstractmethod
    def check(self, target: Target, scan: Volume | None = None) -> None:
        """Raise an error, before any work, for a target that would fail in every scan or in the given one."""

    def needs(self, scan: Volume) -> str:
        """Say in one sentence how much time and memory a scan takes; empty where it takes little.

        Raises:
            MemoryLimitError: The scan does not fit into the memory that is free.
        """
        del scan
        return ""

    def name_of(self, target: Target) -> str:
        """The name of a target and of its result: a prompt is its own name, examples have one."""
        return target if isinstance(target, str) else str(target.name)  # type: ignore[attr-defined]

    def encode(self, target: Target) -> Target:
        """Compute everything of a target that does not depend on the scan, so many scans can share it."""
        return target

    def listed(self, targets: Any) -> list[Target]:
        """Turn what a user gave as targets into a list; a single target need not be in a list.

        Raises:
            UsageError: Something that is not a target of this method.
        """
        return list(targets) if isinstance(targets, list | tuple) else [targets]
