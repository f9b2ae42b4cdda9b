"""Chooses the examples of a target, and the scans that are worth a review first.

Examples are the slices that people drew, and the scans that they accepted. Slices of the scan itself come
first, then accepted scans, the newest first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import UsageError
from latentseg.imaging import Volume
from latentseg.methods.fewshot.support import Support
from latentseg.serve.drawings import drawn_slices, read_drawn
from latentseg.serve.found import about_found, final_mask
from latentseg.serve.project import Shelf, Target
from latentseg.serve.scan import Scan
from latentseg.serve.verdicts import read_verdicts, verdict_of
from latentseg.serve.view import View

MOST_SHOTS = 12  # slices of one support
FROM_ACCEPTED = 3  # slices of an accepted scan, as in the few-shot literature
NOT_FOUND_DOUBT = 2.0  # a scan in which nothing was looked for comes before all others


@dataclass(frozen=True)
class Example:
    """One scan that shows a target.

    Attributes:
        scan: Its id.
        slices: The drawn slices that hold it; empty for the whole of an accepted scan.
        digest: Changes with what is drawn there.
    """

    scan: str
    slices: tuple[int, ...]
    digest: str

    @property
    def shots(self) -> int:
        """Slices of the support that it becomes."""
        return len(self.slices) or FROM_ACCEPTED


def examples_of(project: Shelf, target: Target, *, for_scan: str = "") -> list[Example]:
    """The examples of a target, the most useful first, at most twelve slices.

    Args:
        project: The project.
        target: The target.
        for_scan: The scan in which it is looked for; its own slices come first.
    """
    own, accepted, drawn = [], [], []
    for scan in project.scans:
        verdicts = read_verdicts(scan).get(str(target.id), {})
        held = held_slices(scan, target.id)
        if scan.id == for_scan:
            own += [example(scan, target.id, tuple(held))] if held else []
        elif verdicts.get("verdict") == "accepted":
            accepted.append((str(verdicts.get("at", "")), example(scan, target.id, ())))
        elif held:
            drawn.append(example(scan, target.id, tuple(held)))
    newest = [one for _, one in sorted(accepted, key=lambda pair: pair[0], reverse=True)]
    kept: list[Example] = []
    for one in (*own, *drawn, *newest):
        if not kept or sum(other.shots for other in kept) + one.shots <= MOST_SHOTS:
            kept.append(one)
    return kept


def has_example(project: Shelf, target: Target) -> bool:
    """Whether somebody drew a target anywhere; an accepted scan counts where its mask holds something."""
    return any(
        verdict_of(scan, target.id) == "accepted" or drawn_slices(scan, target.id) for scan in project.scans
    )


def held_slices(scan: Scan, target: int) -> list[int]:
    """Drawn slices that hold the target; spread out where there are many."""
    held = [z for z, mask in read_drawn(scan, target).items() if mask.any()]
    if len(held) <= MOST_SHOTS:
        return held
    return [held[round(at)] for at in np.linspace(0, len(held) - 1, MOST_SHOTS)]


def example(scan: Scan, target: int, slices: tuple[int, ...]) -> Example:
    """An example, with a digest of the pictures that it is made of."""
    digest = hashlib.sha256(f"{scan.id}/{target}/{slices}".encode())
    for z in drawn_slices(scan, target):
        digest.update((scan.folder / "drawn" / str(target) / f"{z}.png").read_bytes())
    if not slices:
        digest.update(str(read_verdicts(scan).get(str(target))).encode())
        digest.update(str((about_found(scan, target) or {}).get("at")).encode())
    return Example(scan.id, slices, digest.hexdigest()[:16])


def support_of(
    project: Shelf, target: Target, examples: Iterable[Example], *, read: Callable[[Scan], Volume]
) -> Support:
    """The examples as a support.

    Raises:
        UsageError: There is none.
    """
    shown: list[Support] = []
    for one in examples:
        scan = project.scan(one.scan)
        volume, mask = read(scan), final_mask(scan, target.id)
        view = View.of(volume)
        if not one.slices and mask.any():
            whole = volume.with_array(view.restore(mask).astype(np.uint8))
            shown.append(Support.from_volumes(volume, whole, name=target.name, slices=FROM_ACCEPTED))
        if one.slices:
            drawn = volume.with_array(view.restore(only(mask, one.slices)).astype(np.uint8))
            how: Any = {"slices": len(one.slices), "complete": False}
            shown.append(Support.from_volumes(volume, drawn, name=target.name, **how))
    if not shown:
        fix = "paint it on one slice, then press find"
        raise UsageError(f"nobody has shown {target.name} yet", fix=fix)
    return Support.join(shown)


def only(mask: NDArray[np.bool_], slices: Iterable[int]) -> NDArray[np.bool_]:
    """A mask with some of its slices."""
    kept = np.zeros_like(mask)
    for z in slices:
        kept[:, :, z] = mask[:, :, z]
    return kept


def row_of(scan: Scan, target: Target) -> dict[str, Any]:
    """What the list of scans says of one target."""
    found = about_found(scan, target.id) or {}
    names = ("presence", "volume_ml", "doubt", "why", "worst_slice", "agreement", "at", "seconds", "examples")
    return {
        "target": target.id,
        "drawn": drawn_slices(scan, target.id),
        "found": bool(found),
        "verdict": verdict_of(scan, target.id),
        **{name: found.get(name) for name in names},
    }


def doubt_of(rows: Iterable[dict[str, Any]], *, shown: Collection[int]) -> float | None:
    """How much a look at a scan is worth: the largest doubt of what nobody has judged.

    Args:
        rows: One row for each target.
        shown: Numbers of targets that can be looked for; others do not count until they are found.

    Returns:
        The doubt, or None where everything is judged.
    """
    counted = [row for row in rows if row["found"] or row["target"] in shown]
    unjudged = [row for row in counted if row["verdict"] == "none"]
    if counted and not unjudged:
        return None
    return max((row["doubt"] if row["found"] else NOT_FOUND_DOUBT for row in unjudged), default=0.0)


def stale(project: Shelf, scan: Scan, target: Target) -> bool:
    """Whether other examples are there now than those a result was made from."""
    found = about_found(scan, target.id)
    now = [one.digest for one in examples_of(project, target, for_scan=scan.id)]
    return found is None or list(found.get("examples") or []) != now
