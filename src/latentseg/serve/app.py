"""The server: the page, the interface below ``/api``, and the guard before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from latentseg.serve import page_files, problems
from latentseg.serve.guard import Guard
from latentseg.serve.routes import dicomweb, drawings, exports, jobs, monai, project, scans
from latentseg.serve.workbench import Workbench
from latentseg.version import __version__

ABOUT = """Show a structure once, find it everywhere, correct, and it learns.

Every request but `/api/health` carries `Authorization: Bearer TOKEN`; the token is in the printed address.
Drawings and masks are in the **view frame**: the scan's own voxels ordered so that x grows to the patient's
right, y to the front and z to the head. Errors are answers of one shape, `Problem`, that end in a sentence.
"""
TAGS = [
    {"name": "project", "description": "Targets, the journal and events."},
    {"name": "scans", "description": "Scans and their voxels."},
    {"name": "drawings", "description": "What people draw, what stands, and what they say of it."},
    {"name": "jobs", "description": "Work and its progress."},
    {"name": "exports", "description": "Files to take away."},
    {"name": "dicomweb", "description": "Series from a DICOMweb server, and results back to it."},
    {"name": "monai", "description": "The protocol of MONAI Label."},
]


def create_app(bench: Workbench) -> FastAPI:
    """The application of a workbench.

    Args:
        bench: A project at work; it is started and closed with the application.
    """

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        bench.start()
        yield
        bench.close()

    app = FastAPI(
        title="latentseg",
        version=__version__,
        description=ABOUT,
        openapi_url="/api/openapi.json",
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        openapi_tags=TAGS,
        lifespan=life,
        responses=problems.ANSWERS,
    )
    app.state.bench = bench
    for part in (project, scans, drawings, jobs, exports, dicomweb, monai):
        app.include_router(part.router)
    problems.install(app)
    page_files.install(app)
    app.add_middleware(Guard, options=bench.options)
    if bench.options.origins:
        pages = bench.options.origins
        app.add_middleware(CORSMiddleware, allow_origins=pages, allow_methods=["*"], allow_headers=["*"])
    return app
