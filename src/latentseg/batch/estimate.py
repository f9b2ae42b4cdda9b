"""Estimates time and memory of a run, from the headers of the scans and two measured phantoms."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import psutil

from latentseg.batch.cases import Case
from latentseg.batch.store import OutputFolder
from latentseg.batch.work import Loaded, Task, Work, segment_case
from latentseg.errors import LatentsegError, explained
from latentseg.imaging import Volume, read, to_canonical
from latentseg.imaging.files import format_of, header_file
from latentseg.imaging.nifti import facts_of
from latentseg.phantom import abdomen

PROBED = ((64, 64, 8), (192, 192, 8))
"""Shapes of the phantoms: as many slices, so that the difference is what voxels cost."""


class Grid(NamedTuple):
    """Size of a scan.

    Attributes:
        shape: Voxels along I, J, K.
        slices: Axial slices.
        bytes: Size in memory, as it is read.
    """

    shape: tuple[int, int, int]
    slices: int
    bytes: int

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Cost:
    """What this machine was measured to need: a constant, and so much per slice and per voxel.

    Attributes:
        per_slice_s: Seconds for an axial slice.
        per_voxel_s: Seconds for a voxel.
        base_bytes: Memory of the program with its models, having segmented something.
        per_voxel_bytes: Further memory for a voxel.
    """

    per_slice_s: float
    per_voxel_s: float
    base_bytes: float
    per_voxel_bytes: float

    def seconds(self, grid: Grid) -> float:
        """Time for a scan."""
        return self.per_slice_s * grid.slices + self.per_voxel_s * grid.voxels

    def memory(self, grid: Grid, following: Grid | None = None) -> float:
        """Bytes for a scan, beside the one that is read ahead."""
        return self.base_bytes + self.per_voxel_bytes * grid.voxels + (following.bytes if following else 0)


@dataclass(frozen=True)
class Estimate:
    """What one case would take; or why it would fail."""

    case: Case
    grid: Grid | None = None
    seconds: float = 0.0
    memory_bytes: float = 0.0
    problem: str = ""


def estimate_cases(
    cases: Sequence[Case], cost: Cost, *, on_progress: Callable[[int, int, str], None] | None = None
) -> list[Estimate]:
    """Estimate every case; files that cannot be opened are problems and no errors.

    Args:
        cases: The scans.
        cost: What this machine needs, from :func:`measure`.
        on_progress: Called with ``(done, total, name of the case)``.
    """
    report = on_progress or (lambda *_: None)
    grids: list[Grid | None] = []
    problems = []
    for done, case in enumerate(cases):
        report(done, len(cases), case.name)
        try:
            grids.append(grid_of(case))
            problems.append("")
        except Exception as error:
            grids.append(None)
            problems.append(str(explained(error)))
    estimates = []
    for case, grid, following, problem in zip(cases, grids, [*grids[1:], None], problems, strict=True):
        if grid is None:
            estimates.append(Estimate(case, problem=problem))
        else:
            estimates.append(Estimate(case, grid, cost.seconds(grid), cost.memory(grid, following)))
    return estimates


def grid_of(case: Case) -> Grid:
    """Size of a scan: of most NIfTI from the header and the length of the file, of all else by reading it.

    Raises:
        InputError: The scan cannot be read.
    """
    if case.image.is_file() and format_of(case.image) == "NIfTI":
        facts = facts_of(header_file(case.image))
        if facts:
            voxels = np.broadcast_to(np.zeros(1, facts.dtype), facts.shape)
            nothing = Volume(voxels, facts.affine_ras_mm, orientation=case.orientation)
            size = int(np.prod(facts.shape)) * facts.dtype.itemsize
            return Grid(facts.shape, len(to_canonical(nothing).slices), size)
    scan = read(case.image, modality=case.modality, orientation=case.orientation, dicom=case.dicom)
    return Grid(scan.shape, len(to_canonical(scan).slices), scan.array.nbytes)


def measure(tasks: Sequence[Task], *, save: Sequence[str]) -> Cost:
    """Segment two phantoms, and see what slices and voxels cost in time and memory.

    Raises:
        LatentsegError: What would stop every case.
    """
    work = Work(tuple(task.encoded() for task in tasks), tuple(save), {})
    with TemporaryDirectory() as name, OutputFolder(Path(name)) as folder:
        _probe(work, folder, (64, 64, 2))  # the first call of a network is slow
        small, large = (_probe(work, folder, shape) for shape in PROBED)
    voxels = [int(np.prod(shape)) for shape in PROBED]
    further = voxels[1] - voxels[0]
    per_voxel_s = max(0.0, large[0] - small[0]) / further
    per_slice_s = max(0.0, small[0] - per_voxel_s * voxels[0]) / PROBED[0][2]
    per_voxel_bytes = max(0.0, large[1] - small[1]) / further
    return Cost(per_slice_s, per_voxel_s, psutil.Process().memory_info().rss, per_voxel_bytes)


def _probe(work: Work, folder: OutputFolder, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Seconds and peak bytes of arrays, for a phantom."""
    scan = abdomen(seed=0, shape=shape).image
    loaded = Loaded(scan, {"sha256": ""}, (), 0.0)
    tracemalloc.start()
    start = time.perf_counter()
    record = segment_case(Case("probe", Path("probe.nii.gz")), lambda: loaded, work=work, folder=folder)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    if record.error:
        raise LatentsegError(record.error["what"], where="a phantom", fix=record.error["fix"])
    return seconds, peak
