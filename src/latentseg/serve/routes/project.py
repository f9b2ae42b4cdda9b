"""The project: its targets, its journal, events as they happen, and what prompts may name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from latentseg.serve.project import Target
from latentseg.serve.routes.common import Bench, TargetId, User
from latentseg.serve.schemas import Event, Health, NewTarget, ProjectRow, TargetChange, TargetRow
from latentseg.version import __version__

router = APIRouter(prefix="/api", tags=["project"])
EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "Events."}
}


@router.get("/health", response_model=Health)
def health() -> dict[str, str]:
    """Say that the server is alive; needs no token."""
    return {"status": "ok", "version": __version__}


@router.get("/project", response_model=ProjectRow)
def project(bench: Bench) -> dict[str, Any]:
    """The project and its targets."""
    return {
        "name": bench.project.name,
        "version": __version__,
        "user": bench.options.user,
        "targets": [target_row(target) for target in bench.project.targets],
        "folders": [str(folder.resolve()) for folder in bench.options.data],
    }


@router.post("/targets", response_model=TargetRow, status_code=201)
def add_target(new: NewTarget, bench: Bench, who: User) -> dict[str, Any]:
    """Add a target, to be shown or found by words."""
    target = bench.project.add_target(new.name, who=who, prompt=new.prompt)
    bench.tell_project()
    return target_row(target)


@router.patch("/targets/{target}", response_model=TargetRow)
def change_target(target: TargetId, change: TargetChange, bench: Bench, who: User) -> dict[str, Any]:
    """Give a target another name or color."""
    changed = bench.project.change_target(target, who=who, name=change.name, color=change.color)
    bench.tell_project()
    return target_row(changed)


@router.get("/journal", response_model=list[Event])
def journal(bench: Bench, last: Annotated[int, Query(ge=1, le=10_000)] = 200) -> list[dict[str, Any]]:
    """Who did what and when, the newest last."""
    return list(bench.project.journal)[-last:]


@router.get("/events", response_class=StreamingResponse, responses=EVENT_STREAM)
def events(bench: Bench) -> StreamingResponse:
    """Events as they happen: ``job``, ``scan`` and ``project``."""
    return StreamingResponse(bench.events.stream(), media_type="text/event-stream")


@router.get("/vocabulary", response_model=list[str])
def vocabulary() -> list[str]:
    """Names that the vocabulary knows: organs and findings."""
    from latentseg.text.vocabulary import vocabulary as concepts

    return [concept.name for concept in concepts() if concept.kind in ("organ", "finding")]


def target_row(target: Target) -> dict[str, Any]:
    """A target with its code."""
    return asdict(target) | {"code": target.code}
