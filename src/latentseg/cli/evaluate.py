"""`latentseg evaluate`: label maps against the truth, and protocols of the literature on their own data."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from latentseg.cli import shared
from latentseg.cli.output import AsJson, show_json, show_table
from latentseg.cli.progress import Progress
from latentseg.cli.request import search_options
from latentseg.cli.shared import read_choices, split_names
from latentseg.cli.zero_shot import tumor
from latentseg.errors import UsageError

if TYPE_CHECKING:
    from latentseg.evaluation.protocols import FewShotProtocol
    from latentseg.evaluation.rows import Row
    from latentseg.evaluation.slices import SliceMethod
    from latentseg.methods.fewshot.context import SupportMode
    from latentseg.methods.fewshot.segmenter import FewShotSegmenter
    from latentseg.methods.sdfsmis.compat import Compat

METHODS = ("fewshot", "unrefined", "prior", "prior-refined", "prototype", "copy", "registration")
EVERY = ",".join(METHODS)
OF_A_MODEL = {"fewshot", "unrefined", "prior", "prior-refined", "prototype"}
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
app.command()(tumor)

DatasetOption = Annotated[
    str, typer.Option(help="SABS, CHAOS, ACDC, MS-CMRSeg, or a folder in the layout of nnU-Net.")
]
DatasetArgument = Annotated[str, typer.Argument(help="SABS, CHAOS, ACDC or MS-CMRSeg.")]
Folds = Annotated[str, typer.Option(help="Folds of the queries, comma-separated, or 'all'.")]
Protocol = Annotated[
    Literal["EP1", "EP2"],
    typer.Option("--protocol", case_sensitive=False, help="EP1: slices with the organ; EP2: whole volumes."),
]
Shots = Annotated[int, typer.Option(help="Support scans of each query, 1 to 5.", min=1, max=5)]
SupportDataset = Annotated[
    str | None, typer.Option(help="Data set of the support; default: that of the queries.")
]
SupportIndex = Annotated[int, typer.Option(help="Position of the support scan in its fold.")]
SupportSlices = Annotated[
    int | None, typer.Option(help="Slices of each support scan; default: 3 in EP1, 1 in EP2.", min=1)
]
Organs = Annotated[
    str | None, typer.Option(help="Comma-separated; default: those the data set is known for.")
]
Methods = Annotated[
    str, typer.Option(help=f"What to run, of {','.join(METHODS)}: the network, and baselines.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget what the folder holds.")]


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
def fewshot(
    dataset: DatasetOption = "SABS",
    folds: Folds = "0",
    protocol: Protocol = "EP1",
    setting: shared.SettingOption = "1",
    shots: Shots = 1,
    support_dataset: SupportDataset = None,
    support_index: SupportIndex = 2,
    support_slices: SupportSlices = None,
    organs: Organs = None,
    methods: Methods = EVERY,
    queries: shared.Queries = None,
    backbone: shared.BackboneOption = "compact",
    weights: shared.Weights = None,
    support_mode: shared.Mode = "nearest",
    device: shared.DeviceOption = "auto",
    compat: shared.CompatOption = "fixed",
    restart: Restart = False,
    out: shared.EvaluationOut = Path("evaluation"),
) -> None:
    """Few-shot segmentation by the field's protocols, per patient, beside baselines and published rows.

    A run that was stopped goes on where it was when it is called again with the same folder.
    """
    from latentseg.evaluation.datasets import get_dataset
    from latentseg.evaluation.protocols import EP1, EP2
    from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
    from latentseg.methods.results import check_writable

    check_writable(out)
    queried = get_dataset(dataset)
    kind = {"EP1": EP1, "EP2": EP2}[protocol]
    given: dict[str, Any] = {
        "support_index": support_index,
        "support_dataset": get_dataset(support_dataset) if support_dataset else None,
        "organs": split_names(organs) or (),
        "shots": shots,
        "setting": setting,
        **({"support_slices": support_slices} if support_slices else {}),
    }
    runs = [kind(queried, fold=fold, **given) for fold in read_folds(folds, count=len(queried.folds))]
    for run in runs:
        run.check()  # what is missing is said before the work
    chosen = read_choices(methods, METHODS, option="methods")
    segmenter = None
    if OF_A_MODEL & set(chosen):
        segmenter = load(backbone, weights, support_mode=support_mode, device=device, compat=compat)
        runs = [replace(run, whole_range=segmenter.networks.whole_range) for run in runs]
    facts = run_facts(segmenter, support_mode)
    folder = RunFolder(out, facts=facts, restart=restart)
    seen = scans_seen(backbone, weights, runs) if segmenter else {}
    made = make_methods(chosen, segmenter)
    with Progress("evaluate") as progress:
        left = results_left(runs, len(made), queries=queries, finished=len(folder.rows))
        progress(0, left, "reading scans")
        options = RunOptions(queries, seen, partial(say, progress))
        rows = run_all(runs, methods=made, folder=folder, options=options)
    limit = {"queries": f"the first {queries} of each fold: a trial"} if queries else {}
    show_rows(rows, out, about=facts | limit)


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


def load(
    backbone: str,
    weights: Path | None,
    *,
    support_mode: SupportMode = "nearest",
    device: str = "auto",
    compat: Compat = "fixed",
) -> FewShotSegmenter:
    """The segmenter to be evaluated."""
    import latentseg as ls

    options = search_options(support_mode, compat=compat)
    return ls.load(backbone=backbone, weights=weights, options=options, device=device)


def make_methods(chosen: list[str], segmenter: FewShotSegmenter | None) -> list[SliceMethod]:
    """Methods by name, in the order of `METHODS`."""
    from latentseg.evaluation.baselines import MaskCopy, PrototypeMatching
    from latentseg.evaluation.registration import Registration

    made: dict[str, SliceMethod] = {"copy": MaskCopy(), "registration": Registration()}
    if segmenter:
        from latentseg.evaluation.methods import FewShotMethod
        from latentseg.methods.fewshot.segmenter import FewShotSegmenter

        networks, weights = segmenter.networks, segmenter.fingerprint
        made["fewshot"] = FewShotMethod(segmenter)
        made["prototype"] = PrototypeMatching(networks.backbone, fingerprint=weights)
        if segmenter.options.compat == "fixed":
            options = replace(segmenter.options, refinement=None, closer=None)
            bare = FewShotSegmenter(networks, options=options)
            made["unrefined"] = FewShotMethod(bare, name=f"{made['fewshot'].name}, not refined")
            if networks.matching:
                alone, refined = bare.without("network"), segmenter.without("network")
                made["prior"] = FewShotMethod(alone, name="matching prior alone")
                made["prior-refined"] = FewShotMethod(refined, name="matching prior, refined")
    return [made[name] for name in METHODS if name in chosen and name in made]


def scans_seen(backbone: str, weights: Path | None, runs: list[FewShotProtocol]) -> dict[str, set[str]]:
    """Test scans that the weights were trained on; with weights of one's own nobody knows."""
    from latentseg.backbones import registry
    from latentseg.evaluation.training_data import seen_cases, trained_on

    listed = None if weights else trained_on(registry.resolve(backbone))
    if listed is None:
        typer.echo("warning: nothing says which scans these weights were trained on", err=True)
    return {run.dataset.name: seen_cases(listed or [], run.dataset) for run in runs}


def run_facts(segmenter: FewShotSegmenter | None, support_mode: str) -> dict[str, object]:
    """What all rows of a folder share."""
    import latentseg as ls

    fingerprint = segmenter.fingerprint if segmenter else ""
    rules = {"rules": "as released"} if segmenter and segmenter.options.compat == "official" else {}
    if segmenter and segmenter.networks.whole_range:
        rules["intensities"] = "smallest to largest value of a scan"
    return {"version": ls.__version__, "weights": fingerprint, "support_mode": support_mode, **rules}


def results_left(runs: Sequence[FewShotProtocol], methods: int, *, queries: int | None, finished: int) -> int:
    """How many results a run will make, at least 1, if those that are finished are all asked for."""
    asked = sum(len(run.cases()[1][:queries]) * len(run.targets) * methods for run in runs)
    return max(1, asked - finished)


def say(progress: Progress, row: Row) -> None:
    """One line for each result, as it is ready."""
    progress.say(
        f"{row.protocol} {row.patient} {row.organ} {row.method}: Dice {row.dice:.3f}, NSD {row.nsd:.3f}"
    )
    progress.advance(f"{row.patient} {row.organ}")


def show_rows(rows: list[Row], out: Path, *, about: dict[str, object]) -> None:
    """Write the files of a run and print its tables."""
    from latentseg.evaluation.output import write_tables
    from latentseg.evaluation.page import sections
    from latentseg.evaluation.tables import summarize

    write_tables(rows, folder=out, about={"date": datetime.now(UTC).date().isoformat()} | about)
    for section in sections(summarize(rows)):
        typer.echo(f"\n{section.title}")
        show_table(section.header, section.body)
    typer.echo(f"\nwritten to {out}")


def read_folds(text: str, *, count: int) -> list[int]:
    """Fold numbers such as `0,1`, or `all`.

    Raises:
        UsageError: Something that is no number.
    """
    parts = [part.strip() for part in text.split(",")]
    if parts == ["all"]:
        return list(range(count))
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"unknown folds {text!r}", where="--folds", fix="give numbers such as 0,1, or all")
    return list(dict.fromkeys(int(part) for part in parts))
