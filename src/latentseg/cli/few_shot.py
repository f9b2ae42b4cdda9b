"""`latentseg evaluate fewshot`: the few-shot field's protocols on its data sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from latentseg.cli import shared
from latentseg.cli.output import show_table
from latentseg.cli.progress import Progress
from latentseg.cli.request import search_options
from latentseg.cli.shared import read_choices, split_names
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

DatasetOption = Annotated[
    str, typer.Option(help="SABS, CHAOS, ACDC, MS-CMRSeg, or a folder in the layout of nnU-Net.")
]
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


@dataclass(frozen=True)
class FewShotRequest:
    """The options of `evaluate fewshot`, in the order in which ``--help`` lists them."""

    dataset: DatasetOption = "SABS"
    folds: Folds = "0"
    protocol: Protocol = "EP1"
    setting: shared.SettingOption = "1"
    shots: Shots = 1
    support_dataset: SupportDataset = None
    support_index: SupportIndex = 2
    support_slices: SupportSlices = None
    organs: Organs = None
    methods: Methods = EVERY
    queries: shared.Queries = None
    backbone: shared.BackboneOption = "compact"
    weights: shared.Weights = None
    support_mode: shared.Mode = "nearest"
    device: shared.DeviceOption = "auto"
    compat: shared.CompatOption = "fixed"
    restart: Restart = False
    out: shared.EvaluationOut = Path("evaluation")

    def runs(self) -> list[FewShotProtocol]:
        """A run of the protocol for each fold.

        Raises:
            UsageError: A data set or folds that nobody knows, or scans that the protocol lacks.
        """
        from latentseg.evaluation.datasets import get_dataset
        from latentseg.evaluation.protocols import EP1, EP2

        queried = get_dataset(self.dataset)
        given: dict[str, Any] = {
            "support_index": self.support_index,
            "support_dataset": get_dataset(self.support_dataset) if self.support_dataset else None,
            "organs": split_names(self.organs) or (),
            "shots": self.shots,
            "setting": self.setting,
            **({"support_slices": self.support_slices} if self.support_slices else {}),
        }
        kind = {"EP1": EP1, "EP2": EP2}[self.protocol]
        folds = read_folds(self.folds, count=len(queried.folds))
        runs = [kind(queried, fold=fold, **given) for fold in folds]
        for run in runs:
            run.check()  # what is missing is said before the work
        return runs

    def segmenter(self) -> FewShotSegmenter:
        """The segmenter to be evaluated."""
        how: Any = {"support_mode": self.support_mode, "device": self.device, "compat": self.compat}
        return load(self.backbone, self.weights, **how)


@shared.with_options(FewShotRequest)
def fewshot(request: FewShotRequest) -> None:
    """Few-shot segmentation by the field's protocols, per patient, beside baselines and published rows.

    A run that was stopped goes on where it was when it is called again with the same folder.
    """
    from latentseg.evaluation.runs import RunFolder, RunOptions, run_all
    from latentseg.methods.results import check_writable

    check_writable(request.out)
    runs = request.runs()
    chosen = read_choices(request.methods, METHODS, option="methods")
    segmenter = request.segmenter() if OF_A_MODEL & set(chosen) else None
    if segmenter:
        runs = [replace(run, whole_range=segmenter.networks.whole_range) for run in runs]
    facts = run_facts(segmenter, request.support_mode)
    folder = RunFolder(request.out, facts=facts, restart=request.restart)
    seen = scans_seen(request.backbone, request.weights, runs) if segmenter else {}
    made = make_methods(chosen, segmenter)
    queries = request.queries
    with Progress("evaluate") as progress:
        left = results_left(runs, len(made), queries=queries, finished=len(folder.rows))
        progress(0, left, "reading scans")
        options = RunOptions(queries, seen, partial(say, progress))
        rows = run_all(runs, methods=made, folder=folder, options=options)
    limit = {"queries": f"the first {queries} of each fold: a trial"} if queries else {}
    show_rows(rows, request.out, about=facts | limit)


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
