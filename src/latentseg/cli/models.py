"""`latentseg models`: the weights, where they are and what may be done with them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from latentseg.backbones import registry
from latentseg.cli.output import AsJson, human_bytes, show_facts, show_json, show_table

app = typer.Typer(no_args_is_help=True, help="List, pull and check the weights.")
Name = Annotated[str, typer.Argument(help="A model of `latentseg models list`.", show_default=False)]


@app.command("list")
def list_models(as_json: AsJson = False) -> None:
    """List the known models, their licences, and whether they are on this machine."""
    models = [_describe(name) for name in registry.names()]
    if as_json:
        show_json(models)
        return
    rows = [(m["name"], m["state"], human_bytes(m["bytes"]), m["license"], m["title"]) for m in models]
    show_table(("model", "state", "size", "licence", "what it is"), rows)


@app.command()
def info(name: Name, as_json: AsJson = False) -> None:
    """Show where a model comes from, its files, and its licence."""
    described = {**_describe(name), "files": [asdict(file) for file in registry.info(name).files]}
    if as_json:
        show_json(described)
        return
    lines = [f"{file['path']}  {file['sha256'] or _UNKNOWN}" for file in described.pop("files")]
    show_facts({key: value for key, value in described.items() if value not in ("", [])} | {"files": ""})
    for line in lines or ["(none yet)"]:
        typer.echo(f"  {line}")


@app.command()
def pull(
    name: Name,
    mirror: Annotated[
        str | None, typer.Option(help="A folder, file:// or https:// address with the same files.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a model once; nothing is ever downloaded by another command."""
    from latentseg.backbones import download

    model = registry.info(name)
    typer.echo(_license_line(model), err=True)
    folder = download.pull(name, mirror=mirror, on_file=_announce)
    if as_json:
        show_json({"name": name, "path": folder, "files": [asdict(file) for file in registry.verify(name)]})
    else:
        typer.echo(str(folder))


@app.command()
def verify(name: Name, as_json: AsJson = False) -> None:
    """Hash every file of a model and compare with the record."""
    files = registry.verify(name)
    if as_json:
        show_json([asdict(file) for file in files])
        return
    show_table(("file", "sha256", "vouched for by"), [(file.path, file.sha256, file.trust) for file in files])
    typer.echo(f"ok: {len(files)} files of '{name}' are what was recorded")


@app.command()
def path(name: Name) -> None:
    """Print the folder of a model that is on this machine."""
    typer.echo(str(registry.path(name)))


_UNKNOWN = "sha256 not known beforehand: recorded at the first pull"


def _describe(name: str) -> dict[str, Any]:
    model = registry.info(name)
    present = registry.is_present(name)
    state = "embedded" if model.kind == "embedded" else "pulled"
    return {
        "name": name,
        "title": model.title,
        "state": state if present else "missing" if model.kind == "embedded" else "not pulled",
        "path": str(registry.folder_of(name)) if present else "",
        "bytes": model.total_bytes,
        "license": model.license,
        "license_url": model.license_url,
        "license_note": model.license_note,
        "repos": list(model.repos),
    }


def _license_line(model: registry.ModelInfo) -> str:
    note = f" {model.license_note}" if model.license_note else ""
    return f"The weights of '{model.name}' are under {model.license}: {model.license_url}.{note}"


def _announce(file: str, number: int, count: int) -> None:
    typer.echo(f"[{number}/{count}] {Path(file)}", err=True)
