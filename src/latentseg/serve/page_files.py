"""The page: files that Vite built from ``web/`` into the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles

MISSING = """<!doctype html><meta charset="utf-8"><title>latentseg</title>
<body style="font:16px/1.5 system-ui;background:#111418;color:#e6e9ee;max-width:40em;margin:4em auto">
<p>The page was not built: run <code>make page</code>, which needs npm, or install a wheel of latentseg, which
holds it. The interface below <code>/api</code> works without it.</p>"""


def built() -> Path | None:
    """The folder of the built page; None in a checkout where it was not built."""
    folder = Path(str(resources.files("latentseg.serve"))) / "page"
    return folder if (folder / "index.html").exists() else None


def install(app: FastAPI) -> None:
    """Serve the page, or the one sentence that says how to build it."""
    folder = built()

    @app.get("/", include_in_schema=False)
    def index() -> Response:
        here = built()
        return FileResponse(here / "index.html") if here else HTMLResponse(MISSING)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)

    if folder is not None:
        app.mount("/assets", StaticFiles(directory=folder / "assets"))
