"""Results of the model on disk: a mask, a probability with eight bits, and their confidence."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.imaging.components import box_around
from latentseg.imaging.files import write_file
from latentseg.methods.results import Segmentation
from latentseg.serve.drawings import read_drawn
from latentseg.serve.json_files import read_about, write_json
from latentseg.serve.scan import Scan
from latentseg.serve.view import View, nifti_bytes

STEPS = 255  # of a stored probability
BEFORE = "-before"
LARGEST_SHARE = 0.1  # of the largest area of a slice, added to every one
EVIDENCE = ("attention_map", "pseudo_healthy", "residual")


@dataclass(frozen=True, eq=False)
class Found:
    """One target in one scan, in the view frame.

    Attributes:
        mask: ``(X, Y, Z)`` bool.
        probability: ``(X, Y, Z)`` uint8, 255 is certain.
        about: Presence, volume, doubt, when and from which examples.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.uint8]
    about: Mapping[str, Any]


def save_found(scan: Scan, target: int, result: Segmentation, *, about: Mapping[str, Any]) -> dict[str, Any]:
    """Keep a result; the one before is kept beside it, to be compared with.

    Returns:
        What is kept about it.
    """
    view = View.of(result.scan)
    probability = np.rint(view.apply(result.probability) * STEPS).astype(np.uint8)
    mask, before = np.asarray(view.apply(result.mask)), read_found(scan, target)
    row = {**about, **change(mask, before.mask if before else None)}
    with scan.lock:
        for suffix in (".npz", ".json"):
            file = scan.folder / "found" / f"{target}{suffix}"
            if file.exists():
                write_file(file.with_stem(f"{target}{BEFORE}"), file.read_bytes())
        write_file(scan.folder / "found" / f"{target}.npz", packed(mask, probability))
        write_json(scan.folder / "found" / f"{target}.json", row)
    return row


def save_evidence(scan: Scan, target: int, result: Segmentation) -> None:
    """Keep what a target that was found by words was found from, as NIfTI in the view frame."""
    view = View.of(result.scan)
    for name in EVIDENCE:
        array = getattr(result, name, None)
        if isinstance(array, np.ndarray) and array.shape == result.scan.shape:
            content = nifti_bytes(view.apply(array).astype(np.float32), view.affine_ras_mm)
            write_file(scan.folder / "found" / f"{target}-{name}.nii", content)


def about_found(scan: Scan, target: int, *, before: bool = False) -> dict[str, Any] | None:
    """What is kept about a result; None where nothing was found yet."""
    return read_about(scan.folder / "found" / f"{target}{BEFORE if before else ''}.json")


def read_found(scan: Scan, target: int, *, before: bool = False) -> Found | None:
    """A result; None where there is none."""
    about = about_found(scan, target, before=before)
    file = scan.folder / "found" / f"{target}{BEFORE if before else ''}.npz"
    if about is None or not file.exists():
        return None
    try:
        with np.load(file) as arrays:
            box, shape = arrays["box"], tuple(arrays["shape"])
            mask, probability = np.zeros(shape, bool), np.zeros(shape, np.uint8)
            inside = tuple(slice(int(low), int(high)) for low, high in box)
            mask[inside], probability[inside] = arrays["mask"], arrays["probability"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None  # it is found again when it is asked for
    return Found(mask, probability, about)


def final_mask(scan: Scan, target: int) -> NDArray[np.bool_]:
    """What stands: ``(X, Y, Z)``, what was found, and on slices that a person drew what they drew."""
    found = read_found(scan, target)
    mask = found.mask if found else np.zeros(scan.shape, bool)
    for z, drawn in read_drawn(scan, target).items():
        mask[:, :, z] = drawn
    return mask


def change(mask: NDArray[np.bool_], before: NDArray[np.bool_] | None) -> dict[str, Any]:
    """How much a mask differs from the one before: Dice of the two; nothing where there was none."""
    if before is None or before.shape != mask.shape:
        return {"agreement": None}
    total = int(np.count_nonzero(mask)) + int(np.count_nonzero(before))
    both = int(np.count_nonzero(mask & before))
    return {"agreement": round(2 * both / total, 4) if total else 1.0}


def doubt_by_slice(probability: NDArray[np.uint8]) -> list[int]:
    """For each slice z how unclear it is, from 0 to 100: its doubtful area beside the area found.

    A tenth of the largest area is added to each, so that a little doubt on a slice with next to nothing is
    little.
    """
    x, y, _ = box_around(probability > 0)
    probability = probability[x, y]
    distance = np.abs(probability.astype(np.int16) * 2 - STEPS)  # 255 is certain, 0 is one half
    doubtful = (STEPS - distance).sum((0, 1), dtype=np.int64) / STEPS
    area = (probability > STEPS // 2).sum((0, 1))
    beside = area + doubtful + LARGEST_SHARE * area.max() + 1
    return [int(value) for value in np.rint(100 * doubtful / beside)]


def packed(mask: NDArray[np.bool_], probability: NDArray[np.uint8]) -> bytes:
    """Both arrays without the empty space around them, compressed."""
    inside = box_around(mask | (probability > 0))
    box = [(edges.start, edges.stop) for edges in inside]
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        mask=mask[inside],
        probability=probability[inside],
        box=np.asarray(box),
        shape=np.asarray(mask.shape),
    )
    return stream.getvalue()
