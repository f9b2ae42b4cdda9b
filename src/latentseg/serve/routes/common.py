"""What all routes share: the workbench, and who asks."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import unquote

from fastapi import Depends, Header, Path, Request

from latentseg.serve.scan import Scan
from latentseg.serve.workbench import Workbench

LONGEST_USER = 64


def workbench(request: Request) -> Workbench:
    """The workbench of this server."""
    bench: Workbench = request.app.state.bench
    return bench


Bench = Annotated[Workbench, Depends(workbench)]


def user(
    bench: Bench,
    x_user: Annotated[str, Header(max_length=9 * LONGEST_USER, description="Who asks, quoted.")] = "",
) -> str:
    """Who asks."""
    return " ".join(unquote(x_user).split())[:LONGEST_USER] or bench.options.user


User = Annotated[str, Depends(user)]
ScanId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", description="Id of a scan.")]
TargetId = Annotated[int, Path(ge=1, le=64, description="Number of a target.")]


def scan_named(scan: ScanId, bench: Bench) -> Scan:
    """The scan that an address names."""
    return bench.project.scan(scan)


TheScan = Annotated[Scan, Depends(scan_named)]
