"""`latentseg serve`: the workbench in a browser."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from latentseg.errors import InputError, UsageError

if TYPE_CHECKING:
    from latentseg.serve.settings import ServeOptions
    from latentseg.serve.workbench import Workbench

app = typer.Typer()
MIB = 1 << 20


@app.command()
def serve(
    project: Annotated[Path, typer.Argument(help="Folder of the project; made where it is missing.")] = Path(
        "latentseg-project"
    ),
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder from which scans may be opened; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; others need --token.")] = ("127.0.0.1"),
    name: Annotated[
        list[str] | None, typer.Option(help="A name that other machines reach this one by; may be repeated.")
    ] = None,
    origin: Annotated[
        list[str] | None, typer.Option(help="Another page that may ask, such as https://ohif.lan.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8471,
    token: Annotated[
        str | None, typer.Option(help="What requests must carry; a new one at each start by default.")
    ] = None,
    backbone: Annotated[str, typer.Option(help="Model, see `latentseg models list`.")] = "compact",
    weights: Annotated[Path | None, typer.Option(help="Weights of the method, where it has none.")] = None,
    dicomweb: Annotated[
        str, typer.Option(help="Root of a DICOMweb server, to take series from and store results in.")
    ] = "",
    engine: Annotated[
        str, typer.Option(help="here, or ray: jobs go through workers, see --workers and RAY_ADDRESS.")
    ] = "here",
    workers: Annotated[int, typer.Option(help="Of --engine ray: each loads the model.", min=1)] = 2,
    max_upload_mb: Annotated[int, typer.Option(help="Of one uploaded file.", min=1)] = 4096,
    max_volume_mb: Annotated[int, typer.Option(help="Of the voxels of one scan.", min=1)] = 2048,
    demo: Annotated[bool, typer.Option("--demo", help="Add two phantoms to an empty project.")] = False,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Open the workbench: paint a structure on one slice, find it everywhere, correct, and it learns."""
    check_installed()
    from latentseg.serve.settings import LOCAL, Limits, ServeOptions, new_token

    if host not in LOCAL and token is None and not os.environ.get("LATENTSEG_TOKEN"):
        what = f"--host {host} opens the server to other machines"
        raise UsageError(what, where="--host", fix="give --token, a secret of 16 characters or more")
    limits = Limits(upload_bytes=max_upload_mb * MIB, volume_bytes=max_volume_mb * MIB)
    listening = listen(host, port)
    options = ServeOptions(
        project=project,
        data=tuple(data or ()),
        host=host,
        port=listening.getsockname()[1],
        names=tuple(name or ()),
        origins=tuple(origin or ()),
        token=token or os.environ.get("LATENTSEG_TOKEN") or new_token(),
        backbone=backbone,
        weights=weights,
        dicomweb=dicomweb,
        engine=cast("Literal['here', 'ray']", engine),
        workers=workers,
        limits=limits,
    )
    run(options, listening, demo=demo, browser=browser)


def check_installed() -> None:
    """Notice before the work that the extra is missing.

    Raises:
        UsageError: FastAPI or uvicorn is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        fix = "pip install 'latentseg[serve]'"
        raise UsageError("the workbench needs FastAPI and uvicorn", fix=fix) from error


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        InputError: The port is taken, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        reason = error.strerror or str(error)
        raise InputError(
            f"cannot listen ({reason.lower()})", where=f"{host}:{port}", fix="choose another --port"
        ) from error
    return listening


def run(options: ServeOptions, listening: socket.socket, *, demo: bool, browser: bool) -> None:
    """Serve until Ctrl-C."""
    import uvicorn

    from latentseg.serve.app import create_app
    from latentseg.serve.page_files import built
    from latentseg.serve.workbench import Workbench

    bench = Workbench(options)
    if demo:
        add_phantoms(bench)
    if built() is None:
        typer.echo("The page was not built: run `make page` (needs npm). The interface works without it.")
    typer.echo(f"project  {options.project}\nopen     {options.address}\nstop     Ctrl-C")
    config = uvicorn.Config(
        create_app(bench),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=75,
    )
    if browser and built() is not None:
        import webbrowser

        webbrowser.open(options.address)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            bench.events.close()  # pages listen without an end, and would hold the server up
            await super().shutdown(sockets)

    Server(config).run(sockets=[listening])


def add_phantoms(bench: Workbench) -> None:
    """Give an empty project two synthetic patients, so that there is something to try."""
    from latentseg.imaging import write_like
    from latentseg.phantom.bodies import abdomen

    if bench.project.scans:
        return
    for seed in (1, 2):
        phantom = abdomen(seed=seed, shape=(192, 192, 32)).image
        file = bench.project.incoming / f"phantom-{seed}.nii.gz"
        write_like(phantom.array, like=phantom, path=file, kind="image")
        bench.project.add_scan(file, who="latentseg", uploaded=True)
    for name in ("liver", "spleen"):
        bench.project.add_target(name, who="latentseg")
