"""Scans: opened by their path or uploaded, listed by doubt, and their voxels."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from latentseg.errors import InputError
from latentseg.serve.paths import allowed, listing, safe_name
from latentseg.serve.routes.common import Bench, TheScan, User
from latentseg.serve.schemas import Entry, NewScan, ScanRow
from latentseg.serve.workbench import Workbench

router = APIRouter(prefix="/api", tags=["scans"])
BINARY: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "A file.",
    }
}
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/files", response_model=list[Entry])
def files(bench: Bench, folder: Annotated[str, Query(max_length=4096)]) -> list[dict[str, str]]:
    """Folders and scans inside a folder that is served."""
    entries = listing(Path(folder), bench.options.data)
    return [{"name": entry.name, "path": str(entry.path), "kind": entry.kind} for entry in entries]


@router.get("/scans", response_model=list[ScanRow])
def scans(bench: Bench) -> list[dict[str, Any]]:
    """All scans, those first that are most worth a look."""
    return bench.scan_rows()


@router.post("/scans", response_model=ScanRow, status_code=201)
def add_scan(new: NewScan, bench: Bench, who: User) -> dict[str, Any]:
    """Open a scan of this machine; the file stays where it is."""
    scan = bench.project.add_scan(allowed(new.path, bench.options.data), who=who, name=new.name)
    bench.tell_project()
    return bench.scan_row(scan)


@router.post("/scans/upload", response_model=ScanRow, status_code=201, openapi_extra=UPLOAD)
async def upload(
    request: Request, bench: Bench, who: User, name: Annotated[str, Query(min_length=1, max_length=300)]
) -> dict[str, Any]:
    """Upload a scan: a file, or a zip archive of one DICOM series."""
    from starlette.concurrency import run_in_threadpool

    file = await received(request, bench, safe_name(name))
    try:
        scan = await run_in_threadpool(bench.project.add_scan, file, who=who, uploaded=True)
    finally:
        file.unlink(missing_ok=True)
        file.parent.rmdir()
    bench.tell_project()
    return bench.scan_row(scan)


@router.get("/scans/{scan}", response_model=ScanRow)
def one_scan(scan: TheScan, bench: Bench) -> dict[str, Any]:
    """One scan."""
    return bench.scan_row(scan)


@router.delete("/scans/{scan}", status_code=204)
def remove_scan(scan: TheScan, bench: Bench, who: User) -> Response:
    """Take a scan out of the project; a file that was opened by its path stays where it is."""
    bench.project.remove_scan(scan.id, who=who)
    bench.engine.drop(scan.id)
    bench.tell_project()
    return Response(status_code=204)


@router.get("/scans/{scan}/image", response_class=FileResponse, responses=BINARY)
def image(scan: TheScan, bench: Bench) -> FileResponse:
    """The voxels as NIfTI, in RAS order; who fetches them looks at the scan, which is prepared meanwhile."""
    bench.opened(scan)
    return FileResponse(scan.view_file, media_type="application/octet-stream", filename="scan.nii")


async def received(request: Request, bench: Workbench, name: str) -> Path:
    """Write the body of a request to a file of its own; one that breaks off leaves nothing.

    Raises:
        InputError: The body is empty.
    """
    folder = bench.project.incoming / secrets.token_hex(8)
    folder.mkdir()
    file = folder / name
    whole = False
    try:
        with file.open("wb") as out:
            async for piece in request.stream():
                out.write(piece)
            out.flush()
            os.fsync(out.fileno())
            if not out.tell():
                raise InputError("the upload is empty", where=name, fix="choose a file that holds a scan")
        whole = True
    finally:
        if not whole:
            file.unlink(missing_ok=True)
            folder.rmdir()
    return file
