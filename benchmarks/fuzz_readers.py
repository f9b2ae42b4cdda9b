"""Damaged files of every kind, for as long as you like: read or refused, but no crash and no hang.

Usage: ``python benchmarks/fuzz_readers.py [--seconds 300] [--readers nifti,dicom] [--output FILE]``.

Each reader runs in a process of its own with 4 GiB of address space. Good outcomes: "read", "refused" (an
error of ours), "memory" (more than there is, which the command line reports as such). Bad ones: any other
exception, a process that dies, or one file that takes longer than 60 seconds. The file that did it is kept
below ``--keep`` and the exit code is 1.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import multiprocessing
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fuzz_targets import READERS, Target, damage
from latentseg.errors import LatentsegError, noted

HANG_S = 60
MEMORY = 4 << 30


def attempt(target: Target) -> str:
    """What becomes of a damaged file."""
    try:
        with noted([]):
            target.use()
    except LatentsegError:
        return "refused"
    except MemoryError:
        return "memory"
    except Exception:
        return traceback.format_exc(limit=-4)
    return "read"


def fuzz(reader: str, folder: Path, *, seconds: float, seed: int) -> None:
    """Damage and read files until the time is over; counts and findings are written as they come."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    draws = random.Random(seed)  # noqa: S311
    targets = [(target, target.content()) for target in READERS[reader](folder / "files")]
    for target, _ in targets:
        target.use()
    counts: Counter[str] = Counter()
    end = time.monotonic() + seconds
    with (folder / "stacks").open("w", encoding="utf-8") as stacks:
        while time.monotonic() < end:
            target, content = targets[draws.randrange(len(targets))]
            damaged = damage(content, draws.randrange)
            target.put(damaged)
            (folder / "last").write_bytes(damaged)
            faulthandler.dump_traceback_later(HANG_S, file=stacks, exit=True)
            outcome = attempt(target)
            faulthandler.cancel_dump_traceback_later()
            good = outcome in ("read", "refused", "memory")
            counts[outcome if good else "crash"] += 1
            if not good:
                (folder / f"crash-{counts['crash']}-{target.path.name}").write_bytes(damaged)
                (folder / f"crash-{counts['crash']}.txt").write_text(outcome, encoding="utf-8")
            target.put(content)
            (folder / "counts").write_text(json.dumps(counts), encoding="utf-8")


def run(reader: str, *, seconds: float, seed: int, keep: Path) -> dict[str, Any]:
    """Fuzz one reader in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix=f"fuzz_{reader}_"))
    process = multiprocessing.get_context("spawn").Process(
        target=fuzz, args=(reader, folder), kwargs={"seconds": seconds, "seed": seed}
    )
    process.start()
    process.join()
    counts = folder / "counts"
    found = json.loads(counts.read_text(encoding="utf-8")) if counts.exists() else {}
    row = {"reader": reader, "seconds": seconds, "exit_code": process.exitcode, **found}
    if process.exitcode or found.get("crash"):
        shutil.rmtree(keep / reader, ignore_errors=True)
        shutil.copytree(folder, keep / reader, ignore=shutil.ignore_patterns("files"))
    shutil.rmtree(folder)
    return row


def main(arguments: list[str] | None = None) -> int:
    """Fuzz, print a line for each reader, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--readers", default=",".join(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "fuzz_findings")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fuzz.json"))
    options = parser.parse_args(arguments)
    rows = []
    for reader in options.readers.split(","):
        rows.append(run(reader, seconds=options.seconds, seed=options.seed, keep=options.keep))
        sys.stdout.write(f"{json.dumps(rows[-1])}\n")
        sys.stdout.flush()
        about = {"date": datetime.now(UTC).date().isoformat(), "readers": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return int(any(row["exit_code"] or row.get("crash") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
