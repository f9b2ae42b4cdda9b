"""Exports: masks on the grid of the scan, a DICOM SEG, a page with pictures and measurements.

The current mask is exported: what the model found, and on drawn slices what the person drew. Rejected results
are not exported.
"""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from latentseg.errors import InputError, noted
from latentseg.imaging import Volume, default_suffix, write_like
from latentseg.methods.results import Segmentation, file_name, save_seg
from latentseg.serve.found import STEPS, final_mask, read_found
from latentseg.serve.missing import NotHere
from latentseg.serve.project import Project, Target
from latentseg.serve.scan import Scan
from latentseg.serve.verdicts import verdict_of
from latentseg.serve.view import View


def standing(project: Project, scan: Scan) -> dict[str, Segmentation]:
    """What stands of every target of a scan, by name, on the scan's grid.

    Raises:
        NotHere: Nothing was drawn or found.
    """
    volume = scan.read()
    view = View.of(volume)
    kept = {}
    for target in project.targets:
        mask = final_mask(scan, target.id)
        found = read_found(scan, target.id)
        if verdict_of(scan, target.id) == "rejected" or not (found or mask.any()):
            continue
        probability = found.probability if found else np.where(mask, STEPS, 0).astype(np.uint8)
        presence = float(found.about["presence"]) if found else 1.0
        arrays = view.restore(mask), (view.restore(probability) / np.float32(STEPS)).astype(np.float32)
        kept[target.name] = Segmentation(target.name, volume, *arrays, presence=presence)
    if not kept:
        raise NotHere("nothing was drawn or found in this scan", where=scan.name, fix="press find first")
    return kept


def nifti_archive(project: Project, scan: Scan) -> bytes:
    """A zip archive with one mask for each target, in the scan's format, and their measurements."""
    results = standing(project, scan)
    with TemporaryDirectory() as folder:
        files = []
        for name, result in results.items():
            suffix = default_suffix(result.scan)
            path = Path(folder) / f"{file_name(scan.name)}_seg-{file_name(name)}{suffix}"
            files.append(write_like(result.mask, like=result.scan, path=path))
        stats = Path(folder) / f"{file_name(scan.name)}_stats.json"
        rows = [row_of(project, scan, result) for result in results.values()]
        stats.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        return archive([*files, stats])


def dicom_seg(project: Project, scan: Scan) -> bytes:
    """A DICOM SEG with every target as a segment.

    Raises:
        InputError: The scan is no DICOM series that a SEG can refer to.
    """
    results = standing(project, scan)
    like = next(iter(results.values())).scan
    with TemporaryDirectory() as folder, noted([]) as notes:
        path = Path(folder) / "seg.dcm"
        if not save_seg({name: result.mask for name, result in results.items()}, like=like, path=path):
            raise InputError(notes[0] if notes else "no DICOM SEG can be written", where=scan.name)
        return path.read_bytes()


def report(project: Project, scan: Scan) -> bytes:
    """One HTML page without any other file: pictures of each target, and what was measured."""
    from base64 import b64encode
    from html import escape

    parts = []
    for name, result in standing(project, scan).items():
        row = row_of(project, scan, result)
        picture = b64encode(result.preview(slices=4)).decode()
        names = ("volume_ml", "presence", "components", "touches_border", "verdict", "by", "at")
        facts = "".join(f"<dt>{n.replace('_', ' ')}</dt><dd>{escape(str(row[n]))}</dd>" for n in names)
        parts.append(
            f"<section><h2>{escape(name)}</h2><img alt='{escape(name)} on four slices' "
            f"src='data:image/png;base64,{picture}'><dl>{facts}</dl></section>"
        )
    title = f"{escape(project.name)}: {escape(scan.name)}"
    return PAGE.format(title=title, body="".join(parts)).encode()


def row_of(project: Project, scan: Scan, result: Segmentation) -> dict[str, Any]:
    """What was measured of a result, and who judged it."""
    from latentseg.serve.verdicts import read_verdicts

    target = next(one for one in project.targets if one.name == result.target)
    said = read_verdicts(scan).get(str(target.id), {})
    judged = {"verdict": said.get("verdict", "none"), "by": said.get("who", ""), "at": said.get("at", "")}
    return result.stats() | judged | {"code": target.code}


def archive(paths: list[Path]) -> bytes:
    """Files as a zip archive; images are compressed already."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as made:
        for path in paths:
            made.write(path, path.name)
    return stream.getvalue()


def label_map(scan: Scan, targets: list[Target]) -> tuple[Volume, Any]:
    """The scan, and what stands of some targets as one map of labels 1, 2, ... on its grid."""
    volume = scan.read()
    labels = np.zeros(scan.shape, np.uint8)
    for number, target in reversed(list(enumerate(targets, start=1))):
        labels[final_mask(scan, target.id)] = number
    return volume, View.of(volume).restore(labels)


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>
body{{font:15px/1.5 system-ui;background:#f6f7f9;color:#17202a}}
body{{max-width:1000px;margin:2em auto;padding:0 1em}}
@media(prefers-color-scheme:dark){{body{{background:#111418;color:#e8ebef}}}}
img{{max-width:100%;border-radius:6px}}dl{{display:grid;grid-template-columns:max-content 1fr;gap:2px 1em}}
dt{{opacity:.7}}dd{{margin:0}}</style><h1>{title}</h1>
<p>For research use. Not a medical device. Look at every mask.</p>{body}</html>
"""
