"""The results of one case after the other, looked at again: pictures, and why there are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.batch.store import Record
from latentseg.errors import GeometryError, LatentsegError, explained, noted
from latentseg.imaging import Volume, read, read_labels, same_grid
from latentseg.imaging.dicom import DicomOptions
from latentseg.imaging.geometry import describe_grid
from latentseg.report.cohort import Run
from latentseg.report.cohort_pictures import EVIDENCE, View, panels_of
from latentseg.report.page import Panel
from latentseg.report.previews import thumbnail
from latentseg.results import file_name

WIDE = 900  # pixels of the longer side of a picture that the batch saved


@dataclass(frozen=True)
class Finding:
    """One target of one case.

    Attributes:
        row: Its row in the order of review.
        panels: Pictures.
        notes: What was said about the scan, and what could not be shown.
    """

    row: Mapping[str, Any]
    panels: tuple[Panel, ...] = ()
    notes: tuple[str, ...] = ()


def findings(run: Run, *, pictures: int) -> Iterator[list[Finding]]:
    """The targets of every case that is done, case by case; pictures of the first so many of the review."""
    for record in run.done:
        rows = [row for row in run.review if row["case"] == record.case]
        yield _of_case(run, record, rows, pictures)


def scan_of(run: Run, record: Record) -> Volume:
    """The scan of a case, read as it was read for the batch.

    Raises:
        InputError: It is gone, or cannot be read.
    """
    reading = dict(record.reading)
    if reading.get("dicom"):
        reading["dicom"] = DicomOptions(**reading["dicom"])
    with noted([]):  # was said when the scan was segmented
        return read(run.image_of(record), **reading)


def _of_case(run: Run, record: Record, rows: list[dict[str, Any]], pictures: int) -> list[Finding]:
    notes = list(record.warnings)
    if lost := run.lost_files(record):
        notes.append(f"Files are gone or were changed since the batch: {', '.join(lost)}.")
    view: View | None = None
    if any(row["rank"] <= pictures for row in rows):
        try:
            view = View(scan_of(run, record))
        except Exception as error:
            notes.append(f"No pictures of the scan: {explained(error)}")
    return [_of_target(run, record, row, view, notes, shown=row["rank"] <= pictures) for row in rows]


def _of_target(
    run: Run, record: Record, row: dict[str, Any], view: View | None, notes: list[str], *, shown: bool
) -> Finding:
    panels: list[Panel] = []
    notes = list(notes)
    if shown and view is not None:
        try:
            maps = _maps(run, record, row["target"], view.scan)
            panels = panels_of(view, maps, worst_slice=int(row["worst_slice"]))
        except LatentsegError as error:
            notes.append(f"No pictures of the scan: {error}")
    if shown:
        panels += _saved(run, record, row["target"], instead=not panels)
    return Finding(row, tuple(panels), tuple(notes))


def _maps(run: Run, record: Record, target: str, scan: Volume) -> dict[str, NDArray[Any]]:
    """What was saved of a target, ``(I, J, K)`` each.

    Raises:
        InputError: A file cannot be read.
        GeometryError: A file is not on the grid of the scan.
    """
    found = {}
    for kind in ("seg", "prob", *EVIDENCE):
        path = run.file_of(record, kind, target)
        if path is not None:
            found[kind] = _on_grid(path, scan, mask=kind == "seg")
    return found


def _on_grid(path: Path, scan: Volume, *, mask: bool) -> NDArray[Any]:
    volume = read_labels(path) if mask else read(path, modality="unknown")
    if not same_grid(volume, scan):
        what = f"the result is on another grid than the scan: {describe_grid(volume)}"
        what += f" against {describe_grid(scan)}"
        fix = "run 'latentseg batch' again: the scan was replaced"
        raise GeometryError(what, where=f"{path} and {scan.source}", fix=fix)
    return volume.array > 0 if mask else np.asarray(volume.array, np.float32)


def _saved(run: Run, record: Record, target: str, *, instead: bool) -> list[Panel]:
    """Pictures that the batch saved: the evidence where its maps were not, the preview instead of others."""
    folder, name = run.folder / record.case, file_name(target)
    kinds = {"preview": "Preview"} if instead else {}
    if not any(run.file_of(record, kind, target) for kind in EVIDENCE) or instead:
        kinds["evidence"] = "Evidence: mask, attention map, pseudo-healthy, residual"
    panels = []
    for kind, title in kinds.items():
        path = folder / f"{record.case}_{kind}-{name}.png"
        if path.name in record.files and path.is_file():
            panels.append(Panel(title, thumbnail(path.read_bytes(), longest=WIDE), "as saved", wide=True))
    return panels
