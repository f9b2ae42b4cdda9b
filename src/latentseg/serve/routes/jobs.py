"""Work: ask for it, watch it, stop it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Path

from latentseg.serve.routes.common import Bench, User
from latentseg.serve.schemas import JobRow, NewJob

router = APIRouter(prefix="/api/jobs", tags=["jobs"])
JobId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="Id of a job.")]


@router.get("", response_model=list[JobRow])
def jobs(bench: Bench) -> list[dict[str, Any]]:
    """All jobs that are kept, the newest last."""
    return [asdict(job) for job in bench.queue.all()]


@router.post("", response_model=list[JobRow], status_code=202)
def find(new: NewJob, bench: Bench, who: User) -> list[dict[str, Any]]:
    """Find targets in scans: one job for each scan."""
    found = bench.find(new.scans, new.targets, who=who, background=new.background)
    return [asdict(job) for job in found]


@router.get("/{job}", response_model=JobRow)
def one_job(job: JobId, bench: Bench) -> dict[str, Any]:
    """One job."""
    return asdict(bench.queue.get(job))


@router.delete("/{job}", response_model=JobRow)
def stop(job: JobId, bench: Bench) -> dict[str, Any]:
    """Stop a job; targets that it finished are kept."""
    return asdict(bench.queue.stop(job))
