"""What `latentseg batch` promises, measured: kills cost one case each, memory is flat, reading overlaps.

Usage: ``python benchmarks/batch_throughput.py [--cases 50] [--kills 20] [--parts kills,memory]``;
``--cases 6 --kills 2 --shape 48 48 4`` takes a minute.

* kills: a cohort of phantoms through the command line, killed with SIGKILL at random moments and resumed, is
  compared byte for byte with a run that nothing disturbed. No finished case may be touched again, no more
  than one may be at work when the kill comes, and nothing hidden may be left. ``--stand-in`` puts a
  threshold in the place of the model: the runner is the same, and it takes minutes.
* memory: resident memory after every case, once the first ones have warmed everything up.
* overlap, overlap_model: the cohort with and without reading ahead, by turns: with a stand-in that computes
  for as long as reading takes, which is what overlap can give at most, and with the model. Give them larger
  scans, such as ``--cases 8 --shape 256 256 40``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import latentseg as ls
from latentseg.batch.cases import Case, find_cases
from latentseg.batch.runner import BatchOptions, Silence, run_batch
from latentseg.batch.store import PARTIAL, OutputFolder, Record
from latentseg.batch.work import Loaded, Task, Work, read_case, segment_case
from latentseg.imaging import Volume, write_like
from latentseg.methods.base import Segmenter
from latentseg.methods.results import Segmentation
from latentseg.phantom import abdomen

ROUNDS = 3
WARM = 5  # cases after which memory must not grow
TIMES_DIFFER = ("run.json", "_case.json")  # hold times; everything else must be equal
STAND_IN = Path(__file__).parents[1] / "tests/batch/cohorts.py"
MASKS = BatchOptions(save=("mask", "prob"))


@dataclass(frozen=True)
class Setup:
    """Where the cohort is, and which model goes through it."""

    folder: Path
    backbone: str
    cases: int
    kills: int
    seed: int
    stand_in: bool

    @property
    def source(self) -> Path:
        """Folder of the scans."""
        return self.folder / "in"

    def command(self, out: Path) -> list[str]:
        """The command line of a run that goes on."""
        if self.stand_in:
            return [sys.executable, str(STAND_IN), str(self.source), str(out), str(self.folder / "log")]
        pair = f"{self.folder / 'support.nii.gz'},{self.folder / 'support_mask.nii.gz'}"
        words = ["batch", str(self.source), "-s", pair, "-t", "liver", "--backbone", self.backbone]
        return [sys.executable, "-m", "latentseg", *words, "--save", "mask,prob", "-o", str(out), "--resume"]

    def task(self) -> Task:
        """The same in this process."""
        pair = (self.folder / "support.nii.gz", self.folder / "support_mask.nii.gz")
        segmenter = ls.load("fewshot", backbone=self.backbone)
        return Task(segmenter, (ls.Support.from_files([pair], name="liver"),), segmenter.fingerprint)


def make_cohort(setup: Setup, shape: tuple[int, int, int]) -> None:
    """Phantoms, and one example of the liver."""
    for number in range(setup.cases):
        scan = abdomen(seed=number, shape=shape).image
        write_like(scan.array, like=scan, path=setup.source / f"ct{number:03}.nii.gz", kind="image")
    shown = abdomen(seed=1000, shape=(96, 96, 12))
    write_like(shown.image.array, like=shown.image, path=setup.folder / "support.nii.gz", kind="image")
    write_like(shown.labels.array == 1, like=shown.image, path=setup.folder / "support_mask.nii.gz")


def kills(setup: Setup) -> dict[str, Any]:
    """Kill and resume a run; compare it with an undisturbed one."""
    whole, out = setup.folder / "whole", setup.folder / "killed"
    start = time.perf_counter()
    subprocess.run(setup.command(whole), check=True, capture_output=True)  # noqa: S603
    case_s = (time.perf_counter() - start) / setup.cases
    moments = random.Random(setup.seed)  # noqa: S311
    done: dict[str, tuple[int, int]] = {}
    at_work, killed = [], 0
    while killed < setup.kills:
        process = subprocess.Popen(setup.command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        before = len(finished(out))
        while process.poll() is None and not workplaces(out) and len(finished(out)) == before:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 2 * case_s))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        killed += 1
        at_work.append(len(workplaces(out)))
        done |= {case: stamp for case, stamp in finished(out).items() if case not in done}
    subprocess.run(setup.command(out), check=True, capture_output=True)  # noqa: S603
    after = finished(out)
    return {
        "stand_in": setup.stand_in,
        "cases": setup.cases,
        "kills": killed,
        "finished_cases_done_again": sum(after[case] != stamp for case, stamp in done.items()),
        "cases_at_work_when_killed": max(at_work, default=0),
        "identical": contents(out) == contents(whole),
        "left_over": sum(path.name.startswith(".") for path in out.rglob("*")),
    }


def finished(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of the record of every finished case."""
    records = out.glob("ct*/ct*_case.json")
    return {path.parent.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in records}


def workplaces(out: Path) -> list[Path]:
    """Cases that are being put together."""
    return [path for path in (out / PARTIAL).glob("*/ct*") if path.is_dir()]


def contents(out: Path) -> dict[str, bytes]:
    """Every file that holds no times."""
    files = (path for path in out.rglob("*") if path.is_file() and not path.name.endswith(TIMES_DIFFER))
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


class Resident(Silence):
    """Notes the resident memory after every case, in MB."""

    def __init__(self) -> None:
        self.megabytes: list[float] = []

    def finished(self, record: Record) -> None:
        """Note it."""
        del record
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.megabytes.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def memory(setup: Setup) -> dict[str, Any]:
    """Resident memory over the cohort."""
    seen = Resident()
    cases = find_cases(setup.source)
    run_batch([setup.task()], cases=cases, out=setup.folder / "memory", options=MASKS, listener=seen)
    settled = seen.megabytes[min(WARM, len(seen.megabytes) // 2) :]
    middle = statistics.median(settled)
    return {
        "cases": len(cases),
        "median_mb": round(middle, 1),
        "lowest_percent": round(100 * (min(settled) / middle - 1), 2),
        "highest_percent": round(100 * (max(settled) / middle - 1), 2),
    }


class Busy(Segmenter[str, Any]):
    """A stand-in for the networks: products of matrices, as many as fit into a given time."""

    def __init__(self, seconds: float) -> None:
        self.numbers = np.ones((512, 512), np.float32)
        self.products = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            self.numbers @ self.numbers
            self.products += 1

    def check(self, target: str, scan: Volume | None = None) -> None:
        """Take any target."""

    def prepare(self, scan: Volume) -> Volume:
        """Multiply matrices."""
        for _ in range(self.products):
            self.numbers @ self.numbers
        return scan

    def predict(self, prepared: Volume, target: str) -> Segmentation:
        """Nothing is found."""
        nothing = np.zeros(prepared.shape, np.float32)
        return Segmentation(target, prepared, nothing > 0, nothing, 0.0)


def one_at_a_time(cases: Sequence[Case], work: Work, folder: OutputFolder) -> Iterator[Record]:
    """The engine that reads, then segments, then reads."""
    for case in cases:
        load: Callable[[], Loaded] = partial(read_case, case)
        yield segment_case(case, load, work=work, folder=folder)


def overlap(setup: Setup) -> dict[str, Any]:
    """Reading ahead of a stand-in that computes for as long as reading takes."""
    read_s = statistics.median(read_case(case).seconds for case in find_cases(setup.source))
    task = Task(Busy(read_s), ("nothing",))
    return {"read_s": round(read_s, 3)} | compare_engines(task, setup, options=BatchOptions(save=()))


def overlap_model(setup: Setup) -> dict[str, Any]:
    """Reading ahead of the model."""
    return compare_engines(setup.task(), setup, options=MASKS)


def compare_engines(task: Task, setup: Setup, *, options: BatchOptions) -> dict[str, Any]:
    """Time with and without reading ahead, by turns; the best one of each counts."""
    cases = find_cases(setup.source)
    timed = partial(time_run, task, cases, options=options, out=setup.folder / "overlap")
    rounds = [(timed(engine=one_at_a_time), timed(engine=None)) for _ in range(ROUNDS)]
    alone, ahead = (min(column) for column in zip(*rounds, strict=True))
    return {"alone_s": round(alone, 2), "ahead_s": round(ahead, 2), "ratio": round(alone / ahead, 3)}


def time_run(task: Task, cases: Sequence[Case], *, options: BatchOptions, out: Path, engine: Any) -> float:
    """Seconds for the cohort, from the encoded support to the last file."""
    shutil.rmtree(out, ignore_errors=True)
    ready = task.encoded()
    start = time.perf_counter()
    run_batch([ready], cases=cases, out=out, options=options, engine=engine)
    return time.perf_counter() - start


PARTS: dict[str, Callable[[Setup], dict[str, Any]]] = {"kills": kills, "memory": memory}
PARTS |= {"overlap": overlap, "overlap_model": overlap_model}


def main() -> None:
    """Run the parts, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 64, 4))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--backbone", default="compact")
    parser.add_argument(
        "--stand-in", action="store_true", help="kills: a threshold in the place of the model"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/batch.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {"date": datetime.now(UTC).date().isoformat(), "shape": list(options.shape)}
    results |= {"backbone": options.backbone, "cpus": os.cpu_count()}
    for part in options.parts.split(","):
        with tempfile.TemporaryDirectory() as name:
            about = (options.cases, options.kills, options.seed, options.stand_in)
            setup = Setup(Path(name), options.backbone, *about)
            make_cohort(setup, tuple(options.shape))
            results[part] = PARTS[part](setup)
        sys.stdout.write(f"{part}: {json.dumps(results[part])}\n")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
