"""The drawings of people: one small picture for each slice and target, so that a stroke changes one file.

A drawn slice was checked by a person, so its mask is final, even where it is empty. On all other slices the
model decides.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError
from latentseg.imaging.files import write_file
from latentseg.serve.journal import Journal
from latentseg.serve.scan import Scan

Slices = Mapping[int, NDArray[np.bool_]]


def drawn_slices(scan: Scan, target: int) -> list[int]:
    """Numbers z of the slices that a person drew or checked, sorted."""
    return sorted(int(file.stem) for file in (scan.folder / "drawn" / str(target)).glob("[0-9]*.png"))


def read_drawn(scan: Scan, target: int) -> dict[int, NDArray[np.bool_]]:
    """The slices that a person drew, as masks ``(X, Y)`` by z."""
    folder = scan.folder / "drawn" / str(target)
    return {z: read_png(folder / f"{z}.png") for z in drawn_slices(scan, target)}


def draw(scan: Scan, target: int, slices: Slices, *, journal: Journal, who: str) -> int:
    """Replace slices of one target by what a person drew.

    Args:
        scan: The scan.
        target: Number of the target.
        slices: Masks ``(X, Y)`` by z.
        journal: Where it is noted.
        who: Who drew.

    Returns:
        The number of the event.

    Raises:
        InputError: A slice that the scan does not have, or of another shape.
    """
    for z, mask in slices.items():
        if not 0 <= z < scan.slices or mask.shape != scan.shape[:2]:
            what = f"slice {z} of shape {mask.shape} does not fit a scan of {scan.shape}"
            raise InputError(what, where=scan.name, fix="reload the page")
    with scan.lock:
        keep_before(scan, target, list(slices), number=journal.next_number())
        for z, mask in slices.items():
            write_file(scan.folder / "drawn" / str(target) / f"{z}.png", png_bytes(mask))
        return journal.append("drew", who=who, scan=scan.id, target=target, slices=sorted(slices))


def forget(scan: Scan, target: int, slices: Sequence[int], *, journal: Journal, who: str) -> int:
    """Give slices back to the model, as if nobody had looked at them."""
    with scan.lock:
        kept = [z for z in slices if (scan.folder / "drawn" / str(target) / f"{z}.png").exists()]
        keep_before(scan, target, kept, number=journal.next_number())
        for z in kept:
            (scan.folder / "drawn" / str(target) / f"{z}.png").unlink()
        return journal.append("forgot", who=who, scan=scan.id, target=target, slices=sorted(kept))


def undo(scan: Scan, *, journal: Journal, who: str) -> dict[str, object] | None:
    """Take back the last drawing of a scan that was not taken back yet.

    Returns:
        The event that was taken back, or None.
    """
    with scan.lock:
        events = [event for event in journal if event.get("scan") == scan.id]
        undone = {event["undoes"] for event in events if event["what"] == "undid"}
        changes = [e for e in events if e["what"] in ("drew", "forgot") and e["number"] not in undone]
        if not changes:
            return None
        last = changes[-1]
        before = scan.folder / "history" / str(last["number"])
        for z in last["slices"]:
            put_back(before / f"{z}.png", scan.folder / "drawn" / str(last["target"]) / f"{z}.png")
        about = {"scan": scan.id, "target": last["target"], "slices": last["slices"]}
        journal.append("undid", who=who, undoes=last["number"], **about)
        return dict(last)


def keep_before(scan: Scan, target: int, slices: Sequence[int], *, number: int) -> None:
    """Copy what an event is about to replace; a server that is killed here leaves a copy too many."""
    folder = scan.folder / "history" / str(number)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for z in slices:
        file = scan.folder / "drawn" / str(target) / f"{z}.png"
        if file.exists():
            shutil.copyfile(file, folder / file.name)


def put_back(before: Path, file: Path) -> None:
    """Restore a file, or its absence."""
    if before.exists():
        write_file(file, before.read_bytes())
    else:
        file.unlink(missing_ok=True)


def png_bytes(mask: NDArray[np.bool_]) -> bytes:
    """A mask ``(X, Y)`` as a picture of one bit, its rows along y."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(mask.T)).save(stream, "PNG")
    return stream.getvalue()


def read_png(file: Path) -> NDArray[np.bool_]:
    """The reverse of :func:`png_bytes`.

    Raises:
        InputError: The picture is damaged.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as picture:
            return np.asarray(picture).astype(bool).T
    except (OSError, UnidentifiedImageError, ValueError) as error:
        raise InputError("a drawing is damaged", where=str(file), fix="draw the slice again") from error
