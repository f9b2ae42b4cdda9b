"""The results of a batch for its page, case by case: pictures, and metrics where the truth is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.batch.store import Record
from latentseg.errors import GeometryError, InputError, LatentsegError, explained, noted
from latentseg.evaluation.label_maps import LabelRow, MetricOptions, check_comparable, compare_masks
from latentseg.imaging import Volume, read, read_labels, same_grid
from latentseg.imaging.dicom.series import DicomOptions
from latentseg.imaging.geometry import describe_grid
from latentseg.imaging.previews import thumbnail
from latentseg.methods.results import file_name
from latentseg.metrics.calibration import Reliability
from latentseg.report.cohort import Run
from latentseg.report.cohort_pictures import EVIDENCE, Target, View
from latentseg.report.cohort_truth import Truth
from latentseg.report.page import Panel
from latentseg.report.stack import Room, Stack, Viewer, chosen_slices

WIDE = 900  # pixels of the longer side of a picture that the batch saved
SUPPORT_WIDE = 600  # the same, of the examples
METRICS = MetricOptions()


@dataclass(frozen=True)
class Finding:
    """One target of one case.

    Attributes:
        row: Its row in the order of review.
        panels: Pictures.
        viewer: Slices to be scrolled.
        files: What was written, with what it is.
        notes: What was said about the scan, and what could not be shown.
        score: Comparison with the truth.
        problem: Why it was not compared, though there is a truth.
        reliability: Its probabilities beside the truth.
    """

    row: Mapping[str, Any]
    panels: tuple[Panel, ...] = ()
    viewer: Viewer | None = None
    files: tuple[tuple[str, Path], ...] = ()
    notes: tuple[str, ...] = ()
    score: LabelRow | None = None
    problem: str = ""
    reliability: Reliability | None = None


def findings(
    run: Run,
    *,
    truth: Truth | None = None,
    metrics: MetricOptions = METRICS,
    pictures: int,
    room: Room | None = None,
) -> Iterator[list[Finding]]:
    """The targets of every case that is done, case by case; pictures of the first so many of the review.

    Args:
        run: The run.
        truth: True masks.
        metrics: How results are compared with them.
        pictures: How many results are drawn.
        room: How many slices may be scrolled.

    Raises:
        UsageError: A truth of several labels, and no word which of them is meant.
    """
    shares = (room or Room()).shares(row["case"] for row in run.review[:pictures])
    for record in run.done:
        case = _Case(run, record, metrics, slices=shares.get(record.case, 0))
        yield [case.finding(row, truth, shown=row["rank"] <= pictures) for row in case.rows]


class _Case:
    """One case with what was read of it."""

    def __init__(self, run: Run, record: Record, metrics: MetricOptions, *, slices: int) -> None:
        self.run, self.record, self.metrics, self.slices = run, record, metrics, slices
        self.rows = [row for row in run.review if row["case"] == record.case]

    @cached_property
    def scan(self) -> Volume:
        """The scan, read as it was read for the batch.

        Raises:
            LatentsegError: It is gone, or cannot be read.
        """
        reading = dict(self.record.reading)
        try:
            if reading.get("dicom"):
                reading["dicom"] = DicomOptions(**reading["dicom"])
            with noted([]):  # was said when the scan was segmented
                return read(self.run.image_of(self.record), **reading)
        except Exception as error:
            raise explained(error) from error

    @cached_property
    def view(self) -> View:
        """The scan as it is drawn."""
        return View(self.scan)

    @cached_property
    def chosen(self) -> list[int]:
        """The slices that are scrolled: those that hold a target, the largest and the least certain ones."""
        view, must = self.view, set()
        held = np.zeros(len(view.values), bool)
        for row in self.rows:
            worst = view.slice_of(int(row["worst_slice"]))
            must |= set() if worst is None else {worst}
            path = self.run.file_of(self.record, "seg", row["target"])
            if path:
                with suppress(LatentsegError):  # is said where this target is drawn
                    counts = view.canonical.apply(_on_grid(path, self.scan, mask=True) > 0).sum((1, 2))
                    held |= counts > 0
                    must |= {int(counts.argmax())} if counts.any() else set()
        return chosen_slices(held, must, most=self.slices)

    @cached_property
    def stack(self) -> Stack:
        """The slices that are scrolled, drawn."""
        return self.view.stack(self.record.case, self.chosen)

    def finding(self, row: Mapping[str, Any], truth: Truth | None, *, shown: bool) -> Finding:
        """One target, with pictures if they are to be shown."""
        notes, target = list(self.record.warnings), row["target"]
        if lost := self.run.lost_files(self.record):
            notes.append(f"Files are gone or were changed since the batch: {', '.join(lost)}.")
        true, score, problem, panels, viewer, reliability = None, None, "", [], None, None
        try:
            true = self.truth(truth, target) if truth else None
            score = self.score(true, target) if true else None
            reliability = self.reliability(true, target) if true else None
        except InputError as error:
            true, problem = None, str(error)
            notes.append(f"Not compared with the truth: {error}")
        if shown:
            try:
                drawn = self.drawn(row, true)
                panels = drawn.panels()
                viewer = drawn.viewer(self.stack, self.chosen) if self.slices else None
            except LatentsegError as error:
                notes.append(f"No pictures of the scan: {error}")
            try:
                notes += self.absence(row) if row["absent"] else []
                panels = self.support(target) + panels + self.saved(row, instead=not panels)
            except OSError as error:
                notes.append(f"A saved picture is damaged: {error}")
        files = tuple(self.run.files_of(self.record, target))
        return Finding(row, tuple(panels), viewer, files, tuple(notes), score, problem, reliability)

    def drawn(self, row: Mapping[str, Any], true: Volume | None) -> Target:
        """A target as it is drawn.

        Raises:
            LatentsegError: The scan or a map cannot be read, or they are on different grids.
        """
        maps = self.maps(row["target"]) | ({"truth": true.array} if true else {})
        return Target.of(self.view, maps, name=row["target"], worst_slice=int(row["worst_slice"]))

    def absence(self, row: Mapping[str, Any]) -> list[str]:
        """What there is to say of a target that was not found, instead of the evidence.

        Raises:
            OSError: The sentence that the batch saved cannot be read.
        """
        case, target = self.record.case, row["target"]
        path = self.run.folder / case / f"{case}_evidence-{file_name(target)}.txt"
        if path.name in self.record.files and path.is_file():
            return [path.read_text(encoding="utf-8", errors="replace").strip()]
        if any(self.run.file_of(self.record, kind, target) for kind in EVIDENCE):
            return [f"No {target} was found (presence {row['presence']:.2f}): there is no evidence to see."]
        return []

    def support(self, target: str) -> list[Panel]:
        """What was shown of a target.

        Raises:
            OSError: The picture is damaged.
        """
        path = self.run.support_of(target)
        if path is None:
            return []
        picture = thumbnail(path.read_bytes(), longest=SUPPORT_WIDE)
        return [Panel("Support", picture, "slices of the examples, the target outlined", wide=True)]

    def truth(self, truth: Truth, target: str) -> Volume | None:
        """The true mask of a target.

        Raises:
            InputError: It cannot be read.
        """
        like = self.scan if truth.needs_scan(self.record.case, target) else None
        return truth.read(self.record.case, target, like=like)

    def score(self, truth: Volume, target: str) -> LabelRow:
        """Compare the mask of a target with the truth.

        Raises:
            InputError: There is no mask, or it cannot be read.
            GeometryError: The two are on different grids.
        """
        path = self.run.file_of(self.record, "seg", target)
        if path is None:
            where = str(self.run.folder / self.record.case)
            raise InputError("no mask was saved", where=where, fix="run the batch with --save mask")
        mask = read_labels(path)
        check_comparable(mask, truth)
        return compare_masks(mask, truth, case=self.record.case, label=target, options=self.metrics)

    def reliability(self, truth: Volume, target: str) -> Reliability | None:
        """The probabilities of a target beside the truth; None where none were saved on its grid.

        Raises:
            InputError: They cannot be read.
        """
        path = self.run.file_of(self.record, "prob", target)
        if path is None:
            return None
        found = read(path, modality="unknown")
        if not same_grid(found, truth):
            return None
        return Reliability.of(np.asarray(found.array, np.float32), truth.array > 0)

    def maps(self, target: str) -> dict[str, NDArray[Any]]:
        """What was saved of a target, ``(I, J, K)`` each.

        Raises:
            LatentsegError: A file cannot be read, or is not on the grid of the scan.
        """
        paths = {kind: self.run.file_of(self.record, kind, target) for kind in ("seg", "prob", *EVIDENCE)}
        return {kind: _on_grid(path, self.scan, mask=kind == "seg") for kind, path in paths.items() if path}

    def saved(self, row: Mapping[str, Any], *, instead: bool) -> list[Panel]:
        """Pictures that the batch saved: evidence whose maps were not, and a preview instead of others."""
        case, target = self.record.case, row["target"]
        kinds = {"preview": "Preview"} if instead else {}
        maps = any(self.run.file_of(self.record, kind, target) for kind in EVIDENCE)
        if not row["absent"] and (instead or not maps):
            kinds["evidence"] = "Evidence: mask, attention map, pseudo-healthy, residual"
        panels = []
        for kind, title in kinds.items():
            path = self.run.folder / case / f"{case}_{kind}-{file_name(target)}.png"
            if path.name in self.record.files and path.is_file():
                panels.append(Panel(title, thumbnail(path.read_bytes(), longest=WIDE), "as saved", wide=True))
        return panels


def _on_grid(path: Path, scan: Volume, *, mask: bool) -> NDArray[Any]:
    volume = read_labels(path) if mask else read(path, modality="unknown")
    if not same_grid(volume, scan):
        what = f"the result is on another grid than the scan: {describe_grid(volume)}"
        what += f" against {describe_grid(scan)}"
        fix = "run 'latentseg batch' again: the scan was replaced"
        raise GeometryError(what, where=f"{path} and {scan.source}", fix=fix)
    return volume.array > 0 if mask else np.asarray(volume.array, np.float32)
