"""Speed and memory of `latentseg segment` on the compact backbone, from the start to the written files.

Usage: ``python benchmarks/speed_compact.py [--slices 100] [--threads 2] [--beside SRC] [--output FILE]``.

A phantom of that many slices is searched for 1, 2 and 4 targets, and a phantom of half as many slices for
4: so the table says what a further target costs, and whether time is linear in slices. It is also asked for
1 and 2 tumors by name; a phantom with lesions, so that there is something to refine. The matmul peak of
the machine is measured before and after; compare ratios, not seconds, across machines.

With ``--beside SRC``, the ``src`` folder of another version, three of these runs are made by both versions in
turn, on the same phantoms, and written to ``speed_compact_paired.json``: the ratio of a pair means something
where the machine is shared, and processor seconds more than wall seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import latentseg
from latentseg.imaging import write_like
from latentseg.phantom.bodies import LABELS, abdomen

TARGETS = ("liver", "spleen", "kidney_left", "kidney_right")
PROMPTS = ("liver tumor", "kidney tumor")
LESIONS = 3
SOURCE = Path(latentseg.__file__).resolve().parents[1]
PAIRS = ((1, False), (4, False), (1, True))  # targets, and whether they are prompts


@dataclass(frozen=True)
class Run:
    """One process: wall and processor seconds, and the peak of its resident memory."""

    by: str
    slices: int
    targets: int
    wall_s: float
    cpu_s: float
    peak_gb: float


def make_inputs(folder: Path, slices: int) -> None:
    """A phantom per number of slices, and one support phantom with its labels."""
    for count in (slices, slices // 2):
        scan = abdomen(seed=1, modality="CT", shape=(256, 256, count), lesions=LESIONS).image
        write_like(scan.array, like=scan, path=folder / f"scan{count}.nii.gz", kind="image")
    shown = abdomen(seed=2, modality="CT", shape=(256, 256, 32))
    support = folder / "support"
    support.mkdir()
    write_like(shown.image.array, like=shown.image, path=support / "a.nii.gz", kind="image")
    write_like(shown.labels.array, like=shown.image, path=support / "a_mask.nii.gz")
    names = {name: label for label, name in shown.names.items() if name in LABELS}
    (support / "labels.json").write_text(json.dumps(names), encoding="utf-8")


def example_words(folder: Path, targets: int) -> list[str]:
    """Words that ask for targets by examples."""
    chosen = [word for name in TARGETS[:targets] for word in ("--target", name)]
    return ["--support", str(folder / "support"), *chosen]


def prompt_words(targets: int) -> list[str]:
    """Words that ask for targets by prompts."""
    return [word for prompt in PROMPTS[:targets] for word in ("--prompt", prompt)]


def run(
    folder: Path, *, slices: int, targets: int, threads: int, prompts: bool = False, source: Path = SOURCE
) -> Run:
    """Time one `latentseg segment` as a process of its own, of the version in a ``src`` folder."""
    command = [sys.executable, "-m", "latentseg", "segment", str(folder / f"scan{slices}.nii.gz")]
    command += prompt_words(targets) if prompts else example_words(folder, targets)
    command += ["--out", str(folder / f"out{slices}-{targets}-{prompts}")]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(source)}
    start = time.perf_counter()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet)  # noqa: S603
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"latentseg segment failed with exit code {process.returncode}")
    cpu = usage.ru_utime + usage.ru_stime
    by = "prompts" if prompts else "examples"
    return Run(by, slices, targets, round(wall, 2), round(cpu, 2), round(usage.ru_maxrss / 1e6, 2))


def paired(folder: Path, *, slices: int, threads: int, beside: Path, repeats: int) -> list[dict[str, object]]:
    """Runs of this version and of another in turn; of each pair the ratio, this one by the other."""
    rows: list[dict[str, object]] = []
    for targets, prompts in PAIRS:
        for number in range(repeats):
            order = (SOURCE, beside) if number % 2 else (beside, SOURCE)
            made = {
                source: run(
                    folder, slices=slices, targets=targets, threads=threads, prompts=prompts, source=source
                )
                for source in order
            }
            ours, other = made[SOURCE], made[beside]
            ratios = {
                "wall_ratio": round(ours.wall_s / other.wall_s, 3),
                "cpu_ratio": round(ours.cpu_s / other.cpu_s, 3),
            }
            rows.append(
                asdict(ours) | {f"beside_{k}": v for k, v in list(asdict(other).items())[3:]} | ratios
            )
    return rows


def matmul_gflops(threads: int) -> float:
    """Rate of a float32 matrix product, the best of five."""
    import torch

    torch.set_num_threads(threads)
    a = torch.randn(2048, 2048)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return round(2 * 2048**3 / best / 1e9, 1)


def processor() -> str:
    """Name, model and clock of the processor, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    pairs = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
    facts = {name.strip(): value.strip() for name, _, value in pairs}
    name, clock = facts.get("model name", platform.processor()), facts.get("cpu MHz", "?")
    return f"{name}, family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}, {clock} MHz"


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--beside", type=Path, help="src folder of another version, for paired runs")
    parser.add_argument("--repeats", type=int, default=1, help="of each pair")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    name = "speed_compact_paired.json" if options.beside else "speed_compact.json"
    output = options.output or Path("benchmarks/results") / name
    before = matmul_gflops(options.threads)
    facts = {
        "processor": processor(),
        "threads": options.threads,
        "date": datetime.now(UTC).date().isoformat(),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_inputs(folder, options.slices)
        run(folder, slices=options.slices // 2, targets=1, threads=options.threads)  # warms the disk cache
        if options.beside:
            beside = options.beside.resolve()
            run(folder, slices=options.slices // 2, targets=1, threads=options.threads, source=beside)
            pairs = paired(
                folder,
                slices=options.slices,
                threads=options.threads,
                beside=beside,
                repeats=options.repeats,
            )
            write(output, pairs, facts)
            return
        plan = [(options.slices, 1), (options.slices, 2), (options.slices, 4), (options.slices // 2, 4)]
        runs = [run(folder, slices=s, targets=t, threads=options.threads) for s, t in plan]
        asked = [
            run(folder, slices=options.slices, targets=t, threads=options.threads, prompts=True)
            for t in (1, 2)
        ]
    (one, _, four, half), (first, both) = runs, asked
    figures = {
        "further_target_of_first": round((four.wall_s - one.wall_s) / 3 / one.wall_s, 3),
        "further_prompt_of_first": round(both.wall_s / first.wall_s - 1, 3),
        "half_the_slices_of_all": round(half.wall_s / four.wall_s, 3),
        "matmul_gflops_before_after": [before, matmul_gflops(options.threads)],
        **facts,
    }
    write(output, [asdict(row) for row in (*runs, *asked)], figures)


def write(path: Path, rows: list[dict[str, object]], figures: dict[str, object]) -> None:
    """Print a table and write JSON."""
    sys.stdout.write("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|\n")
    for row in rows:
        sys.stdout.write("| " + " | ".join(map(str, row.values())) + " |\n")
    sys.stdout.write(f"{json.dumps(figures, indent=1)}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runs": rows, **figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
