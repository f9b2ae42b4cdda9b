"""Orientation read from the picture, on scans that the body network never saw.

Usage: ``python benchmarks/orientation.py [--output FILE]``; data through ``LATENTSEG_DATA``.

Each scan of SABS 0-6, CHAOS and LUNG1 is stored in each of the 48 orders and directions of axes, whole
and as random stretches of 60 to 200 mm along the body. Its header is right once, and wrong in the 47
other ways. Counted are false alarms (a right header is called wrong), and wrong headers that are called
so, that are mended by ``--orientation auto``, and that are mended to something wrong. A thigh must stay
silent: nobody can tell its side. Single slices, as pictures without a header, are taken in all their eight
turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.evaluation.datasets import CHAOS, SABS
from latentseg.evaluation.datasets.base import data_root
from latentseg.imaging import Volume, read, to_canonical
from latentseg.imaging.affine import orientation_from
from latentseg.imaging.body_cells import Cells
from latentseg.imaging.body_network import embedded_network
from latentseg.imaging.orientation import CODES, OrientationCheck, check_orientation, evidence_of, weighed
from latentseg.imaging.raster import RADIOLOGICAL_AFFINE

FRONT_AND_BACK = "SAL"  # the header that puts the spine in front of a scan stored as SPL
STRETCHES = 3
SLICE_STEP = 5


def scans() -> Iterator[tuple[str, str, Volume]]:
    """Held-out scans: group, name, volume whose orientation is right."""
    for name in SABS.present()[:7]:
        yield "SABS 0-6 (CT abdomen)", f"SABS {name}", SABS.load(name).image
    for name in CHAOS.present():
        yield "CHAOS (MR abdomen)", f"CHAOS {name}", CHAOS.load(name).image
    with tempfile.TemporaryDirectory() as folder:
        for group, archive, inside in (
            ("LUNG1 (CT chest)", "LUNG1-001.tar.xz", "LUNG1-001"),
            ("thigh (MR)", "STS_001_MR_T2.tar.xz", "STS_001/MR_T2"),
        ):
            with tarfile.open(data_root() / "dicom" / archive) as packed:
                packed.extractall(folder, filter="data")
            yield group, archive.split(".")[0], read(Path(folder) / inside)


def stored_as(canonical: NDArray[Any], codes: str) -> NDArray[Any]:
    """Canonical slices `(S, H, W)` as an array with the axis codes given."""
    (right, anterior, superior), (to_right, to_anterior, to_superior) = orientation_from(codes)
    flips = ((0, not to_superior), (1, to_anterior), (2, to_right))
    flipped = np.flip(canonical, tuple(axis for axis, flip in flips if flip))
    return np.transpose(flipped, np.argsort([superior, anterior, right]))


def stored_spacing(spacing_mm: tuple[float, float, float], codes: str) -> tuple[float, float, float]:
    """Spacing of S, H and W along the axes of an array with the axis codes given."""
    of = dict(zip("SPL", spacing_mm, strict=True)) | dict(zip("IAR", spacing_mm, strict=True))
    i, j, k = (of[code] for code in codes)
    return i, j, k


def evidence(volume: Volume, codes: str, layers: slice) -> NDArray[np.float32]:
    """Evidence for the 48 codes of a stretch of a scan, stored with the axis codes given."""
    canonical = to_canonical(volume)
    array = stored_as(canonical.slices[layers], codes)
    cells = Cells.of(array, stored_spacing(canonical.spacing_mm, codes), modality=volume.modality)
    return evidence_of(cells, embedded_network())


def judged(checks: dict[str, OrientationCheck], truth: str) -> dict[str, float]:
    """Shares over the headers: false alarms, wrong ones noticed, mended, and mended to something wrong."""
    wrong = [check for stated, check in checks.items() if stated != truth]
    return {
        "false alarm": float(checks[truth].is_wrong),
        "noticed": float(np.mean([check.is_wrong for check in wrong])),
        "mended": float(np.mean([check.mended == truth for check in wrong])),
        "mended wrongly": float(np.mean([check.mended not in (None, truth) for check in wrong])),
        "spine in front noticed": float(checks[flipped(truth)].is_wrong),
        "spine in front mended": float(checks[flipped(truth)].mended == truth),
    }


def flipped(codes: str) -> str:
    """The codes with front and back swapped."""
    return codes.translate(str.maketrans("AP", "PA"))


def measure(volume: Volume, layers: slice, ways: tuple[str, ...]) -> dict[str, float]:
    """Means over the ways to store a scan, with every header for each."""
    rows = []
    for truth in ways:
        found = evidence(volume, truth, layers)
        rows.append(judged({stated: weighed(found, stated) for stated in CODES}, truth))
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def stretches(volume: Volume, rng: np.random.Generator) -> list[slice]:
    """Random stretches of 60 to 200 mm along the body."""
    canonical = to_canonical(volume)
    count, mm = len(canonical.slices), canonical.spacing_mm[0]
    found = []
    for _ in range(STRETCHES):
        size = min(count, round(rng.uniform(60, 200) / mm))
        first = int(rng.integers(0, count - size + 1))
        found.append(slice(first, first + size))
    return found


def pictures() -> Iterator[tuple[str, NDArray[Any]]]:
    """Slices of people that the body network never saw, the right way round: group, `(columns, rows)`."""
    for group, scans, count in (("SABS 0-6, slices", SABS, 7), ("CHAOS, slices", CHAOS, None)):
        for name in scans.present()[:count]:
            for pixels in to_canonical(scans.load(name).image).slices[::SLICE_STEP]:
                yield group, pixels.T
    for group, pattern in (
        ("KiTS19, pictures", "tumour_2d/kidney/*[0-9].png"),
        ("heads in three planes, pictures", "slices_2d/brain_cheng/*[0-9].jpg"),
    ):
        for path in sorted(data_root().glob(pattern)):
            yield group, read(path).array[..., 0]


def measure_picture(pixels: NDArray[Any]) -> dict[str, float]:
    """Shares over the eight turns of a picture, each of which is taken to run LPS."""
    noticed, mended, wrongly = [], [], []
    for transpose, columns, rows in product((False, True), repeat=3):
        seen = pixels.T if transpose else pixels
        seen = seen[:: -1 if columns else 1, :: -1 if rows else 1]
        directions = ("PL" if transpose else "LP"), ("AR" if transpose else "RA")
        truth = directions[columns][0] + directions[rows][1] + "S"
        array = np.ascontiguousarray(seen[..., None])
        check = check_orientation(Volume(array, RADIOLOGICAL_AFFINE, source=Path("slice.png")))
        noticed.append(check.is_wrong)
        mended.append(check.mended == truth)
        wrongly.append(check.mended not in (None, truth))
    return {
        "false alarm": float(noticed[0]),
        "noticed": float(np.mean(noticed[1:])),
        "mended": float(np.mean(mended[1:])),
        "mended wrongly": float(np.mean(wrongly)),
    }


def main() -> None:
    """Measure every scan, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/orientation.json"))
    parser.add_argument(
        "--ways", type=int, default=48, help="to store each whole scan, each with all 48 headers"
    )
    options = parser.parse_args()
    ways = CODES[:: 48 // options.ways]
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for group, name, volume in scans():
        start = time.process_time()
        whole = measure(volume, slice(None), ways)
        seconds = (time.process_time() - start) / len(ways)
        rows.append({"group": group, "scan": name, "view": "whole", "seconds": round(seconds, 2), **whole})
        for stretch in stretches(volume, rng):
            part = measure(volume, stretch, ("SPL",))
            rows.append({"group": group, "scan": name, "view": "60 to 200 mm", **part})
        sys.stdout.write(f"{name}: {whole} {seconds:.2f} s\n")
    for group, pixels in pictures():
        rows.append({"group": group, "view": "a slice", **measure_picture(pixels)})
    groups = {(row["group"], row["view"]): [] for row in rows}  # type: dict[tuple[str, str], list[dict[str, Any]]]
    for row in rows:
        groups[row["group"], row["view"]].append(row)
    names = list(judged({codes: weighed(np.zeros(48, np.float32), codes) for codes in CODES}, "SPL"))
    summary = []
    for (group, view), members in groups.items():
        means = {
            name: round(100 * float(np.mean([row[name] for row in members])), 1)
            for name in names
            if name in members[0]
        }
        summary.append({"group": group, "view": view, "count": len(members), **means})
        cells = " | ".join(f"{value:g}" for value in means.values())
        sys.stdout.write(f"| {group}, {view} ({len(members)}) | {cells} |\n")
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "ways": len(ways),
        "percent": summary,
        "rows": [row for row in rows if row["view"] != "a slice"],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
