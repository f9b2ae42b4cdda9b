"""`latentseg support`: audit examples before a cohort depends on them, and encode them once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from latentseg.cli import shared
from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.cli.progress import Progress
from latentseg.cli.request import search_options
from latentseg.errors import UsageError

app = typer.Typer(no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(help="A folder of examples: images with masks.")]


@app.command()
def check(
    folder: Folder,
    modality: shared.ModalityOption = None,
    orientation: shared.Orientation = None,
    backbone: shared.BackboneOption = "compact",
    device: shared.DeviceOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Audit grids and labels, and segment each example from the others (leave-one-out Dice)."""
    import latentseg as ls
    from latentseg.methods.fewshot.audit import audit

    with Progress("support check") as progress:
        progress.stage("loading the model")
        segmenter = ls.load(backbone=backbone, device=device)
        progress.stage("reading the examples")
        rows = audit(folder, segmenter, modality=modality, orientation=orientation, on_progress=progress)
    if as_json:
        show_json([row._asdict() for row in rows])
        return
    shown = [
        (
            r.target,
            r.case,
            f"{r.volume_ml:.1f} ml",
            r.slices,
            "-" if r.dice is None else f"{r.dice:.3f}",
            r.remark,
        )
        for r in rows
    ]
    show_table(("target", "example", "volume", "slices", "Dice from the others", "remark"), shown)


@app.command()
def add(
    folder: Annotated[Path, typer.Argument(help="A folder of examples; made where there is none.")],
    image: Annotated[Path, typer.Argument(help="The scan.")],
    mask: Annotated[Path, typer.Argument(help="Its corrected mask, of the whole target or a few slices.")],
    target: Annotated[str, typer.Option("--target", "-t", help="What the folder calls the target.")],
    label: shared.Label = None,
) -> None:
    """Add a corrected result to the examples, so that the next scans get better."""
    from latentseg.methods.fewshot.corrections import add_example

    typer.echo(str(add_example(folder, image, mask, target=target, label=label)))


@app.command()
def encode(
    folder: Folder,
    target: Annotated[str, typer.Option("--target", "-t", help="Which target of the folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    label: shared.Label = None,
    modality: shared.ModalityOption = None,
    orientation: shared.Orientation = None,
    support_mode: shared.Mode = "nearest",
    backbone: shared.BackboneOption = "compact",
    device: shared.DeviceOption = "auto",
    compat: shared.CompatOption = "fixed",
) -> None:
    """Encode a target once; `latentseg segment --support FILE` then uses it without the examples."""
    import latentseg as ls
    from latentseg.methods.results import check_writable

    if out.suffix != ".safetensors":
        raise UsageError(
            f"a support is not written as '{out.name}'", where="--out", fix="end it in .safetensors"
        )
    options = search_options(support_mode, compat=compat)
    check_writable(out.parent)
    support = ls.Support.from_folder(
        folder, target=target, label=label, modality=modality, orientation=orientation
    )
    segmenter = ls.load(backbone=backbone, options=options, device=device)
    typer.echo(str(segmenter.encode(support).save(out)))
