"""Files to take away."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Path
from fastapi.responses import Response

from latentseg.methods.results import file_name
from latentseg.serve import exports
from latentseg.serve.missing import NotHere
from latentseg.serve.routes.common import Bench, TargetId, TheScan
from latentseg.serve.routes.scans import BINARY

router = APIRouter(prefix="/api/scans/{scan}", tags=["exports"])
Kind = Literal["nifti", "dicom-seg", "report"]
FILES: dict[Kind, tuple[Any, str, str]] = {
    "nifti": (exports.nifti_archive, ".zip", "application/zip"),
    "dicom-seg": (exports.dicom_seg, "_seg.dcm", "application/dicom"),
    "report": (exports.report, ".html", "text/html; charset=utf-8"),
}
Part = Annotated[Literal["attention_map", "pseudo_healthy", "residual"], Path(description="Which evidence.")]


@router.get("/export/{kind}", response_class=Response, responses=BINARY)
def export(scan: TheScan, kind: Kind, bench: Bench) -> Response:
    """What stands of every target: masks on the scan's own grid, a DICOM SEG, or a page."""
    make, suffix, media = FILES[kind]
    name = quote(f"{file_name(scan.name)}{suffix}")
    heads = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(make(bench.project, scan), media_type=media, headers=heads)


@router.get("/evidence/{target}/{part}", response_class=Response, responses=BINARY)
def evidence(scan: TheScan, target: TargetId, part: Part, bench: Bench) -> Response:
    """What a target that was found by words was found from, as NIfTI in RAS order."""
    bench.project.target(target)
    file = scan.folder / "found" / f"{target}-{part}.nii"
    if not file.exists():
        raise NotHere(f"there is no {part} of this target", where=scan.name, fix="press find")
    return Response(file.read_bytes(), media_type="application/octet-stream")
