"""`latentseg reproduce diffugts`: the paper's table with our rows beside the authors', step by step.

The folder of a reproduction::

    recipe.json           what it was begun with; another recipe is refused
    liver-tumor/          one model, trained without that finding: attention/, residuals/, tumor.safetensors
    rows/, pictures/      what was found in each held-out scan, and where it is wrong
    page.html, table.md   what came out; also cases.csv, results.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentseg.cli import shared
from latentseg.cli.shared import read_choices
from latentseg.cli.steps import check_recipe

if TYPE_CHECKING:
    from latentseg.evaluation.reproduce_diffugts import Run

STEPS = ("check", "train", "evaluate", "page")
EVERY = ",".join(STEPS)


def diffugts(
    config: Annotated[Path, typer.Argument(help="YAML with the data sets, see configs/diffugts-maisi.yaml.")],
    backbone: shared.BackboneOption = "maisi-ct",
    out: shared.ReproductionOut = Path("diffugts"),
    steps: Annotated[str, typer.Option(help=f"Of {EVERY}; what is done is kept.")] = EVERY,
    preset: shared.Preset = "paper",
    device: shared.DeviceOption = "auto",
    limit: Annotated[
        int | None, typer.Option(help="Only the first held-out scans of each data set, for a trial.", min=1)
    ] = None,
) -> None:
    """DiffuGTS on MAISI: check, train without each category, evaluate, page. A stopped call goes on."""
    from latentseg.backbones.registry import resolve
    from latentseg.evaluation.reproduce_diffugts import Run, check_models
    from latentseg.methods.results import check_writable
    from latentseg.training.config import read_config
    from latentseg.training.tumor.volume_training import VolumeTrainingOptions

    chosen = read_choices(steps, STEPS, option="steps")
    check_writable(out)
    options = read_config(config, VolumeTrainingOptions)
    run = Run(options, resolve(backbone), out, preset, device, limit)
    check_models(run)
    for step in chosen:
        typer.echo(f"step {step}", err=True)
        if step != STEPS[0]:  # what cannot be used begins no folder
            check_recipe(out, {"backbone": str(run.backbone), "training": options.model_dump(mode="json")})
        RUN[step](run)


def check(run: Run) -> None:
    """Say what the data sets hold, and what cannot be used."""
    from latentseg.evaluation.reproduce_diffugts import check_data

    check_data(run, say)


def train(run: Run) -> None:
    """Train once for every category, without it."""
    from latentseg.evaluation.reproduce_diffugts import train_each

    train_each(run, say)


def evaluate(run: Run) -> None:
    """Evaluate every data set with the weights that were trained without its category."""
    from latentseg.evaluation.reproduce_diffugts import evaluate_each

    evaluate_each(run, say)


def page(run: Run) -> None:
    """Write the tables of what was evaluated, and the page with the worst cases and the curves."""
    from latentseg.evaluation.reproduce_diffugts import evaluated_rows, facts_of, write_volume_tables
    from latentseg.report.reproduction import tumor_content, write_reproduction

    rows, about = evaluated_rows(run), facts_of(run)
    write_volume_tables(rows, folder=run.folder, about=about)
    content = tumor_content(rows, [run.picture_of(row) for row in rows])
    write_reproduction(run.folder / "page.html", content, about=about, curves=run.curves)
    typer.echo((run.folder / "table.md").read_text(encoding="utf-8"))


def say(line: str) -> None:
    """A line of progress."""
    typer.echo(line, err=True)


RUN: dict[str, Callable[[Run], None]] = {
    "check": check,
    "train": train,
    "evaluate": evaluate,
    "page": page,
}
