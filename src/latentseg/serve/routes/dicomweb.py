"""Series from the DICOMweb server that was named at the start, and results back to it."""

from __future__ import annotations

import secrets
import shutil
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, Field

from latentseg.errors import UsageError
from latentseg.serve.dicomweb import Archive
from latentseg.serve.exports import dicom_seg
from latentseg.serve.routes.common import Bench, TheScan, User
from latentseg.serve.schemas import ScanRow, Strict
from latentseg.serve.workbench import Workbench

router = APIRouter(prefix="/api", tags=["dicomweb"])
UID = r"^[0-9.]{1,64}$"


class SeriesRow(BaseModel):
    """One series."""

    patient: str
    date: str
    modality: str
    description: str
    study: str
    series: str
    instances: str


class NewSeries(Strict):
    """A series to be fetched."""

    study: str = Field(pattern=UID, description="StudyInstanceUID.")
    series: str = Field(pattern=UID, description="SeriesInstanceUID.")


def archive(bench: Workbench) -> Archive:
    """The DICOMweb server.

    Raises:
        UsageError: None was named at the start.
    """
    if not bench.options.dicomweb:
        fix = "start with --dicomweb http://127.0.0.1:8042/dicom-web"
        raise UsageError("no DICOMweb server was named", fix=fix)
    return Archive(bench.options.dicomweb, bench.options.limits)


@router.get("/dicomweb/series", response_model=list[SeriesRow])
def series(bench: Bench, patient: Annotated[str, Query(max_length=64)] = "") -> list[dict[str, Any]]:
    """Series with images, of one patient or of all."""
    return archive(bench).series(patient=patient)


@router.post("/scans/dicomweb", response_model=ScanRow, status_code=201)
def fetch(new: NewSeries, bench: Bench, who: User) -> dict[str, Any]:
    """Fetch a series into the project."""
    folder = bench.project.incoming / secrets.token_hex(8)
    folder.mkdir()
    try:
        file = archive(bench).fetch(new.study, new.series, folder)
        scan = bench.project.add_scan(file, who=who, uploaded=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    bench.tell_project()
    return bench.scan_row(scan)


@router.post("/scans/{scan}/store", status_code=204)
def store(scan: TheScan, bench: Bench) -> Response:
    """Store what stands as a DICOM SEG in the DICOMweb server."""
    archive(bench).store(dicom_seg(bench.project, scan))
    return Response(status_code=204)
