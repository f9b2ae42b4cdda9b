"""`latentseg reproduce diffugts`: the paper's table with our rows beside the authors', step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="DiffuGTS on MAISI: check, train, evaluate, page, or all.")

STEPS = ("check", "train", "evaluate", "page")
Config = Annotated[Path, typer.Argument(help="YAML with the data sets, see configs/diffugts-maisi.yaml.")]
BackboneName = Annotated[str, typer.Option(help="`maisi-ct`, or a folder of a MAISI model.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run; a stopped run goes on there.")]
PresetName = Annotated[str, typer.Option(help="Of the evaluation: paper, paper_like or recommended.")]
DeviceName = Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")]
Limit = Annotated[
    int | None, typer.Option(help="Only the first held-out scans of each data set, for a trial.", min=1)
]


@app.command()
def check(config: Config, backbone: BackboneName = "maisi-ct", out: Out = Path("diffugts")) -> None:
    """Say what the data sets hold, and what cannot be used."""
    take(("check",), config, backbone, out)


@app.command()
def train(
    config: Config,
    backbone: BackboneName = "maisi-ct",
    out: Out = Path("diffugts"),
    device: DeviceName = "auto",
) -> None:
    """Train once for every category, without it."""
    take(("check", "train"), config, backbone, out, device=device)


@app.command()
def evaluate(
    config: Config,
    backbone: BackboneName = "maisi-ct",
    out: Out = Path("diffugts"),
    preset: PresetName = "paper",
    device: DeviceName = "auto",
    limit: Limit = None,
) -> None:
    """Evaluate every data set with the weights that were trained without its category."""
    take(("check", "evaluate", "page"), config, backbone, out, preset=preset, device=device, limit=limit)


@app.command()
def page(
    config: Config,
    backbone: BackboneName = "maisi-ct",
    out: Out = Path("diffugts"),
    preset: PresetName = "paper",
) -> None:
    """Write the table of what was evaluated."""
    take(("page",), config, backbone, out, preset=preset)


@app.command("all")
def every(
    config: Config,
    backbone: BackboneName = "maisi-ct",
    out: Out = Path("diffugts"),
    preset: PresetName = "paper",
    device: DeviceName = "auto",
    limit: Limit = None,
) -> None:
    """All steps, one after the other."""
    take(STEPS, config, backbone, out, preset=preset, device=device, limit=limit)


def take(
    names: Sequence[str],
    config: Path,
    backbone: str,
    out: Path,
    *,
    preset: str = "paper",
    device: str = "auto",
    limit: int | None = None,
) -> None:
    """Take some steps of a run.

    Raises:
        UsageError: A configuration or a preset that cannot be used.
        ModelError: A backbone that cannot be used.
    """
    from latentseg.backbones.registry import resolve
    from latentseg.cli.segment import read_preset
    from latentseg.evaluation.reproduce_diffugts import Run, steps_of
    from latentseg.methods.results import check_writable
    from latentseg.training.config import read_config
    from latentseg.training.tumor.volume_training import VolumeTrainingOptions

    read_preset(preset)
    check_writable(out)
    options = read_config(config, VolumeTrainingOptions)
    run = Run(options, resolve(backbone), out, preset, device, limit)
    steps_of(run, typer.echo, names)
    if "page" in names:
        typer.echo((out / "table.md").read_text(encoding="utf-8"))
