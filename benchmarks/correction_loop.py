"""What correcting is worth: a robot works through a cohort as a person would on the page.

Usage: ``python benchmarks/correction_loop.py [--data CHAOS,SABS] [--scans 4] [--organs liver,spleen]``; data
through ``LATENTSEG_DATA``. Three ways to segment one organ in the scans of one fold:

* **one pass**: paint the middle slice of the organ in the first scan, find it in all scans, done;
* **the loop**: paint the same slice, then take the scans as the list ranks them, the most doubtful first.
  In each, correct the worst slice and find again, until Dice is 0.90 or five slices were corrected; accept;
  what is accepted becomes an example, and the scans that are left are run again before the next is taken;
* **drawing all**: outline every slice that holds the organ.

The click simulator. The worst slice is the one with the most wrong voxels, by the truth: a person who scrolls
through the scan sees it. A correction replaces the slice by the truth. A slice costs 3 seconds to find and
start, and its outline is drawn at 25 mm a second; a slice that only has to be emptied costs 3 seconds. A
correction is counted as a whole outline, though a person would mend a part of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.datasets import CHAOS, SABS, Dataset
from latentseg.imaging import Volume, write_like
from latentseg.metrics.overlap import dice
from latentseg.serve.drawings import draw
from latentseg.serve.engine import Caller
from latentseg.serve.found import final_mask
from latentseg.serve.learning import stale
from latentseg.serve.project import Target
from latentseg.serve.scan import Scan
from latentseg.serve.settings import ServeOptions
from latentseg.serve.verdicts import judge, verdict_of
from latentseg.serve.view import View
from latentseg.serve.workbench import Workbench

GOOD = 0.90
MOST = 5  # corrected slices of one scan
START_S = 3.0
MM_PER_S = 25.0
FOLD = 0


@dataclass
class Robot:
    """Draws by the truth, and counts the seconds that a person would need.

    Attributes:
        truths: The organ in each scan, ``(X, Y, Z)`` in the view frame, by the id of the scan.
        bench: The workbench.
        target: The organ.
        seconds: What was spent.
        slices: Slices that were drawn.
    """

    truths: dict[str, NDArray[np.bool_]]
    bench: Workbench
    target: Target
    seconds: float = 0.0
    slices: int = 0
    marks: list[str] = field(default_factory=list)

    def draw(self, scan: Scan, z: int) -> None:
        """Draw one slice as it is in truth."""
        truth = self.truths[scan.id][:, :, z]
        self.seconds += cost_s(truth, scan.about["spacing_mm"])
        self.slices += 1
        draw(scan, self.target.id, {z: truth}, journal=self.bench.project.journal, who="robot")

    def find(self, scan: Scan) -> None:
        """Find the organ in a scan."""
        self.bench.engine.find(scan, [self.target], Caller(Event(), tell=lambda *_: None))

    def dice(self, scan: Scan) -> float:
        """How good what stands is."""
        return float(dice(final_mask(scan, self.target.id), self.truths[scan.id]))

    def worst(self, scan: Scan) -> int:
        """The slice with the most wrong voxels."""
        wrong = (final_mask(scan, self.target.id) != self.truths[scan.id]).sum((0, 1))
        return int(wrong.argmax())

    def accept(self, scan: Scan) -> None:
        """Accept what stands."""
        judge(scan, self.target.id, "accepted", journal=self.bench.project.journal, who="robot")


def cost_s(truth: NDArray[np.bool_], spacing_mm: list[float]) -> float:
    """Seconds to outline a mask ``(X, Y)``."""
    if not truth.any():
        return START_S
    padded = np.pad(truth, 1)
    along_x = np.count_nonzero(padded[1:] != padded[:-1]) * spacing_mm[1]
    along_y = np.count_nonzero(padded[:, 1:] != padded[:, :-1]) * spacing_mm[0]
    outline_mm = (along_x + along_y) * np.pi / 4  # a staircase is that much longer than a smooth curve
    return START_S + float(outline_mm) / MM_PER_S


def thinned(volume: Volume, every: int) -> Volume:
    """Every n-th slice of a volume whose third axis is the slice axis."""
    affine = volume.affine_ras_mm.copy()
    affine[:3, 2] *= every
    array = np.ascontiguousarray(volume.array[:, :, ::every])
    return Volume(array, affine, volume.modality, orientation=volume.orientation)


def cohort(data: Dataset, *, organ: str, scans: int, every: int, folder: Path) -> Robot:
    """A project with the scans of one fold."""
    bench = Workbench(ServeOptions(folder / "project", data=(folder,)))
    robot = Robot({}, bench, bench.project.add_target(organ.replace("_", " "), who="robot"))
    for case_id in data.fold(FOLD)[:scans]:
        case = data.load(case_id)
        image, truth = case.image, case.image.with_array(case.mask(organ))
        if every > 1:
            image, truth = thinned(image, every), thinned(truth, every)
        view = View.of(image)  # as the data set repairs it
        upright = Volume(view.apply(image.array).copy(), np.diag([*view.spacing_mm, 1.0]), image.modality)
        path = write_like(upright.array, like=upright, path=folder / f"{case_id}.nii.gz", kind="image")
        scan = bench.project.add_scan(path, who="robot")
        robot.truths[scan.id] = np.asarray(view.apply(truth.array))
    return robot


def all_by_hand(robot: Robot) -> dict[str, float]:
    """The cost of drawing everything."""
    seconds, slices = 0.0, 0
    for scan in robot.bench.project.scans:
        truth = robot.truths[scan.id]
        for z in np.flatnonzero(truth.any((0, 1))):
            seconds += cost_s(truth[:, :, z], scan.about["spacing_mm"])
            slices += 1
    return {"seconds": round(seconds), "slices": slices, "dice": 1.0}


def one_pass(robot: Robot) -> dict[str, object]:
    """Paint one slice, find everywhere."""
    scans = robot.bench.project.scans
    held = np.flatnonzero(robot.truths[scans[0].id].any((0, 1)))
    robot.draw(scans[0], int(held[len(held) // 2]))
    for scan in scans:
        robot.find(scan)
    return figures(robot)


def loop(robot: Robot) -> dict[str, object]:
    """Correct, find again, accept, learn; begins where one pass ended."""
    project, number = robot.bench.project, robot.target.id
    while True:
        left = [row["id"] for row in robot.bench.scan_rows() if row["doubt"] is not None]
        if not left:
            return figures(robot)
        scan = project.scan(left[0])
        if stale(project, scan, robot.target):
            robot.find(scan)
        corrected = 0
        while robot.dice(scan) < GOOD and corrected < MOST:
            robot.draw(scan, robot.worst(scan))
            corrected += 1
            robot.find(scan)
        robot.marks.append(f"{scan.name}: {corrected} corrected, Dice {robot.dice(scan):.2f}")
        sys.stderr.write(robot.marks[-1] + "\n")
        robot.accept(scan)
        for other in project.scans:
            if verdict_of(other, number) == "none":
                robot.find(other)


def figures(robot: Robot) -> dict[str, object]:
    """What was reached, and at what cost."""
    scores = [round(robot.dice(scan), 3) for scan in robot.bench.project.scans]
    about = {
        "seconds": round(robot.seconds),
        "slices": robot.slices,
        "dice": round(float(np.mean(scores)), 3),
    }
    return {**about, "each": scores, "course": list(robot.marks)}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="CHAOS,SABS")
    parser.add_argument("--scans", type=int, default=4)
    parser.add_argument("--every", type=int, default=3, help="of SABS, whose slices are 3 mm apart")
    parser.add_argument("--organs", default="liver,spleen")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/correction_loop.json"))
    options = parser.parse_args()
    known = {"CHAOS": (CHAOS, 1), "SABS": (SABS, options.every)}
    results: dict[str, object] = {"date": datetime.now(UTC).date().isoformat(), "scans": options.scans}
    for name in options.data.split(","):
        data, every = known[name]
        for organ in options.organs.split(","):
            with tempfile.TemporaryDirectory() as folder:
                about = {"organ": organ, "scans": options.scans, "every": every}
                robot = cohort(data, **about, folder=Path(folder))
                hand, once = all_by_hand(robot), one_pass(robot)
                row = {"one pass": once, "loop": loop(robot), "drawing all": hand, "every": every}
            results[f"{name} {organ}"] = row
            for way in ("one pass", "loop", "drawing all"):
                cells = " | ".join(str(row[way][key]) for key in ("dice", "slices", "seconds"))
                sys.stdout.write(f"| {name} | {organ} | {way} | {cells} |\n")
                sys.stdout.flush()
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
