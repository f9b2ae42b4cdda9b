"""Mixed DICOM series: each is read with exact geometry, or refused with a specific message.

Usage: ``python benchmarks/dicom_robustness.py [--count 200] [--output FILE]``.

Series number n is drawn from seed n: an orientation (along the patient's axes, turned in its plane, or
oblique), CT or MR, a transfer syntax, a layout of files, and one trait of ``dicom_series.py`` or
``dicom_kinds.py``, which says what must come of it. A series that is read is compared with the truth voxel
by voxel at its place in the patient, and a mask on it makes the way to DICOM SEG and back. Outcomes: "exact",
"refused" (with the message expected), "silently wrong", "unexpected refusal", "crash". With any but the first
two, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from re import search
from typing import Any

import numpy as np

import dicom_kinds as kinds
import dicom_series as series
from dicom_series import Draft, Trait, draft_of, write
from latentseg.errors import LatentsegError, noted
from latentseg.imaging import Volume, read
from latentseg.imaging.dicom.masks import read_masks
from latentseg.imaging.dicom.seg import Segment, write_seg
from latentseg.text.codes import segment_code

REFUSED: dict[Trait, str] = {**series.REFUSED, **kinds.REFUSED}
NOTED = (*series.NOTED, *kinds.NOTED)
TRAITS: tuple[Trait, ...] = (*series.EXACT, *kinds.EXACT, *REFUSED)


def is_exact(draft: Draft, scan: Volume) -> bool:
    """Whether every voxel of the kept slices is at its place with its value."""
    for k in draft.kept:
        affine = draft.truth.affine_ras_mm.copy()
        affine[:3, 3] += draft.moved_ras_mm.get(k, 0)
        to_scan = np.linalg.inv(scan.affine_ras_mm) @ affine
        index = np.indices((*draft.truth.shape[:2], 1)).reshape(3, -1) + np.array([[0], [0], [k]])
        at = to_scan[:3, :3] @ index + to_scan[:3, 3:]
        near = np.rint(at).astype(int)
        inside = ((near >= 0) & (near < np.array(scan.shape)[:, None])).all()
        if not inside or np.abs(at - near).max() > 0.02:
            return False
        expected = draft.truth.array[:, :, k].reshape(-1)
        if np.abs(scan.array[tuple(near)] - expected).max() > 1e-3:
            return False
    if draft.options.allow_gaps or draft.options.resample_tilt:
        return bool(scan.header.marks)
    return scan.shape == (*draft.truth.shape[:2], len(draft.kept)) and not scan.header.marks


def seg_is_exact(draft: Draft, scan: Volume, folder: Path) -> bool:
    """Whether a random mask comes back from DICOM SEG; blobs where the scan was resampled."""
    mask = draft.rng.random(scan.shape) < 0.3
    if scan.header.marks:
        mask[:] = False
        mask[8:-8, 8:-8] = True
        mask = scan.header.stack.onto_grid(scan.header.stack.onto_slices(mask, scan.header.size))
    path = write_seg([Segment("liver", mask, segment_code("liver"))], like=scan, path=folder / "seg.dcm")
    return bool(np.array_equal(read_masks(path, like=scan)["liver"], mask))


def outcome(seed: int, folder: Path) -> dict[str, Any]:
    """Make series number ``seed``, read it, and say what came of it."""
    trait = TRAITS[seed % len(TRAITS)]
    draft = draft_of(seed)
    row = {"seed": seed, "trait": trait.__name__, "orientation": draft.orientation}
    trait(draft)
    path = write(draft, folder / "series", trait)
    try:
        with noted([]) as notes:
            scan = read(path, dicom=draft.options)
        good = trait not in REFUSED and is_exact(draft, scan) and scan.modality == draft.truth.modality
        good = good and (not draft.has_seg or seg_is_exact(draft, scan, folder))
        warned = bool(notes) == (trait in NOTED)
        return row | {"outcome": "exact" if good and warned else "silently wrong", "says": "; ".join(notes)}
    except LatentsegError as error:
        expected = trait in REFUSED and search(REFUSED[trait], str(error))
        return row | {"outcome": "refused" if expected else "unexpected refusal", "says": str(error)}
    except Exception as error:
        return row | {"outcome": "crash", "says": f"{type(error).__name__}: {error}"}


def main(arguments: list[str] | None = None) -> int:
    """Run the series, print a table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/dicom_robustness.json"))
    options = parser.parse_args(arguments)
    rows = []
    for seed in range(options.count):
        folder = Path(tempfile.mkdtemp(prefix="dicom_robustness_"))
        try:
            rows.append(outcome(seed, folder))
        finally:
            shutil.rmtree(folder)
        rows[-1]["says"] = rows[-1]["says"].replace(str(folder), "")
    counts = Counter((row["trait"], row["outcome"]) for row in rows)
    for (trait, result), count in sorted(counts.items()):
        sys.stdout.write(f"| {trait.replace('_', ' ')} | {result} | {count} |\n")
    totals = dict(Counter(row["outcome"] for row in rows))
    sys.stdout.write(f"{options.count} series: {totals}\n")
    about = {"date": datetime.now(UTC).date().isoformat(), "count": options.count, "totals": totals}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**about, "series": rows}, indent=1) + "\n", encoding="utf-8")
    return int(set(totals) - {"exact", "refused"} != set())


if __name__ == "__main__":
    sys.exit(main())
