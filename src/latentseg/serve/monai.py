"""The protocol of MONAI Label on a workbench: images, labels, inference and the next sample.

A submitted label is a correction that was accepted: it becomes an example, and open scans are run again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentseg.errors import InputError, LatentsegError, UsageError
from latentseg.imaging import read_labels, write_like
from latentseg.serve.exports import label_map
from latentseg.serve.found import final_mask
from latentseg.serve.learning import has_example
from latentseg.serve.missing import NotHere
from latentseg.serve.project import Target
from latentseg.serve.scan import Scan
from latentseg.serve.verdicts import verdict_of
from latentseg.serve.view import View
from latentseg.serve.workbench import Workbench
from latentseg.version import __version__

MODEL = "latentseg"
STRATEGY = "doubt"
ABOUT = "Shows a structure once and finds it everywhere; corrections become examples."
PATIENCE = 3600.0  # seconds that a request waits for its job


def info(bench: Workbench) -> dict[str, Any]:
    """What the server offers."""
    names = [target.name for target in bench.project.targets]
    labels = {target.name: target.id for target in bench.project.targets}
    model = {"type": "segmentation", "labels": labels, "dimension": 3, "description": ABOUT, "config": {}}
    return {
        "name": "latentseg",
        "description": ABOUT,
        "version": __version__,
        "labels": names,
        "models": {MODEL: model},
        "trainers": {MODEL: {"description": "Runs open scans again with the newest examples.", "config": {}}},
        "strategies": {STRATEGY: {"description": "The scan that is most in doubt."}},
        "scoring": {},
        "train_stats": {MODEL: {}},
        "datastore": status(bench),
        "config": {"infer": {}, "train": {}, "activelearning": {}},
    }


def status(bench: Workbench) -> dict[str, Any]:
    """How many scans there are, and how many are settled."""
    scans = bench.project.scans
    settled = [scan for scan in scans if settled_targets(bench, scan)]
    tags = {"final": len(settled)} if settled else {}
    about = {"total": len(scans), "completed": len(settled), "label_tags": tags}
    return {**about, "label_names": {}, "train": []}


def settled_targets(bench: Workbench, scan: Scan) -> list[Target]:
    """The targets of a scan that somebody accepted."""
    return [target for target in bench.project.targets if verdict_of(scan, target.id) == "accepted"]


def objects(bench: Workbench) -> dict[str, Any]:
    """All scans with their labels, in the layout of a local datastore."""
    found = {}
    for scan in bench.project.scans:
        labels = {"final": {"ext": ".nii.gz", "info": {}}} if settled_targets(bench, scan) else {}
        found[scan.id] = {"image": {"ext": ".nii.gz", "info": image_info(scan)}, "labels": labels}
    return {"name": bench.project.name, "description": ABOUT, "objects": found}


def image_info(scan: Scan) -> dict[str, Any]:
    """What is known of an image."""
    return {"name": scan.name, "modality": scan.about["modality"], "ts": 0}


def scan_of(bench: Workbench, image: str) -> Scan:
    """A scan by its id, or by its name where only one has it.

    Raises:
        NotHere: There is none, or there are several.
    """
    named = [scan for scan in bench.project.scans if image in (scan.id, scan.name)]
    if len(named) != 1:
        what = "no such image" if not named else "several images have this name"
        raise NotHere(what, where=image[:80], fix="give the id of an image, see /monai/datastore/?output=all")
    return named[0]


def image_bytes(scan: Scan) -> bytes:
    """A scan as NIfTI, whatever its own format is, on its own grid."""
    volume = scan.read()
    with TemporaryDirectory() as folder:
        path = write_like(volume.array, like=volume, path=Path(folder) / "image.nii.gz", kind="image")
        return path.read_bytes()


def label_bytes(scan: Scan, targets: list[Target]) -> bytes:
    """What stands of some targets as one NIfTI label map; the first target has label 1."""
    volume, labels = label_map(scan, targets)
    with TemporaryDirectory() as folder:
        path = write_like(labels, like=volume, path=Path(folder) / "label.nii.gz")
        return path.read_bytes()


def next_sample(bench: Workbench) -> dict[str, Any]:
    """The scan that is most worth a look; nothing where all are settled."""
    rows = [row for row in bench.scan_rows() if row["doubt"] is not None]
    if not rows:
        return {}
    row = rows[0]
    about = {"id": row["id"], "name": f"{row['name']}.nii.gz", "weight": row["doubt"], "ts": int(time.time())}
    return {**about, "path": "", "strategy": {STRATEGY: {"ts": int(time.time())}}}


def infer(bench: Workbench, scan: Scan, params: dict[str, Any], *, who: str) -> list[Target]:
    """Find targets in a scan and wait for it.

    Args:
        bench: The workbench.
        scan: The scan.
        params: ``label`` or ``labels`` name the targets; all that can be looked for by default.
        who: Who asks.

    Returns:
        The targets that were looked for.

    Raises:
        UsageError: A target that is not there, or none that can be looked for.
        LatentsegError: The job failed.
    """
    wanted = asked_names(params)
    targets = bench.project.targets
    unknown = set(wanted) - {target.name for target in targets}
    if unknown:
        raise NotHere(f"no target {min(unknown)[:80]!r}", fix="choose one of the labels of /monai/info/")
    chosen = [t for t in targets if t.name in wanted] if wanted else findable(bench)
    if not chosen:
        raise UsageError("nobody has shown a target yet", fix="submit a label of one scan first")
    (job,) = bench.find([scan.id], [target.id for target in chosen], who=who)
    ends = time.monotonic() + PATIENCE
    while bench.queue.get(job.id).state in ("queued", "running") and time.monotonic() < ends:
        time.sleep(0.05)
    ended = bench.queue.get(job.id)
    if ended.state != "done":
        error = ended.error or {"what": f"the job was {ended.state}", "where": scan.name, "fix": ""}
        raise LatentsegError(error["what"], where=error["where"], fix=error["fix"])
    return chosen


def asked_names(params: dict[str, Any]) -> list[str]:
    """Names of the targets that a request is about.

    Raises:
        UsageError: Something else than a name or a list of names.
    """
    wanted = params.get("labels") or params.get("label") or []
    names = [wanted] if isinstance(wanted, str) else list(wanted) if isinstance(wanted, list | dict) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise UsageError("the labels are no names", where="params", fix='write {"labels": ["liver"]}')
    return [name for name in names if name]


def findable(bench: Workbench) -> list[Target]:
    """Targets by words, and those that somebody has shown."""
    return [t for t in bench.project.targets if t.prompt or has_example(bench.project, t)]


def submit(bench: Workbench, scan: Scan, file: Path, params: dict[str, Any], *, who: str) -> list[Target]:
    """Take a label map as a correction that is accepted.

    Args:
        bench: The workbench.
        scan: The scan.
        file: The label map, on the grid of the scan.
        params: ``label_info`` names the values: ``[{"name": "liver", "idx": 1}]``; the order of the targets
            otherwise.
        who: Who submits it.

    Raises:
        InputError: The file cannot be read.
        GeometryError: It is on another grid.
        UsageError: A value that has no name.
    """
    volume = scan.read()
    labels = View.of(volume).apply(read_labels(file, like=volume).array)
    names = label_names(params) or {target.id: target.name for target in bench.project.targets}
    values = [int(value) for value in np.unique(labels) if value]
    unnamed = [value for value in values if value not in names]
    if unnamed:
        fix = 'name it in params: {"label_info": [{"name": "liver", "idx": 1}]}'
        raise UsageError(f"the value {unnamed[0]} of the label has no name", where=scan.name, fix=fix)
    targets = []
    for value, name in names.items():
        if value in values or name in {target.name for target in bench.project.targets}:
            targets.append(target_named(bench, name, who=who))
            correct(bench, scan, targets[-1], labels == value, who=who)
    for target in targets:
        bench.judge(scan, target.id, "accepted", who=who, learn=False)
    if targets:
        bench.relearn(who=who)
    return targets


def correct(bench: Workbench, scan: Scan, target: Target, mask: NDArray[np.bool_], *, who: str) -> None:
    """Draw the slices on which a mask differs from what stands."""
    stands = final_mask(scan, target.id)
    differs = np.flatnonzero((mask != stands).any((0, 1)))
    if differs.size:
        bench.draw(scan, target.id, {int(z): mask[:, :, z] for z in differs}, who=who)


def target_named(bench: Workbench, name: str, *, who: str) -> Target:
    """A target by its name; a new one where there is none."""
    for target in bench.project.targets:
        if target.name.casefold() == name.casefold():
            return target
    made = bench.project.add_target(name, who=who)
    bench.tell_project()
    return made


def label_names(params: dict[str, Any]) -> dict[int, str]:
    """Names of the values of a label map.

    Raises:
        UsageError: They are not written as they should be.
    """
    rows = params.get("label_info") or []
    try:
        return {int(row.get("idx", number)): str(row["name"]) for number, row in enumerate(rows, start=1)}
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        fix = 'write [{"name": "liver", "idx": 1}]'
        raise UsageError("label_info cannot be read", where="params", fix=fix) from error


def read_params(text: str) -> dict[str, Any]:
    """The JSON object that comes in a field of a form.

    Raises:
        InputError: It is none.
    """
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise InputError("params is no JSON", where="params", fix="send a JSON object") from error
    if not isinstance(content, dict):
        raise InputError("params is no JSON object", where="params", fix='send {"labels": ["liver"]}')
    return content
