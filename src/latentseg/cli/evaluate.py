"""`latentseg evaluate`: label maps against the truth, and protocols of the literature on their own data."""

from __future__ import annotations

import difflib
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from latentseg.cli import shared
from latentseg.cli.few_shot import fewshot, show_rows
from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.cli.progress import Progress
from latentseg.cli.zero_shot import tumor
from latentseg.errors import UsageError

DEFAULT_COMMAND = "masks"


class MasksByDefault(TyperGroup):
    """`latentseg evaluate PRED TRUTH` is `latentseg evaluate masks PRED TRUTH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Put the default command in front of what is no command.

        Raises:
            UsageError: A word that is no path and nearly a command.
        """
        first = next(iter(args), "--help")
        if first not in self.commands and first != "--help":
            close = difflib.get_close_matches(first, self.commands, n=1)
            if close and not Path(first).exists():
                raise UsageError(f"no such command '{first}'", fix=f"did you mean '{close[0]}'?")
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=MasksByDefault, no_args_is_help=True)
app.command()(fewshot)
app.command()(tumor)

DatasetArgument = Annotated[str, typer.Argument(help="SABS, CHAOS, ACDC or MS-CMRSeg.")]


@app.callback()
def evaluate() -> None:
    """Compare label maps (`latentseg evaluate PRED TRUTH`), or run the protocols of the literature."""


@app.command(DEFAULT_COMMAND)
def masks(
    prediction: Annotated[
        Path, typer.Argument(help="Masks to judge: a folder or one file; label maps, DICOM SEG or RTSTRUCT.")
    ],
    truth: Annotated[Path, typer.Argument(help="True masks, named alike, in any of these formats.")],
    labels: shared.LabelsOption = None,
    like: Annotated[
        Path | None, typer.Option(help="The scan, or folder of scans, whose grid DICOM masks are read on.")
    ] = None,
    tolerance_mm: shared.Tolerance = 2.0,
    lesion_iou: Annotated[float, typer.Option(help="IoU from which a lesion counts as found.")] = 0.1,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for table.md, cases.csv, results.json.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Dice, IoU, NSD, HD95, ASSD, volume, lesion F1, panoptic quality and false positives, per label."""
    from latentseg.evaluation import label_maps, mask_files
    from latentseg.methods.results import check_writable

    if not 0 < lesion_iou <= 1:
        raise UsageError("an IoU outside of 0 to 1", where="--lesion-iou", fix="give 0.1 or so")
    if out is not None:
        check_writable(out)
    pairs, extra = mask_files.pair_files(prediction, truth, like=like)
    if extra:
        typer.echo(f"warning: {len(extra)} predictions have no truth: {', '.join(extra[:8])}", err=True)
    names = label_maps.parse_labels(labels) if labels else mask_files.find_labels(pairs)
    if labels:
        mask_files.check_names(pairs, names)
    options = label_maps.MetricOptions(names, tolerance_mm=tolerance_mm, lesion_iou=lesion_iou)
    rows = []
    with Progress("evaluate") as progress:
        for done, pair in enumerate(pairs):
            progress(done, len(pairs), pair.case)
            rows += label_maps.evaluate_pair(pair, options)
    summaries = label_maps.summarize_labels(rows)
    if out is not None:
        label_maps.write_label_tables(rows, folder=out, options=options)
    if as_json:
        show_json([asdict(summary) for summary in summaries])
    else:
        show_table(*label_maps.label_cells(summaries))


@app.command()
def merge(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `latentseg evaluate fewshot` wrote.")],
    out: shared.EvaluationOut = Path("evaluation"),
) -> None:
    """Put runs together, such as folds or organs that were evaluated apart, into one table."""
    from latentseg.evaluation.runs import merge_runs
    from latentseg.methods.results import check_writable

    check_writable(out)
    rows, about = merge_runs(runs)
    show_rows(rows, out, about=about)


@app.command()
def prepare(
    dataset: DatasetArgument,
    original: Annotated[Path, typer.Argument(help="Folder of the download, unpacked.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the pairs; default: where they are sought.")
    ] = None,
) -> None:
    """Make the few-shot field's files from a data set as it is downloaded; what is there is kept."""
    from latentseg.evaluation.datasets import get_dataset
    from latentseg.evaluation.datasets.originals import prepare_originals
    from latentseg.methods.results import check_writable

    wanted = get_dataset(dataset)
    folder = out or wanted.path
    check_writable(folder)
    made = []
    for case in prepare_originals(wanted, original=original, folder=folder):
        typer.echo(f"{wanted.name} {case}", err=True)
        made.append(case)
    typer.echo(f"{len(made)} of {len(wanted.ids)} cases in {folder}")


@app.command()
def split(
    dataset: DatasetArgument,
    fold: Annotated[int, typer.Option(help="Test fold.")] = 0,
    setting: shared.SettingOption = "1",
    group: Annotated[str, typer.Option(help="Organs that are tested, in 2-corrected: upper or lower.")] = "",
) -> None:
    """Print, as JSON, which slices a model that is tested on a fold may be trained on."""
    from latentseg.evaluation.datasets import get_dataset
    from latentseg.evaluation.settings import training_split

    found = training_split(get_dataset(dataset), fold=fold, setting=setting, group=group)
    show_json(asdict(found))
